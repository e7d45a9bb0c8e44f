"""Every op against the limit of memory: `make bench-ops`, or `python bench/ops.py [pytest options]`.

op x kind of output x dtype x T x N, on two threads. A row first proves its result against the loop of its definition, on the same input, then times
op and `copy_` of the same x in turn, and tells medians: time, the bytes that must move, GB/s, and the share of what the copy moves in a second. Small
N lies in a cache; there a call costs what Python and dispatch cost.
"""

import functools
import statistics
import sys
import time

import builders
import pytest
import stored
import tables
import torch

STEPS = (1, 4, 32, 256, 1024)
NEURONS = {"small": 1 << 12, "large": 1 << 18}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}
SECONDS = 0.15  # for the rounds of a row
ROWS = []


@pytest.fixture(scope="module", autouse=True)
def told():
    torch.set_num_threads(2)
    yield
    if ROWS:
        stored.append("ops", stored.facts(), ROWS)
        print("\n\nGB/s as a share of what copy_ of the same x moves\n\n" + tables.ops(ROWS) + "\n" + tables.activations(ROWS))


@functools.lru_cache(1)
def currents(T, N, dtype):
    torch.manual_seed(0)
    return (torch.randn(T, N) * 0.6 + 0.3).to(DTYPES[dtype])


def seconds_of(f, times=1):
    began = time.perf_counter()
    for _ in range(times):
        f()
    return (time.perf_counter() - began) / times


@pytest.fixture
def timed(benchmark):
    """timed(what, x, f, bytes): times f in turn with x.copy_ and notes the row."""

    def run(what, x, f, moved):
        target = torch.zeros_like(x)
        copy = lambda: target.copy_(x)  # noqa: E731
        for warm in (f, copy):
            warm()
        one, base = seconds_of(f), seconds_of(copy)
        many, copied = (max(1, int(5e-5 / t)) for t in (one, base))  # calls in a round, where one is over in no time
        rounds = min(21, max(3, int(SECONDS / (one * many + base * copied))))
        copies = []
        benchmark.pedantic(lambda: [f() for _ in range(many)], setup=lambda: copies.append(seconds_of(copy, copied)), rounds=rounds)
        took = [t / many for t in benchmark.stats.stats.data]
        shares = sorted((moved / t) / (2 * x.nbytes / c) for t, c in zip(took, copies[-rounds:]))
        op, base = statistics.median(took), statistics.median(copies[-rounds:])
        row = what | dict(
            us=1e6 * op, copy_us=1e6 * base, bytes=moved, gb_per_s=moved / op / 1e9, copy_gb_per_s=2 * x.nbytes / base / 1e9,
            share=(moved / op) / (2 * x.nbytes / base), p20=shares[rounds // 5], p80=shares[-1 - rounds // 5], rounds=rounds,
        )  # fmt: skip
        benchmark.extra_info.update(row)
        ROWS.append(row)

    return run


LOW = ("fp32", "bf16", "fp16")
WIDE = ("fp32", "fp64")
OPS = {
    **{("iaf", kind): (builders.iaf(kind), tuple(DTYPES)) for kind in ("scaled", "unit", "int8", "bits", "count")},
    ("iaf", "count, constant input"): (builders.constant, tuple(DTYPES)),
    ("iaf", "scaled, masked"): (builders.masked("scaled"), LOW),
    ("iaf", "scaled, SNM"): (builders.snm("scaled"), LOW),
    ("iaf", "scaled, ST-BIF"): (builders.stbif("scaled"), LOW),
    ("quanta", "scaled, m = 8"): (builders.quanta("scaled", False), LOW),
    ("quanta", "scaled, m = 8, negative too"): (builders.quanta("scaled", True), LOW),
    ("iaf", "forward + backward"): (builders.iaf_both, LOW),
    **{("lif", kind): (builders.lif(kind), tuple(DTYPES)) for kind in ("scaled", "unit", "int8", "bits", "count")},
    ("lif", "forward + backward"): (builders.lif_both, LOW),
    ("cos_start", "v0"): (builders.cos, tuple(DTYPES)),
    ("softmax_over_time", "values"): (builders.softmax, WIDE),
    ("layer_norm_over_time", "values"): (builders.layer_norm, WIDE),
    ("spike_conv2d", "20 % not zero"): (builders.conv2d, WIDE),
    ("spike_linear", "20 % not zero"): (builders.linear, WIDE),
}
ACTIVATIONS = {
    (name, kind): builders.activation(name, kind != "forward") for name in ("qcfs", "cs_qcfs") for kind in ("forward", "forward + backward")
}
SWEEP = [1 << n for n in range(8, 23, 2)]  # at T = 32, for the roofline; what is among NEURONS is there already
# By x, which is then made once.
CASES = [
    (op, kind, dtype, T, N) for T in STEPS for N in NEURONS.values() for dtype in DTYPES for (op, kind), (_, dtypes) in OPS.items() if dtype in dtypes
] + [("iaf", kind, "fp32", 32, N) for N in SWEEP if N not in NEURONS.values() for kind in ("scaled", "int8", "bits", "count")]  # fmt: skip


def _row(timed, op, kind, dtype, T, N, make):
    x = currents(T, N, dtype)
    f, moved, right = make(x)
    assert right, "it computes something else, and is not timed"
    timed(dict(op=op, kind=kind, dtype=dtype, T=T, N=N), x, f, moved + x.nbytes)


@pytest.mark.parametrize("op, kind, dtype, T, N", CASES)
def test_over_time(timed, op, kind, dtype, T, N):
    _row(timed, op, kind, dtype, T, N, OPS[op, kind][0])


@pytest.mark.parametrize("op, kind", ACTIVATIONS)
@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("N", [1 << 14, 1 << 22])
def test_activation(timed, op, kind, dtype, N):
    """No T: images [B, 64, 8, 8] of N elements in all."""
    _row(timed, op, kind, dtype, 1, N, ACTIVATIONS[op, kind])


if __name__ == "__main__":
    options = ["-q", "-s", "-p", "no:cacheprovider", "-o", "addopts=", "--benchmark-disable-gc", "--benchmark-quiet"]
    sys.exit(pytest.main([__file__, *options, *sys.argv[1:]]))

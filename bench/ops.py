"""Every op against the limit of memory: `make bench-ops`, or `python bench/ops.py [pytest options]`.

op x kind of output x dtype x T x N, on two threads. A row first proves its result against the loop of its definition, on the same input, then times
op and `copy_` of the same x in turn, and tells medians: time, the bytes that must move, GB/s, and the share of what the copy moves in a second. Small
N lies in a cache; there a call costs what Python and dispatch cost.
"""

import functools
import statistics
import sys
import time

import pytest
import stored
import tables
import torch
from eager import qcfs_eager, trained_loop
from loops import cos_loop, lif_loop, loop

import snnfast

STEPS = (1, 4, 32, 256, 1024)
NEURONS = {"small": 1 << 12, "large": 1 << 18}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}
THETA, CHECKED = 0.75, 2048  # neurons that are checked
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


# ---- the ops: (inputs) -> (f, bytes of results beside x, check)


def wide(x):
    """What the state is computed in."""
    return x if x.dtype == torch.float64 else x.float()


def packed(s):
    """Spikes [T, N] -> bits [T, N/32] int32."""
    words = (s.view(len(s), -1, 32).long() << torch.arange(32)).sum(-1)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).int()


def iaf(kind):
    def make(x):
        T, N = x.shape
        out = {
            "scaled": lambda: torch.zeros_like(x), "int8": lambda: torch.zeros(T, N, dtype=torch.int8),
            "bits": lambda: torch.zeros(T, N // 32, dtype=torch.int32), "count": lambda: torch.zeros(N, dtype=torch.int32),
        }[kind]()  # fmt: skip
        spikes = loop(wide(x[:, :CHECKED]), THETA) / THETA
        expected = {
            "scaled": lambda: (spikes * THETA).to(x.dtype), "int8": lambda: spikes.to(torch.int8), "bits": lambda: packed(spikes),
            "count": lambda: spikes.sum(0).int(),
        }[kind]()  # fmt: skip
        f = lambda: snnfast.iaf(x, THETA, spikes=kind, out=out)[0]  # noqa: E731
        got = f()
        got = got[:CHECKED] if kind == "count" else got[:, : CHECKED // 32] if kind == "bits" else got[:, :CHECKED]
        return f, out.nbytes + 8 * N, torch.equal(got, expected)

    return make


def constant(x):
    T, N = x.shape
    out = torch.zeros(N, dtype=torch.int32)
    f = lambda: snnfast.iaf(x[0], THETA, T=T, spikes="count", out=out)[0]  # noqa: E731
    expected = (loop(wide(x[:1, :CHECKED]).expand(T, -1), THETA) / THETA).sum(0).int()
    return f, out.nbytes + 8 * N + x[0].nbytes - x.nbytes, torch.equal(f()[:CHECKED], expected)


def lif(x):
    out = torch.zeros_like(x)
    f = lambda: snnfast.lif(x, THETA, 2.0, out=out)[0]  # noqa: E731
    return f, out.nbytes + 8 * x.size(1), torch.equal(f()[:, :CHECKED], lif_loop(wide(x[:, :CHECKED]), THETA).to(x.dtype))


def cos(x):
    """The start voltages from all T inputs; proved by the spikes that follow."""
    f = lambda: snnfast.cos_start(x, THETA, unit="normalised")  # noqa: E731
    part = x[:, :CHECKED]
    got = snnfast.iaf(part, THETA, v0=f()[:CHECKED], unit="normalised")[0]
    return f, 4 * x.size(1), torch.equal(got, cos_loop(wide(part), THETA, len(x)).to(x.dtype))


def over_time(op, function):
    def make(x):
        rows = x.view(len(x), -1, 64)
        out = torch.zeros_like(rows)
        zeros = torch.zeros_like(rows[0])
        state = op(rows[:1], out=out[:1])[1]

        def f():
            for t in state:
                t.copy_(zeros)  # which is part of what is timed: 2 of the 2 T + 4 steps that move
            return op(rows, state=state, out=out)[0]

        got, total = f()[:, :32].double(), rows[:, :32].double().cumsum(0)
        expected = torch.diff(function(total), dim=0, prepend=torch.zeros_like(total[:1]))
        # fp64 sums against sums in x's dtype.
        return f, out.nbytes + 4 * zeros.nbytes, torch.allclose(got, expected, atol=1e-4)

    return make


def _layer_norm(x):
    return torch.nn.functional.layer_norm(x, x.shape[-1:])


def both(f, x, *parameters):
    """Forward and backward."""
    leaf, dy = x.detach().clone().requires_grad_(), torch.ones_like(x)
    parameters = [p.clone().requires_grad_() for p in parameters]

    def run():
        leaf.grad = None
        for p in parameters:
            p.grad = None
        y = f(leaf, *parameters)
        y.backward(dy)
        return y.detach(), leaf.grad

    return run


def iaf_both(x):
    run = both(lambda x: snnfast.iaf(x, THETA)[0], x)
    (y, dx), (expected, slope) = run(), both(lambda x: trained_loop(x, THETA), wide(x[:, :256]))()
    near = dict(rtol=2e-2, atol=1e-2 if x.dtype == torch.bfloat16 else 1e-4)  # the order of a gradient's sums is autograd's there
    right = torch.equal(y[:, :256], expected.to(x.dtype)) and torch.allclose(wide(dx[:, :256]), slope, **near)
    return run, 4 * x.nbytes + 16 * x.size(1), right  # s, x again, ds, dx


def activation(name, backward=False):
    op = {"qcfs": lambda x, p: snnfast.qcfs(x, p, 4), "cs_qcfs": lambda x, p: snnfast.cs_qcfs(x, p, 4)}[name]
    eager = {"qcfs": qcfs_eager, "cs_qcfs": lambda x, p: qcfs_eager(x, torch.nn.functional.softplus(p))}[name]

    def make(x):
        image = x.view(-1, 64, 8, 8)
        p = torch.tensor([0.9]) if name == "qcfs" else torch.rand(64, 1, 1)
        f = both(op, image, p) if backward else lambda: op(image, p)
        y = f()[0] if backward else f()
        # The eager form rounds z + (floor(z) - z) once more than the definition does.
        right = torch.allclose(
            wide(y[:4]), eager(wide(image[:4]), p.to(wide(image).dtype)), rtol=0, atol=1e-6 if x.dtype == torch.float32 else 1e-2
        )
        return f, (4 if backward else 1) * x.nbytes, right

    return make


LOW = ("fp32", "bf16", "fp16")
OPS = {
    ("iaf", "scaled"): (iaf("scaled"), (*LOW, "fp64")),
    **{("iaf", kind): (iaf(kind), LOW) for kind in ("int8", "bits", "count")},
    ("iaf", "count, constant input"): (constant, ("fp32",)),
    ("iaf", "forward + backward"): (iaf_both, ("fp32", "bf16")),
    ("lif", "scaled"): (lif, ("fp32", "bf16")),
    ("cos_start", "v0"): (cos, ("fp32",)),
    ("softmax_over_time", "values"): (over_time(snnfast.softmax_over_time, lambda x: x.softmax(-1)), ("fp32",)),
    ("layer_norm_over_time", "values"): (over_time(snnfast.layer_norm_over_time, _layer_norm), ("fp32",)),
}
ACTIVATIONS = {
    (name, kind): activation(name, kind != "forward") for name in ("qcfs", "cs_qcfs") for kind in ("forward", "forward + backward")
}
# By x, which is then made once.
CASES = [
    (op, kind, dtype, T, N) for T in STEPS for N in NEURONS.values() for dtype in DTYPES for (op, kind), (_, dtypes) in OPS.items() if dtype in dtypes
]  # fmt: skip


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

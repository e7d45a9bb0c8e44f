"""Speed of the ops on a GPU as shares of what `copy_` moves per second: `make gpu` runs it, or `python bench/gpu.py`.

Each row first checks its result against the reference on a slice, then is captured in a CUDA graph and replayed (triton.testing), so that it shows
the kernels and not Python; bytes are those that must move. Rows are appended to results/<gpu>.jsonl. `--device cpu` runs the checks of every
row on small tensors, times nothing and writes nothing.
"""

import argparse
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

if "--device=cpu" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported

import torch
from eager import loop, qcfs_eager

import snnfast
from snnfast import backends
from snnfast.ops import iaf as op
from snnfast.ops import qcfs as qop
from snnfast.ops.multistep import EVERY
from snnfast.reference.multistep import allocate

RESULTS = Path(__file__).parent / "results"
QUANTILES = (0.2, 0.5, 0.8)
RULE = tuple(op.rule_of())
BYTES = {torch.float32: 4, torch.float16: 2, torch.bfloat16: 2}
NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
OUTPUT_BYTES = {"int8": 1, "bits": 1 / 8, "count": 0}


def columns(device):
    """The kernels to measure, by provider: (iaf_fwd, iaf_out, iaf_bwd, qcfs_fwd, qcfs_bwd)."""
    found = {}
    if backends.provider == "cuda" and device == "cuda":
        found["cuda"] = (op.iaf_fwd, op.iaf_out, op.iaf_bwd, qop.qcfs_fwd, qop.qcfs_bwd)
    if backends.has_triton:
        from snnfast.triton import kernels as k

        found["triton"] = (k.iaf_fwd, k.iaf_out, k.iaf_bwd, k.qcfs_fwd, k.qcfs_bwd)
    return found


@dataclasses.dataclass
class Row:
    """One thing to time: run() does it, check() proves it right, `bytes` must move for it."""

    name: str
    provider: str
    shape: list
    dtype: torch.dtype
    bytes: float
    goal: float
    run: callable
    check: callable
    graph: bool = True


def make_x(T, N, dtype, device):
    return (torch.randn(T, N, device=device) * 0.6 + 0.3).to(dtype)


def forward(provider, kernels, T, N, dtype, spikes, goal, device, array=False, constant=False, name=None):
    x = make_x(1 if constant else T, N, dtype, device)
    th = torch.rand(N, device=device) + 0.5 if array else torch.full((1,), 0.75, device=device)
    out = allocate(x, T, spikes, False)
    state = torch.empty(N, device=device), torch.empty(N, dtype=torch.int32, device=device)
    neuron = (None, None, None)

    def run():
        kernels[1](x, th, *neuron, out, *state, T, 1, 0.5, spikes, *RULE)

    def check():
        run()
        n = min(N, 4096) // 32 * 32
        s, v, count, _ = op.OPS.reference_fwd(x[:, :n], th if not array else th[:n], *neuron, T, 1, 0.5, spikes, 0, *RULE)
        got = out[:n] if spikes == "count" else out[:, : n // 32] if spikes == "bits" else out[:, :n]
        assert torch.equal(got, s) and torch.equal(state[0][:n], v) and torch.equal(state[1][:n], count)

    size = BYTES[dtype]
    moved = N * ((size if constant else T * size) + T * OUTPUT_BYTES.get(spikes, size) + 8 + (4 if array or spikes == "count" else 0))
    kind = f"iaf {spikes}" + (", theta array" if array else "") + (", constant input" if constant else "")
    return Row(name or kind, provider, [T, N], dtype, moved, goal, run, check)


def forward_backward(provider, kernels, T, N, dtype, goal, device):
    x, dy, th = make_x(T, N, dtype, device), make_x(T, N, dtype, device), torch.full((1,), 0.75, device=device)
    neuron = (None, None, None)

    def run():
        s, v, count, kept = kernels[0](x, th, *neuron, T, 1, 0.5, "scaled", EVERY, *RULE)
        return s, *kernels[2](dy, None, x, th, *neuron, kept, T, 1, 0.5, *RULE)

    def check():
        s, dx, dv, dtheta = run()
        n = min(N, 1024)
        part = x[:, :n].contiguous()
        empty = torch.empty(0, 1, n, device=device)
        expected = op.OPS.reference_bwd(dy[:, :n].contiguous(), None, part, th, *neuron, empty, T, 1, 0.5, *RULE)
        assert torch.equal(dx[:, :n], expected[0]) and torch.equal(dtheta[:n], expected[2])

    # x and s, x, ds and dx; the state every 16 steps written and read; per neuron v_end, count_end, dv, dtheta.
    moved = N * (T * 5 * BYTES[dtype] + 2 * 4 * -(-T // EVERY) + 16)
    return Row("iaf forward + backward, zif", provider, [T, N], dtype, moved, goal, run, check)


def activation(provider, kernels, shape, dtype, goal, device, channelwise):
    B, C, H, W = shape
    x, dy = make_x(1, B * C * H * W, dtype, device)[0], make_x(1, B * C * H * W, dtype, device)[0]
    th, inner = (torch.rand(C, device=device) + 0.5, H * W) if channelwise else (torch.full((1,), 0.75, device=device), 1)

    def run():
        return kernels[3](x, th, inner, 4, "qcfs"), *kernels[4](dy, x, th, inner, 4, "qcfs")

    def check():
        y, dx, dtheta = run()
        assert torch.equal(y, qop._fwd(x, th, inner, 4, "qcfs"))
        expected, total = qop._bwd(dy, x, th, inner, 4, "qcfs")
        # A sum of many terms in another order.
        assert torch.equal(dx, expected) and torch.allclose(dtheta, total, rtol=1e-3, atol=1e-5 * float(dy.abs().sum()))

    name = ("qcfs, theta per channel" if channelwise else "qcfs") + " forward + backward"
    return Row(name, provider, list(shape), dtype, 5 * BYTES[dtype] * x.numel(), goal, run, check)


def compiled(f, how):
    return torch.compile(f, fullgraph=True) if how == "torch.compile" else f


def peer_loop(how, T, N, device):
    """The user's loop over time."""
    x, f = make_x(T, N, torch.float32, device), compiled(loop, how)

    def check():
        assert torch.equal(f(x, 0.75)[:, :1024], snnfast.iaf(x[:, :1024], 0.75)[0])

    return Row(f"loop, {how}", how, [T, N], torch.float32, N * T * 8, None, partial(f, x, 0.75), check, graph=how == "eager")


def peer_qcfs(how, shape, device):
    """The user's activation, forward and backward."""
    leaf, dy, f = torch.randn(shape, device=device).requires_grad_(), torch.randn(shape, device=device), compiled(qcfs_eager, how)
    th = torch.full((1,), 0.75, device=device, requires_grad=True)

    def run():
        leaf.grad = th.grad = None
        f(leaf, th).backward(dy)

    def check():
        # The eager form rounds z + (floor(z) - z) once more than the definition does.
        assert torch.allclose(f(leaf, th)[:1], snnfast.qcfs(leaf[:1], th, 4), rtol=0, atol=1e-6)

    return Row(f"qcfs forward + backward, {how}", how, list(shape), torch.float32, 20 * leaf.numel(), None, run, check, graph=False)


def spikingjelly(name, T, N, dtype, device):
    """A neuron of SpikingJelly 2.0.0 for the same work; 8 bytes per neuron and step in fp32, 4 in fp16."""
    from spikingjelly.activation_based import functional, neuron

    x, v = make_x(T, N, dtype, device), torch.full((N,), 0.375, device=device)
    theta = torch.full((N,), 0.75, device=device)
    node = neuron.ActivationAwareIFNode(theta, 0.375, channel_dim=-1, v_reset=None, step_mode="m").to(device)

    @torch.no_grad()
    def run():
        if name == "if_multi_step":
            return functional.if_multi_step(x, v, 0.75, None)[0]
        node.reset()
        return node(x)

    def check():
        assert torch.equal(run()[:, :1024].float() * 0.75, snnfast.iaf(x[:, :1024].float(), 0.75)[0])

    return Row(f"SpikingJelly {name}", "spikingjelly", [T, N], dtype, 2 * BYTES[dtype] * T * N, None, run, check, graph=False)


def rows(device, small):
    T, N, shape = (16, 2048, (8, 4, 8, 8)) if small else (64, 1 << 20, (256, 64, 64, 64))
    f32, f16, bf16 = torch.float32, torch.float16, torch.bfloat16
    for provider, k in columns(device).items():
        yield partial(forward, provider, k, T, N, f32, "scaled", 0.92, device)
        yield partial(forward, provider, k, T, N, f32, "int8", 0.92, device)
        yield partial(forward, provider, k, T, N, f32, "bits", 0.95, device)
        yield partial(forward, provider, k, T, N, f32, "count", 0.95, device)
        yield partial(forward, provider, k, T, N, f16, "int8", 0.88, device)
        yield partial(forward, provider, k, T, N, bf16, "scaled", None, device)
        yield partial(forward, provider, k, T, N, f32, "scaled", None, device, array=True)
        yield partial(forward, provider, k, T, N, f32, "count", None, device, constant=True)
        yield partial(forward, provider, k, 4, N * 16, f32, "scaled", None, device, name="iaf scaled, few steps")
        yield partial(
            forward, provider, k, 1024, 512 if small else 4096, f32, "scaled", None, device, name="iaf scaled, one image (goal 15 us)"
        )
        yield partial(forward_backward, provider, k, T, N, f32, 0.85, device)
        yield partial(forward_backward, provider, k, T, N, bf16, 0.85, device)
        yield partial(activation, provider, k, shape, f32, 0.85, device, channelwise=False)
        yield partial(activation, provider, k, shape, f32, 0.85, device, channelwise=True)
    if importlib.util.find_spec("spikingjelly"):
        # In fp16 the membrane of ActivationAwareIFNode is fp16 too, which is another result.
        for name, dtype in (("if_multi_step", f32), ("ActivationAwareIFNode", f32), ("if_multi_step", f16)):
            yield partial(spikingjelly, name, T, N, dtype, device)
    else:
        print("| SpikingJelly 2.0.0 | – | not installed here: pip install --no-deps spikingjelly==2.0.0 loguru |")
    for how in () if small else ("eager", "torch.compile"):
        yield partial(peer_loop, how, T, N, device)
        yield partial(peer_qcfs, how, shape, device)


def time_ms(row):
    """p20, p50, p80 of one run."""
    from triton import testing

    if row.graph:
        with torch.cuda.stream(torch.cuda.Stream()):
            return testing.do_bench_cudagraph(row.run, rep=60, quantiles=list(QUANTILES))
    return testing.do_bench(row.run, warmup=40, rep=200, quantiles=list(QUANTILES))


def facts():
    import triton

    driver = subprocess.run(
        ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True
    ).stdout.split()
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=Path(__file__).parent
    ).stdout.strip()
    return dict(
        machine=torch.cuda.get_device_name(), driver=driver[0] if driver else "?", torch=torch.__version__, triton=triton.__version__,
        commit=commit or "?", time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )  # fmt: skip


def measure(seconds):
    """Times every row for at most `seconds`; prints the table, appends the rows to the results."""
    began, about = time.monotonic(), facts()
    x = make_x(64, 1 << 20, torch.float32, "cuda")
    y = torch.empty_like(x)
    copy_ms = time_ms(Row("copy_", "torch", [64, 1 << 20], torch.float32, 0, None, partial(y.copy_, x), None))[1]
    copy = 2 * x.nbytes / copy_ms / 1e6
    del x, y
    name = "".join(c if c.isalnum() else "-" for c in about["machine"]).lower()
    out = Path(os.environ.get("OUT", RESULTS)) / f"{name}.jsonl"
    out.parent.mkdir(exist_ok=True)
    print(f"\n{about['machine']}, torch {about['torch']}, triton {about['triton']}: copy_ moves {copy:.0f} GB/s\n")
    print("| op | by | shape | dtype | us | GB/s | share of copy_ | goal |\n|---|---|---|---|---|---|---|---|")
    failed = 0
    for make in rows("cuda", small=False):
        if time.monotonic() - began > seconds:
            print("(out of time: the rows that follow were not measured)")
            break
        row = make()
        try:
            row.check()
        except AssertionError:
            failed += 1
            print(f"| {row.name} | {row.provider} | {row.shape} | {NAMES[row.dtype]} | WRONG RESULT, not timed | | | |", flush=True)
            continue
        p20, p50, p80 = time_ms(row)
        speed = row.bytes / p50 / 1e6
        goal = "" if row.goal is None else f"{row.goal:.2f}"
        print(
            f"| {row.name} | {row.provider} | {row.shape} | {NAMES[row.dtype]} | {1e3 * p50:.1f} | {speed:.0f} | {speed / copy:.2f} | {goal} |",
            flush=True,
        )
        record = dict(
            about, op=row.name, provider=row.provider, shape=row.shape, dtype=NAMES[row.dtype], p20_ms=p20, p50_ms=p50, p80_ms=p80, bytes=row.bytes,
            gb_per_s=speed, copy_gb_per_s=copy, share_of_copy=speed / copy, goal=row.goal,
        )  # fmt: skip
        with open(out, "a") as f:
            f.write(json.dumps(record) + "\n")
        del row, make
        torch.cuda.empty_cache()
    print(f"\nrows appended to {out}")
    return failed


def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: check every row on small tensors, time nothing")
    p.add_argument("--seconds", type=float, default=150, help="stop measuring after this long (default 150)")
    args = p.parse_args(argv)
    if args.device == "cpu":
        for make in rows("cpu", small=True):
            row = make()
            row.check()
            print(f"{row.name} by {row.provider}: right")
        return 0
    if not torch.cuda.is_available():
        p.error("no CUDA device is visible to torch")
    return 1 if measure(args.seconds) else 0


if __name__ == "__main__":
    raise SystemExit(main())

"""What `gpu.py` times: for each row how its tensors are made, what runs, and what proves it right."""

import dataclasses
import functools
import sys
from pathlib import Path

import gpu_peers
import torch
from gpu_peers import make_x

import snnfast
from snnfast.engines.form import EVERY, SPIKES, allocate
from snnfast.ops import iaf as op
from snnfast.ops import info, plif
from snnfast.ops import qcfs as qop
from snnfast.ops import rows as rop

RULE, SCALED = op.OPS.eq.numbers.pack(op.rule_of()), SPIKES.index("scaled")
BYTES = {torch.float32: 4, torch.float16: 2, torch.bfloat16: 2}
NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.int8: "int8"}
OUTPUT_BYTES = {"int8": 1, "bits": 1 / 8, "count": 0}
F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16


@dataclasses.dataclass
class Row:
    """One thing to time. make() -> (run, check): run() does it on tensors of its own, check() proves it right; `bytes` must move for it."""

    name: str
    provider: str
    shape: tuple
    dtype: torch.dtype
    bytes: float
    goal: float | None
    make: callable
    graph: bool = True
    flops: float | None = None


def kernels_of(provider, stand_in):
    """(iaf_out, iaf_fwd, iaf_bwd, qcfs_fwd, qcfs_bwd, plif_fwd, plif_bwd) of a provider."""
    if provider == "triton":
        from snnfast.engines.triton import launch as k

        learnt = k.multistep_of(plif.equation)
        return k.iaf_out, k.iaf_fwd, k.iaf_bwd, k.qcfs_fwd, k.qcfs_bwd, learnt.fwd, learnt.bwd
    ours = op.iaf_out, op.iaf_fwd, op.iaf_bwd, qop.qcfs_fwd, qop.qcfs_bwd, plif.OPS.fwd, plif.OPS.bwd
    if stand_in:
        sys.path.append(str(Path(__file__).parents[1] / "tests"))
        from on_host import host_kernels

        return tuple(map(host_kernels(), ours))
    if snnfast.engines.backends.provider != "cuda":
        raise SystemExit(f"gpu.py: CUDA tensors are served by {info.info()['cuda']}")
    return ours


def forward(by, kernels, device, T, N, dtype, spikes, goal=None, array=False, constant=False, name=None, off=0):
    """off: a state that does not lie on words of 16 bytes, for which other kernels are taken."""

    def make():
        x = make_x(1 if constant else T, N, dtype, device)
        th = torch.rand(N, device=device) + 0.5 if array else torch.full((1,), 0.75, device=device)
        out = allocate(x, T, spikes, False)
        state = torch.empty(N + off, device=device)[off:], torch.empty(N, dtype=torch.int32, device=device)
        neuron = (None, None, None)

        def run():
            kernels[0](x, th, *neuron, out, *state, T, 1, 0.5, SPIKES.index(spikes), RULE)

        def check():
            run()
            n = min(N, 4096) // 32 * 32
            s, v, count, _ = op.OPS.reference_fwd(x[:, :n], th if not array else th[:n], *neuron, T, 1, 0.5, SPIKES.index(spikes), 0, RULE)
            got = out[:n] if spikes == "count" else out[:, : n // 32] if spikes == "bits" else out[:, :n]
            return torch.equal(got, s) and torch.equal(state[0][:n], v) and torch.equal(state[1][:n], count)

        return run, check

    size = BYTES[dtype]
    moved = N * ((size if constant else T * size) + T * OUTPUT_BYTES.get(spikes, size) + 8 + (4 if array or spikes == "count" else 0))
    kind = f"iaf {spikes}" + (", theta array" if array else "") + (", constant input" if constant else "")
    return Row(name or kind, by, (T, N), dtype, moved, goal, make)


def forward_backward(by, kernels, device, T, N, dtype, goal, surrogate="zif", learnt=False):
    """learnt: of the neuron whose leak is learnt, 1/tau = 0.3."""
    ops, (fwd, bwd) = (plif.OPS, kernels[5:7]) if learnt else (op.OPS, kernels[1:3])
    rule = ops.eq.numbers.pack(op.rule_of(surrogate=surrogate))

    def make():
        x, dy = make_x(T, N, dtype, device), make_x(T, N, dtype, device)
        th = torch.tensor([[0.75], [0.3]], device=device) if learnt else torch.full((1,), 0.75, device=device)
        neuron = (None, None, None)

        def run():
            s, v, count, kept = fwd(x, th, *neuron, T, 1, 0.5, SCALED, EVERY, rule)
            return s, *bwd(dy, None, x, th, *neuron, kept, T, 1, 0.5, rule)

        def check():
            s, dx, dv, dtheta = run()
            n = min(N, 1024)
            part, empty = x[:, :n].contiguous(), torch.empty(0, 1, n, device=device)
            expected = ops.reference_bwd(dy[:, :n].contiguous(), None, part, th, *neuron, empty, T, 1, 0.5, rule)
            if surrogate == "sigmoid":  # its exp is the device's own
                return torch.allclose(dx[:, :n], expected[0], rtol=1e-4, atol=1e-6)
            return torch.equal(dx[:, :n], expected[0]) and torch.equal(dtheta[..., :n], expected[2])

        return run, check

    # x and s, x, ds and dx; the state every 16 steps written and read; per neuron v_end, count_end, dv, dtheta.
    moved = N * (T * 5 * BYTES[dtype] + 2 * 4 * -(-T // EVERY) + 16 + 4 * learnt)
    return Row(f"{'plif' if learnt else 'iaf'} forward + backward, {surrogate}", by, (T, N), dtype, moved, goal, make)


def activation(by, kernels, device, shape, dtype, goal, channelwise=False):
    B, C, H, W = shape

    def make():
        x, dy = make_x(1, B * C * H * W, dtype, device)[0], make_x(1, B * C * H * W, dtype, device)[0]
        th, inner = (torch.rand(C, device=device) + 0.5, H * W) if channelwise else (torch.full((1,), 0.75, device=device), 1)

        def run():
            return kernels[3](x, th, inner, [4.0, 0.0]), *kernels[4](dy, x, th, inner, [4.0, 0.0])

        def check():
            y, dx, dtheta = run()
            expected, total = qop._bwd(dy, x, th, inner, [4.0, 0.0])
            # A sum of many terms in another order.
            near = torch.allclose(dtheta, total, rtol=1e-3, atol=1e-5 * float(dy.abs().sum()))
            return torch.equal(y, qop._fwd(x, th, inner, [4.0, 0.0])) and torch.equal(dx, expected) and near

        return run, check

    name = ("qcfs, theta per channel" if channelwise else "qcfs") + " forward + backward"
    return Row(name, by, shape, dtype, 5 * BYTES[dtype] * B * C * H * W, goal, make)


def rows_over_time(by, device, T, R, C):
    """The softmax of rows over time, as attention has it; a row's state is read and written once."""

    def make():
        x, out = torch.randn(T, R, C, device=device), torch.empty(T, R, C, device=device)
        total, last = torch.zeros(R, C, device=device), torch.zeros(R, C, device=device)

        def run():
            softmax(x, total, last, out)

        def check():
            # exp is the definition's own, not torch's
            total.zero_(), last.zero_(), run()
            sums = x[:, :64].double().cumsum(0).softmax(-1)
            return torch.allclose(out[:, :64].double(), sums.diff(dim=0, prepend=torch.zeros_like(sums[:1])), rtol=0, atol=1e-5)

        return run, check

    if by == "triton":
        from snnfast.engines.triton import launch

        softmax = launch.softmax_out
    else:
        softmax = rop.softmax_out
    return Row("softmax over time", by, (T, R, C), F32, 4 * R * C * (2 * T + 4), None, make)


def copies(device, T, N):
    """Three kinds: the driver's copy, a kernel that reads one tensor and writes another, one that reads two and writes one."""
    kinds = {"copy_": 2, "neg": 2, "add": 3}

    def make(kind):
        x, y, z = (torch.randn(T, N, device=device) for _ in range(3))
        run = {"copy_": lambda: y.copy_(x), "neg": lambda: torch.neg(x, out=y), "add": lambda: torch.add(x, z, out=y)}[kind]
        expected = {"copy_": lambda: x, "neg": lambda: -x, "add": lambda: x + z}[kind]
        return run, lambda: torch.equal(run(), expected())

    return [Row(kind, "torch", (T, N), F32, many * 4 * T * N, None, functools.partial(make, kind)) for kind, many in kinds.items()]


def rows(by, device, stand_in):
    """All rows of one --by, those first that a run cut short should have."""
    T, N, shape = (3, 64, (2, 4, 4, 4)) if stand_in else (64, 1 << 20, (256, 64, 64, 64))
    if by == "copies":
        return copies(device, 64, N // 16) + copies(device, T, N)  # 17 MB, which lie in L2 when warm; 268 MB
    if by == "products":
        return gpu_peers.products(Row, device, stand_in)
    if by == "peers":
        return gpu_peers.rows(Row, device, T, N, shape, stand_in)
    k = kernels_of("cuda" if by == "four" else by, stand_in)
    fwd = functools.partial(forward, by, k, device)
    both = functools.partial(forward_backward, by, k, device)
    image = fwd(*((20, 8) if stand_in else (1024, 4096)), F32, "scaled", name="iaf scaled, one image (goal 15 us)")
    one = activation(by, k, device, shape, F32, 0.85)
    softmax = ((3, 8, 33), (3, 8, 33)) if stand_in else ((32, 1 << 16, 64), (32, 1 << 14, 197))
    # Few neurons and many steps; "one by one" is the kernel with a thread to each, which takes what does not lie on words.
    most, sizes = (70, [64]) if stand_in else (1024, [512, 4096, 8192, 16384, 32768])
    few = [
        fwd(most, n, F32, spikes, name=f"iaf {spikes}, T = {most}, {n} neurons{', one by one' * off}", off=off)
        for n, spikes in [(n, "scaled") for n in sizes] + [(4096, "int8")] * (not stand_in)
        for off in (0, 1)
    ]
    if by == "four":
        trained = both(T, N, F32, None, "atan")
        return [fwd(T, N, F32, "scaled"), both(T, N, F32, None), one, image, trained, rows_over_time(by, device, *softmax[1])]
    return [
        fwd(T, N, F32, "scaled", 0.92), both(T, N, F32, 0.85), one, image, fwd(T, N, F32, "int8", 0.92), fwd(T, N, F32, "bits", 0.95),
        fwd(T, N, F32, "count", 0.95), fwd(T, N, F16, "int8", 0.88), fwd(T, N, BF16, "scaled"), both(T, N, BF16, 0.85),
        activation(by, k, device, shape, F32, 0.85, channelwise=True), fwd(4, N * 16, F32, "scaled", name="iaf scaled, few steps"),
        fwd(T, N, F32, "scaled", array=True), fwd(T, N, F32, "count", constant=True),
        fwd(T, 128 if stand_in else 100_352, F32, "scaled", name="iaf scaled, 100,352 neurons"),
        both(T, N, F32, 0.85, "atan"), both(T, N, F32, None, "sigmoid"), both(T, N, F32, None, "atan", learnt=True),
        *(rows_over_time(by, device, *size) for size in softmax), *few,
    ]  # fmt: skip

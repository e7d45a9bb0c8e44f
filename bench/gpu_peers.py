"""GPU rows of what people use now for the same work; `row` is gpu_rows.Row.

products   a convolution over spikes and the neuron behind it, by what torch has for it; a fused kernel would replace both. K = 9 C is the length
           of the sums. The input is [T * B, C, H, W] of zeros and ones, 20 % ones, channels last but for `fp32 NCHW`; `int8` is im2col and
           torch._int_mm, whose sums are exact; `exact` is `snnfast.spike_conv2d`, fp32 in a fixed order
between    what stands between two products of a network in training: batch norm, LIF and max pooling (2 x 2), forward and backward:
           `norm_neuron` and `max_pool2d`, and the same with torch's batch norm and pooling and our neuron alone. Bytes are those that ours move
peers      the users' loop and activation, eager and compiled, and SpikingJelly's neurons
"""

import functools
import importlib.util

import torch
from others import loop, qcfs_eager
from torch.nn import functional as F

import snnfast
from snnfast.ops.conv import relaid

F32 = torch.float32


def make_x(T, N, dtype, device):
    return (torch.randn(T, N, device=device) * 0.6 + 0.3).to(dtype)


# ---- products over spikes

STEPS, B = 32, 16
SHAPES = (128, 16), (512, 4)  # channels in and out, size of the image
FORMATS = {
    "fp32": torch.float32,
    "fp32 NCHW": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "int8": torch.int8,
    "exact": torch.float32,
}
# || y - y64 || / || y64 ||: as many bits as the factors keep.
NEAR = {"fp32": 1e-5, "fp32 NCHW": 1e-5, "tf32": 2e-3, "bf16": 1e-2, "fp16": 2e-3, "int8": 1e-6, "exact": 1e-5}


def conv(x, w, name):
    """x [R, C, H, W], w [O, C, 3, 3] -> [R, O, H, W], all in one order of memory."""
    if name == "exact":
        return snnfast.spike_conv2d(x, w, None, 1, 1)
    if name != "int8":
        precision = "tf32" if name == "tf32" else "ieee"
        torch.backends.cudnn.conv.fp32_precision = precision
        return F.conv2d(x, w, None, 1, 1)
    R, C, H, W = x.shape
    # [R, H + 2, W + 2, C] -> windows [R, H, W, 3, 3, C] -> [R H W, 9 C]
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    a, b, c, _ = padded.stride()
    windows = padded.as_strided((R, H, W, 3, 3, C), (a, b, c, b, c, 1)).reshape(R * H * W, 9 * C)
    columns = w.permute(2, 3, 1, 0).reshape(9 * C, -1)
    return torch._int_mm(windows, columns).reshape(R, H, W, -1).permute(0, 3, 1, 2)


def made(name, C, size, neuron, rows, device):
    dtype, order = FORMATS[name], torch.contiguous_format if name.endswith("NCHW") else torch.channels_last
    x = (torch.rand(rows, C, size, size, device=device) < 0.2).to(dtype).to(memory_format=order)
    w = torch.randn(C, C, 3, 3, device=device) * 0.05
    w = ((w * 500).round().clamp(-127, 127) if name == "int8" else w).to(dtype).to(memory_format=order)
    w = relaid(w) if name == "exact" else w
    theta = torch.full((1,), 200.0 if name == "int8" else 0.4, device=device)
    steps = min(STEPS, rows)

    def run():
        y = conv(x, w, name)
        if not neuron:
            return y
        # One row a step, in the order of memory.
        currents = (y if order is torch.contiguous_format else y.permute(0, 2, 3, 1)).reshape(steps, -1)
        return snnfast.iaf(currents.float() if name == "int8" else currents, theta, spikes="int8")[0]

    def check():
        part = slice(0, 2)
        expected = F.conv2d(x[part].double(), w.double(), None, 1, 1)
        return (conv(x, w, name)[part].double() - expected).norm() <= NEAR[name] * expected.norm() and bool(run().any())

    return run, check


def products(row, device, stand_in):
    """The rows, of gpu_rows.Row."""
    found = []
    for C, size in ((8, 4),) if stand_in else SHAPES:
        many = 4 if stand_in else STEPS * B
        for name, dtype in FORMATS.items():
            for neuron in (False, True):
                moved = many * C * size * size * (2 * dtype.itemsize + (1 if neuron else 0)) + 9 * C * C * dtype.itemsize
                make = functools.partial(made, name, C, size, neuron, many, device)
                what = f"conv {name}, K = {9 * C}" + (" + iaf" if neuron else "")
                found.append(row(what, "torch", (many, C, size, size), dtype, moved, None, make, flops=2 * 9 * C * C * many * size * size))
    return found


# ---- between two products

HOW = dict(tau=2.0, reset="hard", surrogate="atan", detach_reset=True)


def fused(x, weight, bias, *running):
    s, _ = snnfast.norm_neuron(x, weight, bias, *running, training=True, **HOW)
    return snnfast.max_pool2d(s, 2)


def unfused(x, weight, bias, *running):
    y = F.batch_norm(x.flatten(0, 1), *(running or (None, None)), weight.to(x.dtype), bias.to(x.dtype), True).view(x.shape)
    s, _ = snnfast.lif(y, 1.0, **HOW)
    return F.max_pool2d(s.flatten(0, 1), 2).unflatten(0, x.shape[:2])


def between(row, device, stand_in):
    """The rows, of gpu_rows.Row."""
    found = []
    for T in (4, 32):
        shape = (T, 2, 4, 4, 4) if stand_in else (T, 2048 // T, 64, 32, 32)
        for dtype in (torch.float32, torch.bfloat16):
            for forward in (fused, unfused):
                # Statistics read x; the neuron reads x, writes s; the pooling reads s, writes a quarter and its byte. Backward: the pooling reads
                # those, writes ds; the neuron reads x and ds, writes dx; the line reads x and dx, writes dx. Per neuron four numbers of 4 bytes.
                size, many = dtype.itemsize, torch.Size(shape).numel()
                moved = many * (size * (1 + 2 + 1.25 + 1.25 + 3 + 3) + 0.5) + many // T * 16
                made = between_products(forward, shape, dtype, device)
                found.append(
                    row(f"batch norm, LIF, pooling: {forward.__name__}, T = {T}", "torch", shape, dtype, moved, None, made, graph=False)
                )
    return found


def between_products(forward, shape, dtype, device):
    def made():
        x = torch.randn(shape, device=device).to(dtype).requires_grad_()
        weight, bias = (torch.full((shape[2],), v, device=device, requires_grad=True) for v in (1.0, 0.1))
        g = torch.randn((*shape[:3], shape[3] // 2, shape[4] // 2), device=device).to(dtype)

        def run():
            return torch.autograd.grad(forward(x, weight, bias), (x, weight, bias), g)

        def check():
            with torch.no_grad():
                s, expected = forward(x, weight, bias), unfused(x.float(), weight, bias)
            # Spikes of currents that lie within a rounding of the threshold, and of what they change.
            return (s.float() != expected).float().mean() < (1e-3 if dtype == torch.float32 else 0.05) and bool(run()[0].any())

        return run, check

    return made


# ---- peers


def peer_loop(row, how, device, T, N):
    """The user's loop over time."""

    def make(
        row,
    ):
        x, f = make_x(T, N, F32, device), torch.compile(loop, fullgraph=True) if how == "torch.compile" else loop
        return functools.partial(f, x, 0.75), lambda: torch.equal(f(x, 0.75)[:, :1024], snnfast.iaf(x[:, :1024], 0.75)[0])

    return row("loop over time", how, (T, N), F32, N * T * 8, None, make, graph=how == "eager")


def peer_qcfs(row, how, device, shape):
    """The user's activation, forward and backward."""

    def make(
        row,
    ):
        leaf, dy = torch.randn(shape, device=device).requires_grad_(), torch.randn(shape, device=device)
        f = torch.compile(qcfs_eager, fullgraph=True) if how == "torch.compile" else qcfs_eager
        th = torch.full((1,), 0.75, device=device, requires_grad=True)

        def run(
            row,
        ):
            leaf.grad = th.grad = None
            f(leaf, th).backward(dy)

        # The eager form rounds z + (floor(z) - z) once more than the definition does.
        return run, lambda: torch.allclose(f(leaf, th)[:1], snnfast.qcfs(leaf[:1], th, 4), rtol=0, atol=1e-6)

    B, C, H, W = shape
    return row("qcfs forward + backward", how, shape, F32, 20 * B * C * H * W, None, make, graph=False)


def spikingjelly(row, name, device, T, N, dtype):
    """A neuron of SpikingJelly 2.0.0 for the same work."""

    def make(
        row,
    ):
        from spikingjelly.activation_based import functional, neuron

        x, v = make_x(T, N, dtype, device), torch.full((N,), 0.375, device=device)
        theta = torch.full((N,), 0.75, device=device)
        node = neuron.ActivationAwareIFNode(theta, 0.375, channel_dim=-1, v_reset=None, step_mode="m").to(device)

        @torch.no_grad()
        def run(
            row,
        ):
            if name == "if_multi_step":
                return functional.if_multi_step(x, v, 0.75, None)[0]
            node.reset()
            return node(x)

        return run, lambda: torch.equal(run()[:, :1024].float() * 0.75, snnfast.iaf(x[:, :1024].float(), 0.75)[0])

    return row(f"SpikingJelly {name}", "spikingjelly", (T, N), dtype, 2 * dtype.itemsize * T * N, None, make, graph=False)


def jelly_trained(row, name, device, T, N):
    """A neuron of SpikingJelly 2.0.0 forward and backward, as it is trained there."""

    def make(
        row,
    ):
        from spikingjelly.activation_based import neuron, surrogate

        node = getattr(neuron, name)(v_threshold=0.75, v_reset=None, surrogate_function=surrogate.ATan(), step_mode="m").to(device)
        leaf, dy = make_x(T, N, F32, device).requires_grad_(), make_x(T, N, F32, device)

        def run(
            row,
        ):
            leaf.grad = None
            node.reset()
            node(leaf).backward(dy)

        def check(
            row,
        ):
            node.reset()
            ours = snnfast.iaf if name == "IFNode" else functools.partial(snnfast.lif, tau=2.0)
            return torch.equal(node(leaf)[:, :1024], ours(leaf.detach()[:, :1024], 0.75, v0=0.0, spikes="unit")[0])

        return run, check

    return row(f"SpikingJelly {name} forward + backward", "spikingjelly", (T, N), F32, 20 * T * N, None, make, graph=False)


def rows(row, device, T, N, shape, stand_in):
    """All rows of `gpu.py --by peers`."""
    found = between(row, device, stand_in)
    found += [peer_loop(row, how, device, T, N) for how in ("eager", "torch.compile")]
    found += [peer_qcfs(row, how, device, shape) for how in ("eager", "torch.compile")]
    if not importlib.util.find_spec("spikingjelly"):
        print("SpikingJelly is not installed here: its rows are left out", flush=True)
        return found
    # In fp16 the membrane of ActivationAwareIFNode is fp16 too, which is another result.
    jelly = ("if_multi_step", F32), ("ActivationAwareIFNode", F32), ("if_multi_step", torch.float16)
    found += [spikingjelly(row, name, device, T, N, dtype) for name, dtype in jelly]
    return found + [jelly_trained(row, name, device, T, N) for name in ("IFNode", "LIFNode", "ParametricLIFNode")]

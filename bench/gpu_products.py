"""Rows of `gpu.py --by products`: a convolution over spikes and the neuron behind it, by what torch has for it. A fused kernel would replace both.

K = 9 C is the length of the sums. The input is [T * B, C, H, W] of zeros and ones, 20 % ones, channels last but for `fp32 NCHW`; `int8` is im2col
and torch._int_mm, whose sums are exact; `exact` is `snnfast.spike_conv2d`, fp32 in a fixed order.
"""

import functools

import torch
from torch.nn import functional as F

import snnfast
from snnfast.ops.conv import relaid

T, B = 32, 16
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
    steps = min(T, rows)

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


def rows(row, device, stand_in):
    """The rows, of gpu_rows.Row."""
    found = []
    for C, size in ((8, 4),) if stand_in else SHAPES:
        many = 4 if stand_in else T * B
        for name, dtype in FORMATS.items():
            for neuron in (False, True):
                moved = many * C * size * size * (2 * dtype.itemsize + (1 if neuron else 0)) + 9 * C * C * dtype.itemsize
                make = functools.partial(made, name, C, size, neuron, many, device)
                what = f"conv {name}, K = {9 * C}" + (" + iaf" if neuron else "")
                found.append(row(what, "torch", (many, C, size, size), dtype, moved, None, make, flops=2 * 9 * C * C * many * size * size))
    return found

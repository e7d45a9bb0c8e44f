"""GPU rows of what stands between two products of a network in training: batch norm, LIF and max pooling (2 x 2), forward and backward.

`norm_neuron` and `max_pool2d`, and the same with torch's batch norm and pooling and our neuron alone. Bytes are those that ours move.
"""

import torch
from torch.nn import functional as F

import snnfast

HOW = dict(tau=2.0, reset="hard", surrogate="atan", detach_reset=True)


def fused(x, weight, bias, *running):
    s, _ = snnfast.norm_neuron(x, weight, bias, *running, training=True, **HOW)
    return snnfast.max_pool2d(s, 2)


def unfused(x, weight, bias, *running):
    y = F.batch_norm(x.flatten(0, 1), *(running or (None, None)), weight.to(x.dtype), bias.to(x.dtype), True).view(x.shape)
    s, _ = snnfast.lif(y, 1.0, **HOW)
    return F.max_pool2d(s.flatten(0, 1), 2).unflatten(0, x.shape[:2])


def rows(row, device, stand_in):
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
                made = make(forward, shape, dtype, device)
                found.append(
                    row(f"batch norm, LIF, pooling: {forward.__name__}, T = {T}", "torch", shape, dtype, moved, None, made, graph=False)
                )
    return found


def make(forward, shape, dtype, device):
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

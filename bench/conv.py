"""Convolutions over spikes against the library's dense ones, by the share of the inputs that are not zero.

`python bench/conv.py [--rounds R] [--device D]`: the shapes of VGG-16's and ResNet-18's layers on 32x32 images, as many rows as a chunk of time
has, two threads. Each row is checked, then timed in turn with torch's own product (weights in the layout that is fastest for it); ratios of medians,
above 1 is faster.
"""

import argparse
import statistics
import time
from pathlib import Path

import stored
import torch
from torch.nn import functional as F

import snnfast
from snnfast.ops.conv import relaid

# rows, channels, size of the image, output channels, stride, kernel
SHAPES = [
    (32, 64, 32, 64, 1, 3), (64, 128, 16, 128, 1, 3), (64, 256, 8, 256, 1, 3), (64, 512, 4, 512, 1, 3), (64, 512, 2, 512, 1, 3),
    (32, 64, 32, 128, 2, 3), (32, 64, 32, 128, 2, 1), (64, 4096, 1, 4096, 1, 1),
]  # fmt: skip
DENSITIES = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0)


def ways(shape, density, device):
    """(torch's, ours): functions of nothing on the same input."""
    rows, C, size, many, stride, kernel = shape
    x = (torch.rand(rows, C, size, size, device=device) < density).float().to(memory_format=torch.channels_last)
    w, bias = torch.randn(many, C, kernel, kernel, device=device) * 0.05, torch.randn(many, device=device)
    if size == 1:
        x, w = x.flatten(1).contiguous(), w.flatten(1)
        mine, out = relaid(w), torch.empty(rows, many, device=device)
        return (lambda: F.linear(x, w, bias)), (lambda: snnfast.spike_linear(x, mine, bias, out=out))
    theirs, mine = w.to(memory_format=torch.channels_last), relaid(w)
    out = torch.empty_like(F.conv2d(x, w, bias, stride, kernel // 2), memory_format=torch.channels_last)
    return (lambda: F.conv2d(x, theirs, bias, stride, kernel // 2)), (
        lambda: snnfast.spike_conv2d(x, mine, bias, stride, kernel // 2, out=out)
    )


def measured(shape, density, rounds, device):
    both = ways(shape, density, device)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    expected, got = (f() for f in both)
    # Up to 4608 terms of at most 0.2 in another order.
    assert torch.allclose(got, expected, rtol=0, atol=1e-3), "computes something else"
    took = [[], []]
    for _ in range(rounds):
        for f, times in zip(both, took):
            wait()
            began = time.perf_counter()
            f()
            wait()
            times.append(1e3 * (time.perf_counter() - began))
    theirs, ours = (statistics.median(t) for t in took)
    return dict(shape=shape, density=density, rounds=rounds, torch_ms=theirs, ms=ours, ratio=theirs / ours)


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--rounds", type=stored.positive, default=9)
    p.add_argument("--shapes", type=stored.positive, default=len(SHAPES), help="only the first ones")
    p.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    p.add_argument("--results", type=Path, default=stored.RESULTS)
    args = p.parse_args()
    torch.set_num_threads(2)
    torch.backends.cudnn.conv.fp32_precision = torch.backends.cuda.matmul.fp32_precision = "ieee"
    facts = stored.facts(args.device)
    print("| rows, channels, size, outputs, stride, kernel | " + " | ".join(f"{100 * d:.0f} %" for d in DENSITIES) + " |")
    print("|---" * (len(DENSITIES) + 1) + "|")
    for shape in SHAPES[: args.shapes]:
        rows = [measured(shape, d, args.rounds, args.device) for d in DENSITIES]
        stored.append("conv", facts, rows, args.results)
        print(f"| {', '.join(map(str, shape))} | " + " | ".join(f"{r['ratio']:.2f}" for r in rows) + " |", flush=True)


if __name__ == "__main__":
    main()

"""How the cost grows: with T, N, batch and threads; what the first result costs; what memory a run takes.

`make bench-scaling`, or `python bench/scaling.py [--quick]`. Each curve is a row per point and a row with its slope in log-log over the upper half of
its points: 1 is a cost in proportion, 0 one that does not grow. Runs of networks are processes of their own, whose peak is the system's.
"""

import argparse
import json
import math
import os
import statistics
import time
from pathlib import Path

import stored
import tables
import torch
from runners import trained_looking

import snnfast
from snnfast.system import memory

ARCH, WIDTH, BATCH = "resnet18", 0.25, 4
COLD = {**os.environ, "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}  # what is compiled is compiled here


def median_seconds(f, rounds=5, least=2e-4):
    """Of one call; short ones are repeated within a round."""
    f()
    began = time.perf_counter()
    f()
    many = max(1, int(least / (time.perf_counter() - began)))
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(many):
            f()
        took.append((time.perf_counter() - began) / many)
    return statistics.median(took)


def slope(points):
    """Of log y over log x by least squares, over the upper half of the points."""
    points = sorted(points)[-max(2, (len(points) + 1) // 2) :]
    x, y = ([math.log(value) for value in column] for column in zip(*points))
    mean = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean[0]) * (b - mean[1]) for a, b in zip(x, y)) / sum((a - mean[0]) ** 2 for a in x)


# ---- curves of the op: (what, along, points)


def op_curve(along, values, T, N):
    """iaf -> scaled into a given tensor, along T, N or threads."""
    for value in values:
        t, n = (value if along == "T" else T), (value if along == "N" else N)
        torch.set_num_threads(value if along == "threads" else 2)
        x = torch.randn(t, n) * 0.6 + 0.3
        out = torch.zeros_like(x)
        seconds = median_seconds(lambda x=x, out=out: snnfast.iaf(x, 0.75, out=out))
        yield dict(curve="iaf", along=along, at=value, T=t, N=n, seconds=seconds)
    torch.set_num_threads(2)


# ---- curves of a network, each point in a process of its own


def network_curve(along, values, T, B):
    for value in values:
        t, b = (value if along == "T" else T), (value if along == "batch" else B)
        threads = value if along == "threads" else 2
        found = stored.child(__file__, point="run", T=t, batch=b, threads=threads)
        yield dict(curve="network", along=along, at=value, arch=ARCH, width=WIDTH, T=t, batch=b, threads=threads) | found


def first_results():
    """Seconds from the start of a process to its first result, everything included."""
    for what in ("import torch", "snnfast", "network", "torch.compile"):
        began = time.perf_counter()
        found = stored.child(__file__, environment=COLD, point="first", what=what, T=32)
        seconds = time.perf_counter() - began
        yield dict(curve="first result", along="what", at=what, seconds=seconds) | found


def compile_curve(values):
    """Seconds from the start of a process to the first result of the compiled loop of T steps, which the compiler unrolls."""
    for T in values:
        began = time.perf_counter()
        found = stored.child(__file__, environment=COLD, point="first", what="torch.compile", T=T)
        yield dict(curve="compiled loop, first result", along="T", at=T, seconds=time.perf_counter() - began) | found


@torch.no_grad()
def point(args):
    """In a process of its own."""
    torch.set_num_threads(args.threads)
    if args.point == "run":
        net, x = trained_looking(ARCH, WIDTH), torch.randn(args.batch, 3, 32, 32)
        snn = snnfast.convert(net)
        snn.logits(x, 2, [2])
        memory.restart_peak("cpu")
        before, began = memory.used("cpu"), time.perf_counter()
        snn.logits(x, args.T, [args.T])
        seconds, peak = time.perf_counter() - began, memory.peak("cpu")
        return print(json.dumps(dict(seconds=seconds, peak=peak, rise=max(0, peak - before))))
    if args.what == "snnfast":
        snnfast.iaf(torch.randn(32, 4096), 0.75)
    elif args.what == "network":
        snnfast.convert(snnfast.models.resnet18(width=WIDTH, activation="qcfs").eval()).logits(torch.randn(BATCH, 3, 32, 32), 32, [32])
    elif args.what == "torch.compile":
        from others import loop

        torch.compile(loop)(torch.randn(args.T, 4096), 0.75)
    print("{}")


def curves(quick):
    many = [1, 4, 16, 64, 256] if quick else [1, 4, 16, 64, 256, 1024, 4096]
    yield op_curve("T", many, 64, 1 << 14)
    yield op_curve("N", [1 << n for n in range(8, 17 if quick else 23, 2)], 64, 1 << 14)
    yield op_curve("threads", [1, 2], 64, 1 << 18)
    yield network_curve("T", many, 64, BATCH)
    yield network_curve("batch", [1, 2] if quick else [1, 2, 4, 8, 16], 32, BATCH)
    yield network_curve("threads", [1, 2], 32, BATCH)
    yield first_results()
    yield compile_curve([4, 32] if quick else [4, 16, 64, 256])


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--quick", action="store_true", help="the first points of each curve")
    p.add_argument("--results", type=Path, default=stored.RESULTS)
    for name, kind, usual in (("T", int, 1), ("batch", int, 1), ("threads", int, 2), ("point", str, None), ("what", str, None)):
        p.add_argument(f"--{name}", type=kind, default=usual, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.point:
        return point(args)
    torch.set_num_threads(2)
    facts = stored.facts()
    print(tables.table(tables.CURVES, []), end="")
    for curve in curves(args.quick):
        rows = list(curve)
        good = [row for row in rows if "failed" not in row]
        if rows[0]["along"] != "what" and len(good) > 1:
            steep = slope([(row["at"], row["seconds"]) for row in good])
            rows = [row | dict(slope=steep) for row in rows]
        stored.append("scaling", facts, rows, args.results)
        print(tables.line(tables.curve(rows)), end="", flush=True)


if __name__ == "__main__":
    main()

"""Whole networks at large T: images/s, image-steps/s and peak memory of four ways to run them (`ways.py`).

`make bench-models`, or `python bench/models.py [--arch A ...] [--T T ...] [--batch B] [--rounds R]`. Every run is a process of its own, whose peak is
the system's; runs of the ways alternate, and medians of the rounds are told. Each way's result is compared with ours, in fp64, before it is timed.
Transformers (`--arch vit_tiny`) are timed against their own quantised network instead (`spiking_transformers.py`).
"""

import argparse
import copy
import json
import statistics
import time
from pathlib import Path

import spiking_transformers as transformers
import split
import stored
import torch
from ways import WAYS, build, firing_rate, trained_looking

import snnfast
from snnfast.runtime.number_formats import formats
from snnfast.system import memory

SHARE = 0.85  # of the free memory: a way that would take more is not run


@torch.no_grad()
def check(way, net, x, chunk):
    """One image in fp64, where another order of sums moves no spike; in fp32 one that moves moves others behind it."""
    net, x = copy.deepcopy(net).double().to(x.device), x.double()
    expected, found = build("snnfast", net)(x, 8), build(way, net, chunk)(x, 8)
    assert (found - expected).abs().max() <= 1e-9 * expected.abs().max() > 0, f"{way} computes something else"


def one(args):
    """One run in this process: a JSON line."""
    device = torch.device(args.device)
    if device.type == "cpu":
        torch.set_num_threads(2)
    net = trained_looking(args.arch[0], args.width)
    torch.manual_seed(1)
    x, T, way = torch.randn(args.batch, 3, 32, 32, device=device), args.T[0], args.way
    if T == 0:
        check(way, net, x[:1], args.chunk)
        return print("{}")
    run = build(way, net.to(device), args.chunk, args.products)
    with torch.no_grad(), formats(args.dtype):  # torch's default on a GPU is tf32, in convolutions alone
        run(x, 8)  # libraries choose and prepare what they run
        if device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        memory.restart_peak(device)
        before, began = memory.used(device), time.perf_counter()
        run(x, T)
        if device.type == "cuda":
            torch.cuda.synchronize()
    seconds, peak = time.perf_counter() - began, memory.peak(device)
    with formats(args.dtype):
        rate = {"rate": firing_rate(net.to(device), x)} if way == "snnfast" else {}
    print(json.dumps(dict(seconds=seconds, peak=peak, before=before) | rate))


def child(args, way, arch, T, chunk=0):
    return stored.child(
        __file__, way=way, arch=arch, T=T, batch=args.batch, width=args.width, device=args.device, chunk=chunk, dtype=args.dtype,
        **({"products": args.products} if args.products else {}),
    )  # fmt: skip


def best_chunk(args, arch):
    """SpikingJelly's chunk that is fastest here at T = 64: it is the user's choice there."""
    took = {
        c: min(child(args, "spikingjelly", arch, 64, c).get("seconds", float("inf")) for _ in range(min(3, args.rounds)))
        for c in (4, 16, 64)
    }
    return min(took, key=took.get)


def measured(args, arch, T, chunk, wrong):
    """Median seconds and largest peak of each way, in rounds. wrong: what the check of a way said, where it failed."""
    found = {way: [] for way in args.ways}
    for _ in range(args.rounds):
        for way in args.ways:
            if way in wrong:
                found[way].append(wrong[way])
            elif way == "authors" and _authors_bytes(args, arch, T) > SHARE * memory.free(args.device):
                found[way].append(dict(failed=f"would take {memory.told(_authors_bytes(args, arch, T))}"))
            else:
                found[way].append(child(args, way, arch, T, chunk if way == "spikingjelly" else 0))
    rows = {}
    for way, runs in found.items():
        good = [r for r in runs if "failed" not in r]
        if not good:
            rows[way] = dict(failed=runs[0]["failed"])
            continue
        seconds = statistics.median(r["seconds"] for r in good)
        rows[way] = dict(seconds=seconds, images_per_second=args.batch / seconds, image_steps_per_second=args.batch * T / seconds,
                         peak=max(r["peak"] for r in good), rise=max(0, *(r["peak"] - r["before"] for r in good)))  # fmt: skip
        rows[way] |= {k: v for k, v in good[0].items() if k == "rate"}
    return rows


def _authors_bytes(args, arch, T):
    """Five tensors of the widest layer: input and output of a convolution, the list of spikes and its stack, the result."""
    return 5 * 4 * int(64 * args.width) * 1024 * args.batch * T


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--arch", nargs="+", default=["vgg16", "resnet18"], choices=sorted(snnfast.models.BY_NAME), metavar="ARCH")
    p.add_argument("--T", type=int, nargs="+", default=[32, 64, 256, 1024])
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--width", type=float, default=1.0)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS), metavar="WAY", help="which ways to run (default all)")
    p.add_argument("--peaks", action="store_true", help="of transformers: only how much memory whole runs take")
    p.add_argument("--device", default="cpu")
    p.add_argument(
        "--dtype", default="fp32", choices=("fp32", "tf32", "author"), help="of the products: tf32 on a GPU, author as torch has it"
    )
    p.add_argument("--products", choices=("sparse", "exact", "dense"), help="of our way (default: the device's)")
    p.add_argument("--results", type=Path, default=stored.RESULTS)
    p.add_argument("--way", choices=(*WAYS, "ratio", "peak"), help=argparse.SUPPRESS)
    p.add_argument("--chunk", type=int, default=0, help="steps that SpikingJelly takes at once (default 0: the fastest of 4, 16 and 64)")
    args = p.parse_args()
    if args.way:
        return transformers.one(args) if args.way in ("ratio", "peak") else one(args)
    facts = stored.facts(args.device)
    for arch in [a for a in args.arch if a in transformers.SIZES]:
        args.arch.remove(arch)
        print(transformers.HEAD, flush=True)
        transformers.measure(args, arch, facts)
        if args.device == "cpu" and not args.peaks:
            split.measure(arch, args.width, args.batch, args.T[0], facts, args.results)
    if not args.arch:
        return None
    print(f"{facts.get('gpu', facts['cpu'])}, batch {args.batch}, width {args.width}, {args.rounds} rounds")
    print("| network, T | way | images/s | image-steps/s | against the best other | peak | rise |\n|---|---|---|---|---|---|---|")
    for arch in args.arch:
        chunk = args.chunk or best_chunk(args, arch) if "spikingjelly" in args.ways else 0
        # In processes of their own: they take memory. Ours is what the others are compared with.
        checks = {way: child(args, way, arch, 0, chunk if way == "spikingjelly" else 0) for way in args.ways if way != "snnfast"}
        wrong = {way: c for way, c in checks.items() if "failed" in c}
        for T in args.T:
            rows = measured(args, arch, T, chunk, wrong)
            others = [r["image_steps_per_second"] for way, r in rows.items() if way != "snnfast" and "failed" not in r]
            for way, r in rows.items():
                r["ratio"] = r["image_steps_per_second"] / max(others) if way == "snnfast" and others else None
                what = dict(arch=arch, T=T, way=way, batch=args.batch, width=args.width, rounds=args.rounds, dtype=args.dtype)
                what |= {"products": args.products} if args.products else {}
                what |= {"chunk": chunk} if way == "spikingjelly" else {}
                stored.append("large-T", facts, [what | r], args.results)
                print(_line(f"{arch}, {T}", way, r), flush=True)
            if "rate" in r:
                print(f"| | mean firing rate {r['rate']:.3f} | | | | | |", flush=True)
        if args.device == "cpu" and args.ways == list(WAYS):
            split.measure(arch, args.width, args.batch, args.T[0], facts, args.results)


def _line(what, way, r):
    if "failed" in r:
        return f"| {what} | {way} | – | – | – | {r['failed']} | |"
    ratio = "" if r["ratio"] is None else f"{r['ratio']:.2f}"
    return (
        f"| {what} | {way} | {r['images_per_second']:.3g} | {r['image_steps_per_second']:.1f} | {ratio} | {memory.told(r['peak'])} "
        f"| {memory.told(max(0, r['rise']))} |"
    )


if __name__ == "__main__":
    main()

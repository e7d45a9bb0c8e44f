"""Whole networks at large T: images/s, image-steps/s and peak memory of four ways to run them (`runners.py`).

`make bench-models`, or `python bench/networks.py [--arch A ...] [--T T ...] [--batch B] [--rounds R]`. Every run is a process of its own, whose peak
is the system's; runs of the ways alternate, and medians of the rounds are told. Each way's result is compared with ours, in fp64, before it is timed.
Transformers (`--arch vit_tiny`) are timed against their own quantised network instead.

Transformers: thresholds are the 99.9th percentile of each activation's positive inputs, so that levels are used as trained ones are. The run stops
when it is idle, as runs on a CPU do by default; `idle` tells after how many steps. Runs of both alternate in one process, medians are told; each peak
is of a process of its own, which does not stop.

Where the time goes (`--split`):
kind            product (of weights), neuron, or the rest (sums, poolings, copies)
seconds         of all T steps of the batch, by the clock around each node; of transformers until they are idle
arithmetic      the additions of weights that spikes ask for (SOPs), at the rate of the faster of torch's fp32 products measured here
memory          each value written once and read once by each of its users, weights read once a chunk, at the rate of `copy_` measured here

The floor of a layer is the larger of the two.
"""

import argparse
import copy
import json
import statistics
import time
from pathlib import Path

import stored
import tables
import torch
from runners import WAYS, build, firing_rate, trained_looking

import snnfast
from snnfast import nn
from snnfast.evaluation.entering import Operand
from snnfast.evaluation.memory_plan import Dry
from snnfast.evaluation.statistics import Statistics
from snnfast.graph.vocabulary import is_product
from snnfast.runtime.execution import Execution
from snnfast.runtime.number_formats import formats
from snnfast.system import memory

# ---- transformers

# Network, pixels, pixels of a patch.
SIZES = {"vit_tiny": (32, 4), "vit_small": (224, 16), "vit_base": (224, 16), "swin_tiny": (224, 4)}


@torch.no_grad()
def fitted(arch, width=1.0):
    """A network whose thresholds fit its activations."""
    torch.manual_seed(0)
    size, patch = SIZES[arch]
    net = snnfast.models.BY_NAME[arch](image_size=size, patch_size=patch, activation="qcfs", levels=16, width=width).eval()

    def fit(module, inputs):
        x = inputs[0].flatten()
        x = x[x > 0][:200_000]
        module.thresh.fill_(float(x.quantile(0.999)) if x.numel() else 1.0)

    hooks = [m.register_forward_pre_hook(fit) for m in net.modules() if nn.is_quantised(m)]
    net(torch.randn(2, 3, size, size))
    for hook in hooks:
        hook.remove()
    return net


def _images(args, arch):
    torch.manual_seed(1)
    size, _ = SIZES[arch]
    return torch.randn(args.batch, 3, size, size, device=args.device)


def _wait(device):
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


@torch.no_grad()
def _check_transformer(net, x):
    """In fp64, where no sum falls on the other side of a tie. In fp32 some of a million levels differ by one, and others behind them."""
    net, x = copy.deepcopy(net).double(), x.double()
    expected = net(x)
    assert (snnfast.convert(net)(x, T=200) - expected).abs().max() <= 1e-9 * expected.abs().max() > 0, "it computes something else"


@torch.no_grad()
def _transformer_run(args):
    """One process: a JSON line. way "ratio": seconds of both, `rounds` times; "peak": of one run over time."""
    arch, T = args.arch[0], args.T[0]
    if torch.device(args.device).type == "cpu":
        torch.set_num_threads(2)
    net = fitted(arch, args.width).to(args.device)
    snn, x, idle = snnfast.convert(net), _images(args, arch), []
    if args.way == "peak":
        memory.restart_peak(args.device)
        before = memory.used(args.device)
        began = time.perf_counter()
        for _ in snn.chunks(x, T, stop=False, on_end=lambda *counts: idle.append(counts[0])):
            pass
        _wait(args.device)
        return print(json.dumps(dict(seconds=time.perf_counter() - began, peak=memory.peak(args.device), before=before, not_idle=idle[0])))
    _check_transformer(net, x[:1])
    steps = list(snn.chunks(x, T, chunk=1, on_end=lambda *counts: idle.append(counts[0])))
    last = max(t for t, step in enumerate(steps) if step.abs().max() > 0) + 1
    times = {"quantised": [], "spiking": []}
    for _ in range(args.rounds + 1):
        for way, run in (("quantised", lambda: [net(x) for _ in range(4)]), ("spiking", lambda: snn(x, T=T))):
            began = time.perf_counter()
            run()
            _wait(args.device)
            times[way].append((time.perf_counter() - began) / (4 if way == "quantised" else 1))
    times = {way: statistics.median(t[1:]) for way, t in times.items()}  # the first warms up
    print(json.dumps(dict(**times, idle_after=last, not_idle=idle[0])))


def _transformer_child(args, way, arch, T):
    return stored.child(__file__, way=way, arch=arch, T=T, batch=args.batch, width=args.width, rounds=args.rounds, device=args.device)


def transformer(args, arch, facts):
    """Prints and stores a row for each T."""
    for T in args.T:
        what = dict(
            arch=arch, image_size=SIZES[arch][0], patch_size=SIZES[arch][1], T=T, batch=args.batch, width=args.width, rounds=args.rounds
        )
        ratio, peak = {} if args.peaks else _transformer_child(args, "ratio", arch, T), _transformer_child(args, "peak", arch, T)
        failed = ratio.get("failed") or peak.get("failed")
        if failed:
            print(f"| {arch}, {T} | – | – | – | {failed} | |", flush=True)
            continue
        row = dict(peak=peak["peak"], rise=peak["peak"] - peak["before"], whole_run=peak["seconds"], not_idle=peak["not_idle"])
        if args.peaks:
            stored.append("transformers", facts, [what | row], args.results)
            print(f"| {arch}, {T} | – | {row['whole_run']:.3g} s for the whole run | – | – | {memory.told(row['peak'])} |", flush=True)
            continue
        quantised, spiking = ratio["quantised"], ratio["spiking"]
        row |= dict(quantised=quantised, spiking=spiking, ratio=spiking / (T * quantised), idle=ratio["idle_after"])
        stored.append("transformers", facts, [what | row], args.results)
        print(
            f"| {arch}, {T} | {quantised * T:.3g} s | {spiking:.3g} s | {row['ratio']:.2f} | {row['idle']} | {memory.told(row['peak'])} |",
            flush=True,
        )


HEAD = "| network, T | T quantised passes | spiking | ratio | idle after | peak |\n|---|---|---|---|---|---|"


# ---- where the time goes


def rates(rounds=7):
    """(multiply-adds a second, bytes a second that copy_ reads and writes): of a matrix product or a convolution, which come from other libraries."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    image, kernel = (torch.randn(shape).to(memory_format=torch.channels_last) for shape in ((64, 256, 8, 8), (256, 256, 3, 3)))
    x, y = torch.randn(1 << 24), torch.empty(1 << 24)

    def best(f):
        took = []
        for _ in range(rounds):
            began = time.perf_counter()
            f()
            took.append(time.perf_counter() - began)
        return min(took)

    product = 1024**3 / best(lambda: torch.mm(a, b))
    convolution = image.numel() * kernel[0].numel() / best(lambda: torch.nn.functional.conv2d(image, kernel, padding=1))
    return max(product, convolution), 2 * x.nbytes / best(lambda: y.copy_(x))


@torch.no_grad()
def layers(net, x, T, rounds=3):
    """A row per layer, in the order of the graph."""
    snn = snnfast.convert(net)
    execution, counted = Execution(snn.gm, timed=True), Statistics(snn)
    chunk, sums = None, []
    for _ in range(rounds):
        lengths = [len(y) for y in snn.chunks(x, T, chunk, execution=execution)]
        sums.append(execution.clock.take())
    for _ in snn.chunks(x, T, statistics=counted):
        pass
    dry, (macs, moved) = Dry(snn, x.shape[1:], Execution(snn.gm), "cpu"), rates()
    for node in dry.nodes:
        if node.name not in sums[0]:
            continue
        rows = len(x) * (T if node in dry.plan.spiking else 1)
        inputs = sum(dry.size[dry.owner[a]] for a in node.all_input_nodes)
        weights = snn.gm.get_submodule(node.target).weight.nbytes if is_product(node, snn.gm) and node.op == "call_module" else 0
        reads = len(lengths) if node in dry.plan.spiking else 1
        size = rows * (dry.size[node] + inputs) + reads * weights if dry.size[node] else 0  # a view moves nothing
        additions = _additions(node, counted, T) * len(x)
        yield dict(layer=str(node.target if node.op == "call_module" else node.name), kind=dry.kind(node),
                   seconds=statistics.median(s[node.name] for s in sums), arithmetic_s=additions / macs, memory_s=size / moved,
                   macs_per_s=macs, copy_gb_per_s=moved / 1e9)  # fmt: skip


def _additions(node, counted, T):
    """Of one image: the additions that spikes ask a product for, or the multiplications of one that no spike reaches."""
    operand = Operand(node, 0)
    if operand not in counted.work:
        return 0
    (multiplications, inputs, inside), sources = counted.work[operand], counted.sources()[operand]
    if not sources or "layer" in sources:
        return multiplications * (T if sources else 1)
    arrived = counted.entered[T].get(operand)
    arrived = sum(counted.spikes[T][source] for source in sources) if arrived is None else arrived
    return arrived / counted.images * multiplications / inputs * inside


def split(arch, width, batch, T, facts, results=stored.RESULTS):
    net = fitted(arch, width) if arch in SIZES else trained_looking(arch, width)
    size = SIZES[arch][0] if arch in SIZES else 32
    torch.manual_seed(1)
    what = dict(arch=arch, width=width, batch=batch, T=T)
    rows = [what | row for row in layers(net, torch.randn(batch, 3, size, size), T)]
    stored.append("split", facts, rows, results)
    print("\n" + tables.split(rows), flush=True)


# ---- ways to run one

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
    p.add_argument("--split", action="store_true", help="only where the time of ours goes, layer by layer, at the first T")
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
        return _transformer_run(args) if args.way in ("ratio", "peak") else one(args)
    facts = stored.facts(args.device)
    if args.split:
        torch.set_num_threads(2)
        for arch in args.arch:
            split(arch, args.width, args.batch, args.T[0], facts, args.results)
        return None
    for arch in [a for a in args.arch if a in SIZES]:
        args.arch.remove(arch)
        print(HEAD, flush=True)
        transformer(args, arch, facts)
        if args.device == "cpu" and not args.peaks:
            split(arch, args.width, args.batch, args.T[0], facts, args.results)
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
            split(arch, args.width, args.batch, args.T[0], facts, args.results)


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

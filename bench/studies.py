"""Studies of single questions: `python bench/studies.py STUDY [options]`, two threads, medians of rounds in which the compared runs alternate.

products   convolutions over spikes against torch's dense ones (weights in the layout that is fastest for it), by the share of the inputs that are
           not zero: the shapes of VGG-16's and ResNet-18's layers on 32x32 images, as many rows as a chunk of time has; above 1 is faster
methods    what SRP, COS and statistics cost beside the plain run, and what `accelerate` gains on networks in the authors' form
choices    what the choices inside a run cost: products, chunk length, fixed shapes, where memory comes from; and where its time goes:
           milliseconds per image-step at full width, four images, T = 64. "from the system" is last, because it holds for the rest of the
           process: every block of a megabyte or more is taken from the system and given back at once
groups     networks of torchvision whose convolutions are in groups (depthwise ones of MobileNetV2, 32 groups of ResNeXt-50), converted from drawn
           weights and images: image-steps per second with each kind of products, beside the layers in groups computed by torch, as before
formats    what the number format of products does to the spikes: counts of every neuron after T steps against those of fp32. "fp32, dense"
           shows what another order of sums does, which a library chooses by itself
demos      what the demos end with: runs them as `snnfast demo` does, about six minutes on two cores
"""

import argparse
import ctypes
import importlib
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import stored
import torch
from others import AuthorsIF
from rich.console import Console
from runners import trained_looking
from torch.nn import functional as F

import snnfast
from snnfast import nn
from snnfast.cli.demo import demo
from snnfast.data import declare_operators, digits
from snnfast.evaluation.statistics import Statistics
from snnfast.graph import flow
from snnfast.graph.vocabulary import is_product
from snnfast.ops.conv import relaid
from snnfast.runtime import execution as executions
from snnfast.runtime.execution import Execution
from snnfast.runtime.number_formats import formats
from snnfast.runtime.run import default_chunk
from snnfast.system import memory

# ---- products

# rows, channels, size of the image, output channels, stride, kernel
SHAPES = [
    (32, 64, 32, 64, 1, 3), (64, 128, 16, 128, 1, 3), (64, 256, 8, 256, 1, 3), (64, 512, 4, 512, 1, 3), (64, 512, 2, 512, 1, 3),
    (32, 64, 32, 128, 2, 3), (32, 64, 32, 128, 2, 1), (64, 4096, 1, 4096, 1, 1),
]  # fmt: skip
DENSITIES = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0)


def _both(shape, density, device):
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


def product(shape, density, rounds, device):
    both = _both(shape, density, device)
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


# ---- methods


def interleaved(rounds, **runs):
    """Median seconds of each run, in turn with the others; one round before is not counted."""
    took = {name: [] for name in runs}
    for i in range(rounds + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            if i:
                took[name].append(time.perf_counter() - began)
    return {name: statistics.median(t) for name, t in took.items()}


def methods(arch, width, B, T, rounds):
    """The plain run, SRP with tau = 4, COS with rho = 4, the plain run with statistics."""
    net, x, labels = trained_looking(arch, width), torch.randn(B, 3, 32, 32), torch.zeros(B, dtype=torch.long)
    snns = {name: snnfast.convert(net, name) for name in ("if", "srp", "cos")}

    def run(snn, counted=False):
        return lambda: snnfast.evaluate(snn, [(x, labels)], T=T, at=[T], statistics=Statistics(snn) if counted else False)

    runs = {name: run(snn) for name, snn in snns.items()} | {"if, statistics": run(snns["if"], True)}
    found = interleaved(rounds, **runs)
    goals = {"srp": (4 + T) / T * 1.1, "cos": (4 + T) / T * 1.1, "if, statistics": 1.1}
    for name, seconds in found.items():
        yield dict(row=f"{arch}: {name}", seconds=seconds, ratio=seconds / found["if"], goal=goals.get(name), T=T, batch=B, width=width)


def authors_form(arch, width, T):
    """The network in the QCFS authors' form: time and batch merged, their IF in place of every activation."""
    net = trained_looking(arch, width)
    for name, m in list(net.named_modules()):
        if isinstance(m, nn.Quantised):
            parent, _, child = name.rpartition(".")
            setattr(net.get_submodule(parent), child, AuthorsIF(T, m.levels, float(m.thresh.detach())))
    return net


def accelerated(arch, width, B, T, rounds):
    """The authors' network, before and after `snnfast.accelerate`: whole, and each neuron layer alone on its own input."""
    theirs, ours = authors_form(arch, width, T), authors_form(arch, width, T)
    assert len(snnfast.accelerate(ours).replaced) == sum(isinstance(m, AuthorsIF) for m in theirs.modules())
    x, inputs = torch.randn(B, 3, 32, 32).repeat(T, 1, 1, 1), {}
    for name, m in theirs.named_modules():
        if isinstance(m, AuthorsIF):
            m.register_forward_pre_hook(lambda m, a, name=name: inputs.__setitem__(name, a[0].clone()) if name not in inputs else None)
    with torch.no_grad():
        assert torch.equal(theirs(x), ours(x)), "the accelerated network gives other bits"
        found = interleaved(rounds, theirs=lambda: theirs(x), ours=lambda: ours(x))
        yield dict(
            row=f"{arch} in the authors' form, whole",
            seconds=found["ours"],
            ratio=found["theirs"] / found["ours"],
            goal=1.3,
            T=T,
            batch=B,
            width=width,
        )
        for name, current in inputs.items():
            a, b = theirs.get_submodule(name), ours.get_submodule(name)
            found = interleaved(max(5, rounds), theirs=lambda a=a, c=current: a(c), ours=lambda b=b, c=current: b(c))
            yield dict(row=f"{arch}, neurons {name} ({current[0].numel()})", seconds=found["ours"], ratio=found["theirs"] / found["ours"], goal=5.0,
                       T=T, batch=B, width=width)  # fmt: skip


# ---- choices

CHOICE_T, CHOICE_B, M_MMAP_THRESHOLD = 64, 4, -3


def _timed(snn, x, chunk, execution):
    memory.restart_peak("cpu")
    before, began = memory.used("cpu"), time.perf_counter()
    for _ in snn.chunks(x, CHOICE_T, chunk, execution=execution):
        pass
    return 1e3 * (time.perf_counter() - began) / CHOICE_T / CHOICE_B, memory.peak("cpu") - before


def choices(arch, rounds):
    net, x = trained_looking(arch), torch.randn(CHOICE_B, 3, 32, 32)
    snn, other = snnfast.convert(net), snnfast.convert(net)  # whose weights lie as dense products read them
    plan, plain = snn.plan(), Execution(snn.gm)
    own = default_chunk("cpu", 64 * 1024 * CHOICE_B, plan.linear)
    ways = {
        "as it is": (own, plain), "half the chunk": (own // 2, plain), "twice the chunk": (2 * own, plain),
        "fixed shapes": (own, Execution(snn.gm, deterministic=True)), "dense products": (own, Execution(other.gm, products="dense")),
        "dense products, fixed shapes": (own, Execution(other.gm, products="dense", deterministic=True)),
    }  # fmt: skip
    took = {name: [] for name in ways}
    for i in range(rounds + 1):
        for name, choice in ways.items():
            found = _timed(other if "dense" in name else snn, x, *choice)
            if i:  # the first round warms up
                took[name].append(found)
    clocked = Execution(snn.gm, timed=True)
    _timed(snn, x, own, clocked)
    share = dict.fromkeys(("product", "neuron", "other"), 0.0)
    products = {n.name for n in snn.gm.graph.nodes if is_product(n, snn.gm)}
    neurons = {n.name for n in plan.firing}
    sums = clocked.clock.take()
    for name, seconds in sums.items():
        share["product" if name in products else "neuron" if name in neurons else "other"] += seconds / sum(sums.values())
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 20)
    took["from the system"] = [_timed(snn, x, own, plain) for _ in range(rounds)]
    for name, found in took.items():
        chunk = ways[name][0] if name in ways else own
        row = dict(
            arch=arch,
            choice=name,
            chunk=chunk,
            T=CHOICE_T,
            batch=CHOICE_B,
            ms=statistics.median(f[0] for f in found),
            rise=max(f[1] for f in found),
        )
        yield row | ({"share": share} if name == "as it is" else {})


# ---- groups

GROUPED = (("mobilenet_v2", 128), ("resnext50_32x4d", 64))
GROUPS_B, GROUPS_T = 4, 64


def groups(name, size, rounds):
    """A row for each kind of products, with the layers in groups by our kernels and by torch's."""
    declare_operators()
    torch.manual_seed(0)
    x, net = torch.randn(GROUPS_B, 3, size, size), importlib.import_module("torchvision.models").get_model(name, weights=None)
    for _ in range(3):
        net.train()(torch.randn(8, 3, size, size))  # statistics of batch norms
    snn, own, ways = snnfast.convert(net.eval(), calibrate=x), flow.served, {}
    for products in ("sparse", "exact"):
        for by in ("ours", "torch"):
            executions.served = own if by == "ours" else lambda m: own(m) and getattr(m, "groups", 1) == 1
            execution = Execution(snn.gm, products=products)
            list(snn.chunks(x, 4, 4, execution=execution))  # packs weights, and asks of each layer who serves it
            ways[f"{products} {by}"] = lambda execution=execution: list(snn.chunks(x, GROUPS_T, 16, execution=execution))
    executions.served = own
    for way, seconds in interleaved(rounds, **ways).items():
        products, by = way.split()
        yield dict(
            network=name, size=size, products=products, by=by, T=GROUPS_T, batch=GROUPS_B, rounds=rounds, seconds=seconds,
            image_steps_per_second=GROUPS_B * GROUPS_T / seconds,
        )  # fmt: skip


# ---- formats


@torch.no_grad()
def counts(snn, x, T, **how):
    """(spike counts of all neurons after T steps, one long vector [B N]; mean logits)."""
    execution, total, states = Execution(snn.gm, x.device, **how), 0, {}
    with formats(execution.dtype):
        for y, now in snn.run(x, T, 8, execution=execution):
            total, states = total + y.double().sum(0), now
    return torch.cat([s.count.flatten() for s in states.values()]), total / T


# ---- demos

RUNS = (("vgg", ("if",)), ("vgg", ("srp", "cos")), ("vit", ("stbif", "if", "cos")), ("swin", ("stbif",)))


def demos(arch, methods, **options):
    """A row per method."""
    with tempfile.TemporaryDirectory() as folder:
        first = demo(out=folder, arch=arch, methods=methods, console=Console(quiet=True), **options)
        file = Path(folder) / "methods.json"
        reports = json.loads(file.read_text()) if file.exists() else {methods[0]: vars(first)}
        for method, report in reports.items():
            yield dict(
                arch=arch,
                method=method,
                images=report["images"],
                ann=report["ann"],
                at=list(report["at"]),
                accuracy=list(report["accuracy"]),
            )


# ---- commands


def tell_products(args):
    torch.backends.cudnn.conv.fp32_precision = torch.backends.cuda.matmul.fp32_precision = "ieee"
    facts = stored.facts(args.device)
    print("| rows, channels, size, outputs, stride, kernel | " + " | ".join(f"{100 * d:.0f} %" for d in DENSITIES) + " |")
    print("|---" * (len(DENSITIES) + 1) + "|")
    for shape in SHAPES[: args.shapes]:
        rows = [product(shape, d, args.rounds or 9, args.device) for d in DENSITIES]
        stored.append("conv", facts, rows)
        print(f"| {', '.join(map(str, shape))} | " + " | ".join(f"{r['ratio']:.2f}" for r in rows) + " |", flush=True)


def tell_methods(args):
    facts, how = stored.facts(), (args.width, args.batch, args.steps, args.rounds or 5)
    print(f"| {facts['cpu']}, T = {args.steps}, batch {args.batch}, width {args.width} | ms | ratio | goal |\n|---|---|---|---|")
    for r in itertools.chain(methods("vgg16", *how), methods("resnet18", *how), accelerated("vgg16", *how)):
        goal = "" if r["goal"] is None else f"{r['goal']:.2f}"
        print(f"| {r['row']} | {1e3 * r['seconds']:.1f} | {r['ratio']:.2f} | {goal} |", flush=True)
        stored.append("models", facts, [r])


def tell_choices(args):
    if len(args.arch) > 1:
        for arch in args.arch:  # each in a process of its own
            subprocess.run([sys.executable, __file__, "choices", "--arch", arch, "--rounds", str(args.rounds or 5)], check=True)
        return
    facts, found = stored.facts("cpu"), list(choices(args.arch[0], args.rounds or 5))
    stored.append("choices", facts, found)
    print("| network, choice | chunk | ms per image-step | against as it is | rise |\n|---|---|---|---|---|")
    for r in found:
        print(f"| {r['arch']}, {r['choice']} | {r['chunk']} | {r['ms']:.2f} | {r['ms'] / found[0]['ms']:.2f} | {memory.told(r['rise'])} |")
    print(", ".join(f"{k} {100 * v:.0f} %" for k, v in found[0]["share"].items()))


def tell_groups(args):
    print("| network | products | groups by | image-steps/s |\n|---|---|---|---|")
    for name, size in GROUPED:
        found = list(groups(name, size, args.rounds or 5))
        stored.append("groups", stored.facts("cpu"), found)
        for r in found:
            print(f"| {r['network']} | {r['products']} | {r['by']} | {r['image_steps_per_second']:.0f} |", flush=True)


def tell_formats(args):
    device = torch.device(args.device)
    snn = snnfast.convert(snnfast.load_checkpoint(args.checkpoint).float()).to(device)
    x, labels = (t[: args.images].to(device) for t in digits()[1].tensors)
    rows = {"fp32, dense": dict(products="dense"), "bf16": dict(dtype="bf16"), "fp16": dict(dtype="fp16")}
    if device.type == "cuda":
        rows |= {"tf32": dict(dtype="tf32"), "author": dict(dtype="author")}
    facts = stored.facts(device) | dict(images=len(x))
    print("| T | products | neurons with another count, % | by how much, mean | accuracy % | logits moved by, % of their size |")
    print("|---|---|---|---|---|---|")
    for T in args.T:
        exact, mean = counts(snn, x, T)
        accuracy = lambda m: 100 * float((m.argmax(1) == labels).double().mean())
        print(f"| {T} | fp32 | 0 | 0 | {accuracy(mean):.2f} | 0 |")
        for what, how in rows.items():
            found, moved = counts(snn, x, T, **how)
            other = (found - exact).abs().double()
            row = dict(
                T=T, products=what, changed=100 * float((other > 0).double().mean()), by=float(other.sum() / max(1, int((other > 0).sum()))),
                accuracy=accuracy(moved), moved=100 * float((moved - mean).abs().max() / mean.abs().max()),
            )  # fmt: skip
            stored.append("precision", facts, [row])
            print(f"| {T} | {what} | {row['changed']:.3f} | {row['by']:.2f} | {row['accuracy']:.2f} | {row['moved']:.2f} |", flush=True)


def tell_demos(args):
    for arch, used in RUNS:
        found = list(demos(arch, used))
        stored.append("demo", stored.facts(), found)
        for row in found:
            at = ", ".join(f"{t}: {a:.2f}" for t, a in zip(row["at"], row["accuracy"]))
            print(f"{arch}, {row['method']}: {row['ann']:.2f} | {at}", flush=True)


STUDIES = {
    "products": tell_products, "methods": tell_methods, "choices": tell_choices, "groups": tell_groups, "formats": tell_formats, "demos": tell_demos,
}  # fmt: skip


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    of = p.add_subparsers(dest="study", required=True)
    made = {name: of.add_parser(name) for name in STUDIES}
    for name in ("products", "methods", "choices", "groups"):
        made[name].add_argument("--rounds", type=stored.positive, help="default 9 of products, else 5")
    made["products"].add_argument("--shapes", type=stored.positive, default=len(SHAPES), help="only the first ones")
    made["products"].add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    made["methods"].add_argument("--width", type=float, default=0.5)
    made["methods"].add_argument("--batch", type=stored.positive, default=16)
    made["methods"].add_argument("--T", dest="steps", type=stored.positive, default=32)
    made["choices"].add_argument("--arch", nargs="+", default=["vgg16", "resnet18"])
    made["formats"].add_argument("checkpoint", help="of a network for digits, such as the demo's runs/digits/model.pt")
    made["formats"].add_argument("--T", type=stored.positive, nargs="+", default=[32, 256])
    made["formats"].add_argument("--images", type=stored.positive, default=360)
    made["formats"].add_argument("--device", default="cpu", help="on a GPU tf32 and `author` are rows too")
    args = p.parse_args()
    torch.set_num_threads(2)
    STUDIES[args.study](args)


if __name__ == "__main__":
    main()

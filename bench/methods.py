"""Whole networks: what SRP, COS and statistics cost beside the plain run, and what `accelerate` gains on networks in the authors' form.

`make bench-methods`, or `python bench/methods.py [--width W] [--batch B] [--T T] [--rounds R]`. Medians of rounds in which the compared runs
alternate, on two threads.
"""

import argparse
import itertools
import statistics
import time

import stored
import torch
from eager import AuthorsIF
from ways import trained_looking

import snnfast
from snnfast import nn
from snnfast.evaluation.statistics import Statistics


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


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--width", type=float, default=0.5)
    p.add_argument("--batch", type=stored.positive, default=16)
    p.add_argument("--T", type=stored.positive, default=32)
    p.add_argument("--rounds", type=stored.positive, default=5)
    args = p.parse_args()
    torch.set_num_threads(2)
    facts = stored.facts()
    print(f"| {facts['cpu']}, T = {args.T}, batch {args.batch}, width {args.width} | ms | ratio | goal |\n|---|---|---|---|")
    how = args.width, args.batch, args.T, args.rounds
    for r in itertools.chain(methods("vgg16", *how), methods("resnet18", *how), accelerated("vgg16", *how)):
        goal = "" if r["goal"] is None else f"{r['goal']:.2f}"
        print(f"| {r['row']} | {1e3 * r['seconds']:.1f} | {r['ratio']:.2f} | {goal} |", flush=True)
        stored.append("models", facts, [r])


if __name__ == "__main__":
    main()

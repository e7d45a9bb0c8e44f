"""What the choices inside a run cost: products, chunk length, fixed shapes, where memory comes from; and where its time goes.

`python bench/choices.py [--rounds R]`: milliseconds per image-step of `ways.trained_looking` networks at full width, four images, T = 64, two
threads, medians of rounds in which all but the last alternate. "from the system" is last, because it holds for the rest of the process: every block
of a megabyte or more is taken from the system and given back at once.
"""

import argparse
import ctypes
import statistics
import time

import stored
import torch
from ways import trained_looking

import snnfast
from snnfast.graph.vocabulary import is_product
from snnfast.runtime.execution import Execution
from snnfast.runtime.run import default_chunk
from snnfast.system import memory

T, B, M_MMAP_THRESHOLD = 64, 4, -3


def timed(snn, x, chunk, execution):
    memory.restart_peak("cpu")
    before, began = memory.used("cpu"), time.perf_counter()
    for _ in snn.chunks(x, T, chunk, execution=execution):
        pass
    return 1e3 * (time.perf_counter() - began) / T / B, memory.peak("cpu") - before


def rows(arch, rounds):
    net, x = trained_looking(arch), torch.randn(B, 3, 32, 32)
    snn, other = snnfast.convert(net), snnfast.convert(net)  # whose weights lie as dense products read them
    plan, plain = snn.plan(), Execution(snn.gm)
    own = default_chunk("cpu", 64 * 1024 * B, plan.linear)
    choices = {
        "as it is": (own, plain), "half the chunk": (own // 2, plain), "twice the chunk": (2 * own, plain),
        "fixed shapes": (own, Execution(snn.gm, deterministic=True)), "dense products": (own, Execution(other.gm, products="dense")),
        "dense products, fixed shapes": (own, Execution(other.gm, products="dense", deterministic=True)),
    }  # fmt: skip
    took = {name: [] for name in choices}
    for i in range(rounds + 1):
        for name, choice in choices.items():
            found = timed(other if "dense" in name else snn, x, *choice)
            if i:  # the first round warms up
                took[name].append(found)
    clocked = Execution(snn.gm, timed=True)
    timed(snn, x, own, clocked)
    share = dict.fromkeys(("product", "neuron", "other"), 0.0)
    products = {n.name for n in snn.gm.graph.nodes if is_product(n, snn.gm)}
    neurons = {n.name for n in plan.firing}
    sums = clocked.clock.take()
    for name, seconds in sums.items():
        share["product" if name in products else "neuron" if name in neurons else "other"] += seconds / sum(sums.values())
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 20)
    took["from the system"] = [timed(snn, x, own, plain) for _ in range(rounds)]
    for name, found in took.items():
        chunk = choices[name][0] if name in choices else own
        row = dict(
            arch=arch, choice=name, chunk=chunk, T=T, batch=B, ms=statistics.median(f[0] for f in found), rise=max(f[1] for f in found)
        )
        yield row | ({"share": share} if name == "as it is" else {})


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--arch", nargs="+", default=["vgg16", "resnet18"])
    p.add_argument("--rounds", type=int, default=5)
    args = p.parse_args()
    torch.set_num_threads(2)
    if len(args.arch) > 1:
        import subprocess
        import sys

        for arch in args.arch:  # each in a process of its own
            subprocess.run([sys.executable, __file__, "--arch", arch, "--rounds", str(args.rounds)], check=True)
        return
    facts = stored.facts("cpu")
    found = list(rows(args.arch[0], args.rounds))
    stored.append("choices", facts, found)
    print("| network, choice | chunk | ms per image-step | against as it is | rise |\n|---|---|---|---|---|")
    for r in found:
        print(f"| {r['arch']}, {r['choice']} | {r['chunk']} | {r['ms']:.2f} | {r['ms'] / found[0]['ms']:.2f} | {memory.told(r['rise'])} |")
    print(", ".join(f"{k} {100 * v:.0f} %" for k, v in found[0]["share"].items()))


if __name__ == "__main__":
    main()

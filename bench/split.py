"""Where a network's time goes, layer by layer, and how far each is from what the machine can do; called by `models.py`, or `python bench/split.py`.

kind            product (of weights), neuron, or the rest (sums, poolings, copies)
seconds         of all T steps of the batch, by the clock around each node; of transformers until they are idle
arithmetic      the additions of weights that spikes ask for (SOPs), at the rate of the faster of torch's fp32 products measured here
memory          each value written once and read once by each of its users, weights read once a chunk, at the rate of `copy_` measured here

The floor of a layer is the larger of the two.
"""

import argparse
import statistics
import time
from pathlib import Path

import stored
import tables
import torch
from spiking_transformers import SIZES, fitted
from ways import trained_looking

import snnfast
from snnfast.evaluation.memory_plan import Dry
from snnfast.evaluation.statistics import Statistics
from snnfast.graph.vocabulary import is_product
from snnfast.runtime.execution import Execution


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
    if node not in counted.work:
        return 0
    (multiplications, inputs, inside), sources = counted.work[node], counted.sources()[node]
    if not sources or "layer" in sources:
        return multiplications * (T if sources else 1)
    arrived = counted.entered[T].get(node)
    arrived = sum(counted.spikes[T][source] for source in sources) if arrived is None else arrived
    return arrived / counted.images * multiplications / inputs * inside


def measure(arch, width, batch, T, facts, results=stored.RESULTS):
    net = fitted(arch, width) if arch in SIZES else trained_looking(arch, width)
    size = SIZES[arch][0] if arch in SIZES else 32
    torch.manual_seed(1)
    what = dict(arch=arch, width=width, batch=batch, T=T)
    rows = [what | row for row in layers(net, torch.randn(batch, 3, size, size), T)]
    stored.append("split", facts, rows, results)
    print("\n" + tables.split(rows), flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--arch", nargs="+", default=["vgg16", "resnet18", "vit_tiny"], choices=sorted(snnfast.models.BY_NAME), metavar="ARCH")
    p.add_argument("--T", type=stored.positive, default=32)
    p.add_argument("--batch", type=stored.positive, default=4)
    p.add_argument("--width", type=float, default=1.0)
    p.add_argument("--results", type=Path, default=stored.RESULTS)
    args = p.parse_args()
    torch.set_num_threads(2)
    for arch in args.arch:
        measure(arch, args.width, args.batch, args.T, stored.facts(), args.results)


if __name__ == "__main__":
    main()

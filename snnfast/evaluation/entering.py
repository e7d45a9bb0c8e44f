"""Spikes that enter a product with weights: those that a neuron layer emits, if only views stand between; otherwise the arriving values are counted.

A selection of channels, a pooling, an upsampling or a sum of two shortcuts may stand between a neuron and a product: what the neuron emitted is then
not what the product adds up. Each value that arrives and is not zero counts as one spike.
"""

from typing import NamedTuple

import torch

from snnfast.graph.rows import rows_of
from snnfast.graph.units import is_view
from snnfast.graph.vocabulary import is_product


class Operand(NamedTuple):
    """An input of a product: `node` multiplies its input number `place`. A product with weights has one operand, a product of values up to two."""

    node: torch.fx.Node
    place: int

    def source(self):
        return self.node.all_input_nodes[self.place]

    def __str__(self):
        return f"{self.node.name}:{self.place}"

    @classmethod
    def named(cls, text, nodes):
        """The operand with this text. nodes: {name: node}"""
        name, _, place = text.rpartition(":")
        return cls(nodes[name], int(place))


def counted(gm, plan, operands):
    """Those of `operands` that are not just what one neuron layer, or the image, emitted."""
    found = []
    for operand in operands:
        source, node = operand.source(), operand.node
        if not is_product(node, gm) and node in plan.spiking:
            found.append(operand)
            continue
        while source not in plan.firing and source.op != "placeholder" and is_view(source, gm):
            source = source.all_input_nodes[0]
        if node in plan.spiking and source not in plan.firing and source.op != "placeholder":
            found.append(operand)
    return found


class Entering:
    """Counts, in one run, what enters some products. operands: their inputs that are counted."""

    def __init__(self, operands, count):
        self.count, self.sums, self.inside, self.of = count, dict.fromkeys(operands, 0), {}, {}
        for operand in operands:
            self.of.setdefault(operand.node, []).append(operand)

    def see(self, node, inputs, steps, marks):
        """inputs: {node: value} of a chunk of `steps` steps, merged with the images; marks: steps after which its sums are asked for too."""
        for operand in self.of.get(node, ()):
            source = operand.source()
            by_step = rows_of(source).by_image(inputs[source]).unflatten(0, (steps, -1))
            for mark in marks:
                self.inside.setdefault(mark, {})[operand] = self.sums[operand] + self.count(by_step[:mark])
            self.sums[operand] += self.count(by_step)

    def at(self, mark=None):
        """{operand: what has entered so far}, at a mark of the last chunk or at its end."""
        return self.sums | self.inside.get(mark, {})

    def forget(self):
        """Drops the counts at marks, before another chunk with its own marks."""
        self.inside = {}


def shares(sources, spikes):
    """{source: its share of what enters a product}, by the spikes that each has emitted."""
    many = {source: spikes[source] for source in sources}
    whole = sum(many.values())
    return {source: (n / whole if whole else 1 / len(many)) for source, n in many.items()}


def share_inside(layer, sizes):
    """The share of a convolution's multiplications that are with values, not with the zeros of a border; 1 of other layers.

    sizes: of the input's map, without batch and channels.
    """
    if not isinstance(layer, torch.nn.modules.conv._ConvNd) or layer.padding_mode != "zeros":
        return 1.0
    share = 1.0
    for d, n in enumerate(sizes):
        k, stride, dilation = layer.kernel_size[d], layer.stride[d], layer.dilation[d]
        whole = dilation * (k - 1)
        padding = layer.padding[d] if not isinstance(layer.padding, str) else whole // 2 if layer.padding == "same" else 0
        if layer.transposed:
            size = (n - 1) * stride - 2 * padding + whole + layer.output_padding[d] + 1
            inside = sum(0 <= i * stride - padding + dilation * j < size for i in range(n) for j in range(k))
            share *= inside / (n * k)
        else:
            out = n if layer.padding == "same" else (n + 2 * padding - whole - 1) // stride + 1
            inside = sum(0 <= o * stride - padding + dilation * j < n for o in range(out) for j in range(k))
            share *= inside / (out * k)
    return share

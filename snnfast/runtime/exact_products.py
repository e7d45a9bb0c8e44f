"""Layers over small integers whose sums are exact: `snnfast.exact_conv2d` and `exact_linear` in the place of a network's layers."""

import math

import torch

from snnfast.ops.exact import exact_conv2d, exact_linear, exact_weights
from snnfast.runtime.sparse_products import SparseProduct

MOST = 127  # of an input


class ExactProduct(SparseProduct):
    """A layer of a graph behind values that have a `snnfast.graph.units.Unit`.

    Where a pooling in front adds up too much, the layer is a `SparseProduct`. name: the layer's, for messages.  theta: of the neurons that the
    values come from.  added: how many values each pooling node of `unit.sized` adds up, by node, which the run fills in.
    """

    def __init__(self, module, name, unit, theta, added):
        super().__init__(module)
        self.name, self.unit, self.theta, self.added = name, unit, theta, added
        self.made, self.key = None, None

    def divisor(self):
        """Of the average pooling in front, 1 without; None where that adds up more than a byte holds, or not as many values at every place."""
        added = [self.added[node] for node in self.unit.sized]
        divisor = None if None in added else self.unit.divisor * math.prod(added)
        return divisor if divisor and divisor * self.unit.quanta <= MOST else None

    def scratch(self, x):
        """The input in units, in fp32 and in bytes."""
        return x.nbytes + x.numel()

    def weights(self, divisor):
        """The integers, made anew where the layer's weights were changed: (weights, what one is in units of the input: [C, 1, 1] or a number)."""
        m = self.module
        tensors = [t for t in (m.weight, m.bias, self.theta) if t is not None]
        key = divisor, *((t.data_ptr(), t._version, t.device) for t in tensors)
        if key != self.key:
            theta = self.theta.detach().double().flatten()
            unit = (theta if self.unit.by_channel else theta[0]) / divisor
            try:
                made = exact_weights(m.weight, m.bias, unit=unit, most=divisor * self.unit.quanta, signed=self.unit.signed)
            except ValueError as error:
                raise ValueError(f"{self.name}: {error}; products='sparse' or 'dense' take it") from None
            self.made, self.key = (made, (1.0 / unit).float().view(-1, 1, 1) if unit.dim() else float(1.0 / unit)), key
        return self.made

    def _linear(self, x, out):
        if (divisor := self.divisor()) is None:
            return super()._linear(x, out)
        weights, per_unit = self.weights(divisor)
        return exact_linear(_integers(x, per_unit), weights, out=out)

    def _conv2d(self, x, out):
        if (divisor := self.divisor()) is None:
            return super()._conv2d(x, out)
        m, (weights, per_unit) = self.module, self.weights(divisor)
        s = _integers(x.contiguous(memory_format=torch.channels_last), per_unit)
        return exact_conv2d(s, weights, m.stride, m.padding, m.dilation, out=out)


def _integers(x, per_unit):
    """x in units, int8: what rounding and the division of a pooling left beside them is far below a half."""
    return (x * per_unit).round_().to(torch.int8)


def added_up(before, after):
    """How many values a pooling node adds up for each that it gives, None where that is not the same for all."""
    (h, w), (ho, wo) = before.shape[-2:], after.shape[-2:] if after.dim() == before.dim() else (1, 1)
    return None if h % ho or w % wo else h * w // (ho * wo)

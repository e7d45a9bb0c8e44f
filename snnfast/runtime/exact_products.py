"""Layers over small integers whose sums are exact: `snnfast.exact_conv2d` and `exact_linear` in the place of a network's layers."""

import math

import torch

from snnfast.ops.exact import exact_conv2d, exact_linear, exact_weights
from snnfast.runtime.sparse_products import SparseProduct

MOST = 127  # the largest input, in units: inputs are int8


class ExactProduct(SparseProduct):
    """A layer of a graph whose input values have a `snnfast.graph.units.Unit`.

    If a pooling in front adds up too many values, the layer computes as a `SparseProduct`. name: the layer's name, for messages.  theta: of the
    neurons that the values come from.  added: {pooling node of `unit.sized`: how many values the node adds up}, filled in by the run.
    """

    def __init__(self, module, name, unit, theta, added):
        super().__init__(module)
        self.name, self.unit, self.theta, self.added = name, unit, theta, added
        self.made, self.key = None, None

    def divisor(self):
        """The divisor of the average pooling in front, 1 without one. None if a sum exceeds a byte, or places add up different numbers of values."""
        added = [self.added[node] for node in self.unit.sized]
        divisor = None if None in added else self.unit.divisor * math.prod(added)
        return divisor if divisor and divisor * self.unit.quanta <= MOST else None

    def scratch(self, x):
        """Bytes of two copies of the input's values in units on a GPU: one in fp32, one in int8."""
        return x.nbytes + x.numel() if x.is_cuda and x.dtype != torch.int8 else 0

    def weights(self, divisor):
        """Integer weights, computed anew if the layer's weights or theta changed."""
        m = self.module
        tensors = [t for t in (m.weight, m.bias, self.theta) if t is not None]
        key = divisor, *((t.data_ptr(), t._version, t.device) for t in tensors)
        if key != self.key:
            theta = self.theta.detach().double().flatten()
            groups = getattr(m, "groups", 1)
            unit = (theta if self.unit.by_channel else theta[0]) / divisor
            try:
                self.made = exact_weights(
                    m.weight, m.bias, unit=unit, most=divisor * self.unit.quanta, signed=self.unit.signed, groups=groups
                )
            except ValueError as error:
                raise ValueError(f"{self.name}: {error}; products='sparse' or 'dense' take it") from None
            self.key = key
        return self.made

    def _linear(self, x, out):
        if (divisor := self.divisor()) is None:
            return super()._linear(x, out)
        return exact_linear(x, self.weights(divisor), out=out)

    def _conv2d(self, x, out):
        if (divisor := self.divisor()) is None:
            return super()._conv2d(x, out)
        m = self.module
        return exact_conv2d(x, self.weights(divisor), m.stride, m.padding, m.dilation, out=out)


def added_up(before, after):
    """How many input values a pooling node adds up for each output value; None if the number is not the same for all outputs."""
    (h, w), (ho, wo) = before.shape[-2:], after.shape[-2:] if after.dim() == before.dim() else (1, 1)
    return None if h % ho or w % wo else h * w // (ho * wo)

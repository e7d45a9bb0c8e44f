"""Which layers of a graph are computed by kernels of snnfast, and which by torch.

sparse   convolutions and linear layers add the weights of the inputs that are not zero, in a specified order
         (`snnfast/equations/synapses/conv.py`): results depend on no batch, chunk or thread, and the time follows the number of spikes
         (but in groups of few channels, whose zeros take their time too)
exact    layers behind spikes add integers (`snnfast/equations/synapses/exact.py`): the same bits on every device; the other layers are sparse
dense    torch's own products, which multiply by the zeros too

The default is sparse on a CPU, and dense on a GPU and in number formats other than fp32, which only libraries compute. Torch computes the layers that
`sparse` does not serve (other paddings than zeros, layers that are called as functions), and a layer behind a function such as layer norm,
whose values are not zero. Over time torch computes such a layer step by step: the result does not depend on the chunk, but may depend on the batch.
"""

import functools
import math

import torch

from snnfast import checks
from snnfast.engines.reference import gather
from snnfast.graph.flow import served
from snnfast.nn.over_time import fresh
from snnfast.ops.conv import Rule, is_relaid, relaid, spike_conv2d, spike_linear

KINDS = ("sparse", "exact", "dense")


def products_of(products, dtype, device):
    """The kind that is asked for, or the default of this device and format."""
    if products is None:
        return "sparse" if dtype == "fp32" and torch.device(device).type == "cpu" else "dense"
    checks.choice("products", products, KINDS)
    if products != "dense" and dtype != "fp32":
        raise ValueError(
            f"products {products!r} are in the format of the network, so they need dtype 'fp32', got {dtype!r}: give products='dense'"
        )
    return products


def lay(gm, products):
    """Lays the weights of a graph in the memory order that its products read; their values and shapes stay."""
    for module in gm.modules():
        if not served(module):
            continue
        w = module.weight.data
        if products != "dense":
            module.weight.data = relaid(w)
        elif is_relaid(w) and not w.is_contiguous():  # a library would sort them in every call
            module.weight.data = w.contiguous()


class SparseProduct:
    """A layer of a graph."""

    def __init__(self, module):
        self.module = module

    def scratch(self, x):
        """Bytes beside its result that the product of x takes."""
        return 0

    def __call__(self, x, take=None):
        """take(numel, dtype) gives the memory of the result; by default torch does. Where gradients are recorded, the result has its own memory."""
        take = take or fresh(x.device)
        m = self.module
        if not (m._forward_hooks or m._forward_pre_hooks):
            return self._product(take, x)
        m.forward = functools.partial(self._product, take)  # the hooks see the same as with torch's product
        try:
            return m(x)
        finally:
            del m.forward

    def _product(self, take, x):
        m = self.module
        if torch.is_grad_enabled():
            return self._linear(x, None) if isinstance(m, torch.nn.Linear) else self._conv2d(x, None)
        if isinstance(m, torch.nn.Linear):
            shape = (*x.shape[:-1], m.out_features)
            return self._linear(x, take(math.prod(shape), m.weight.dtype).view(shape))
        shape = gather.spec(x.permute(0, 2, 3, 1), m.weight.permute(2, 3, 1, 0), Rule(*m.stride, *m.padding, *m.dilation))
        return self._conv2d(x, take(math.prod(shape), m.weight.dtype).view(shape).permute(0, 3, 1, 2))

    def _linear(self, x, out):
        return spike_linear(x, self.module.weight, self.module.bias, out=out)

    def _conv2d(self, x, out):
        m = self.module
        return spike_conv2d(x, m.weight, m.bias, m.stride, m.padding, m.dilation, m.groups, out=out)

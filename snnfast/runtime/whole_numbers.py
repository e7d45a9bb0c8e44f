"""Spikes that go from a neuron layer to exact products as whole numbers: one byte each, where their values take four.

A neuron layer hands over whole numbers where nothing but exact products reads them, perhaps behind average poolings, whose sums are whole numbers
too, and views. Everything else reads values: a max pooling over time, a sum of two layers, a function, a hook, who observes a run. What enters a
product is counted in whole numbers too: spikes of a window that cancel enter nothing, where an average of values may leave 1e-8.
"""

import torch

from snnfast.graph.units import is_view
from snnfast.graph.vocabulary import module_of
from snnfast.runtime.exact_products import MOST, ExactProduct


def handed_over(execution):
    """The nodes whose values are whole numbers: neuron layers, poolings and views. execution: an `Execution` with exact products."""
    found, gm = set(), execution.gm
    exact = {node for node in gm.graph.nodes if isinstance(execution.product(node), ExactProduct) and not _is_watched(module_of(gm, node))}
    for node in reversed(gm.graph.nodes):
        unit, layer = execution.units.get(node), module_of(gm, node)
        if unit is None or unit.sized or unit.divisor * unit.quanta > MOST or not node.users:
            continue
        passed_on = node is unit.source or (not _is_watched(layer) and (is_view(node, gm) or _sums_up(execution.poolings[node], layer)))
        if passed_on and all(user in found or user in exact for user in node.users):
            found.add(node)
    return found


def _is_watched(module):
    """Whether a hook would see whole numbers where it expects values."""
    return module is not None and bool(module._forward_hooks or module._forward_pre_hooks)


def _sums_up(pooling, layer):
    return pooling is not None and (layer is None or type(layer) is torch.nn.AvgPool2d)


def summed(x, pooling, take):
    """The sums of an average pooling's windows: x int8 [R, C, H, W] or [R, H, W], whole numbers -> int8. Sums fit a byte, or the products behind
    were not exact.

    pooling: a `Pooling`.  take: gives the memory, (numel, dtype) -> a flat tensor.
    """
    if x.dim() == 3:
        return summed(x.unsqueeze(1), pooling, take).squeeze(1)
    (ky, kx), (sy, sx), (py, px) = pooling
    R, C, H, W = x.shape
    Ho, Wo = (H + 2 * py - ky) // sy + 1, (W + 2 * px - kx) // sx + 1
    if min(H + 2 * py - ky, W + 2 * px - kx) < 0:
        torch.nn.functional.avg_pool2d(x[:1].float(), *pooling)  # its own words
    out = take(R * C * Ho * Wo, x.dtype).view(R, Ho, Wo, C).permute(0, 3, 1, 2).zero_()
    for i in range(ky):
        to_y, from_y = _inside(i - py, sy, H, Ho)
        for j in range(kx):
            to_x, from_x = _inside(j - px, sx, W, Wo)
            out[:, :, to_y, to_x] += x[:, :, from_y, from_x]
    return out


def _inside(shift, stride, size, places):
    """(which places, which inputs): place o reads input o stride + shift, as far as that lies inside."""
    first = -(min(0, shift) // stride)
    last = min(places, (size - 1 - shift) // stride + 1)
    begin = first * stride + shift
    return slice(first, max(first, last)), slice(begin, begin + stride * max(0, last - first - 1) + 1 if last > first else begin, stride)

"""Spikes that go from a neuron layer to exact products as whole numbers: one byte each, where their values take four.

A neuron layer hands over whole numbers where nothing but exact products reads them, perhaps behind average poolings, whose sums are whole numbers
too, and views. Everything else reads values: a max pooling over time, a sum of two layers, a function, who observes a run.
"""

import torch

from snnfast.graph.units import is_view
from snnfast.graph.vocabulary import module_of
from snnfast.runtime.exact_products import MOST, ExactProduct


def handed_over(execution):
    """The nodes whose values are whole numbers: neuron layers, poolings and views. execution: an `Execution` with exact products."""
    found, gm = set(), execution.gm
    exact = {node for node in gm.graph.nodes if _is_exact(node, execution)}
    for node in reversed(gm.graph.nodes):
        unit = execution.units.get(node)
        if unit is None or unit.sized or unit.divisor * unit.quanta > MOST or not node.users:
            continue
        passed_on = node is unit.source or is_view(node, gm) or sums_up(node, gm)
        if passed_on and all(user in found or user in exact for user in node.users):
            found.add(node)
    return found


def _is_exact(node, execution):
    module = module_of(execution.gm, node)
    return isinstance(execution.product(node), ExactProduct) and not _is_watched(module)


def _is_watched(module):
    """Whether a hook would see whole numbers where it expects values."""
    return module is not None and bool(module._forward_hooks or module._forward_pre_hooks)


def sums_up(node, gm):
    """Whether a node is an average pooling of which `summed` makes the sums."""
    layer = module_of(gm, node)
    return type(layer) is torch.nn.AvgPool2d and not layer.ceil_mode and not _is_watched(layer)


def summed(x, pool, take):
    """The sums of an average pooling's windows: x int8 [R, C, H, W], whole numbers -> int8. Sums fit a byte, or the products behind were not exact.

    take: gives the memory, (numel, dtype) -> a flat tensor.
    """
    (ky, kx), (sy, sx), (py, px) = (n if isinstance(n, tuple) else (n, n) for n in (pool.kernel_size, pool.stride, pool.padding))
    if py or px:
        padded = torch.nn.functional.pad(x.permute(0, 2, 3, 1), (0, 0, px, px, py, py))  # keeps channels last
        x = padded.permute(0, 3, 1, 2)
    R, C, H, W = x.shape
    Ho, Wo = (H - ky) // sy + 1, (W - kx) // sx + 1
    out = take(R * C * Ho * Wo, x.dtype).view(R, Ho, Wo, C).permute(0, 3, 1, 2)
    windows = [x[:, :, i : i + sy * (Ho - 1) + 1 : sy, j : j + sx * (Wo - 1) + 1 : sx] for i in range(ky) for j in range(kx)]
    torch.add(windows[0], windows[1], out=out) if len(windows) > 1 else out.copy_(windows[0])
    for window in windows[2:]:
        out.add_(window)
    return out

"""Inputs of products that are small integers times a unit: spikes of one neuron layer, passed on, max-pooled, or added up by average pooling.

A value that joins several layers (a residual's sum, channels laid side by side) has no single unit, and neither has the value of a function such as
layer norm.
"""

import dataclasses

import torch

from snnfast import nn
from snnfast.graph.vocabulary import module_of
from snnfast.nn.over_time import Pool
from snnfast.ops.iaf import iaf

VIEWS = frozenset("reshape permute transpose flatten unflatten view contiguous squeeze unsqueeze movedim swapaxes t".split())
_SIZED = {"adaptive_avg_pool2d", "mean"}  # how many values they add up depends on the image
_M = torch.nn


def name_of(node):
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return name.split(".")[0]


def is_view(node, gm):
    layer = module_of(gm, node)
    return isinstance(layer, (_M.Flatten, _M.Unflatten, _M.Identity)) if layer is not None else name_of(node) in VIEWS


@dataclasses.dataclass(frozen=True)
class Unit:
    """x = s theta / divisor with whole numbers s.

    source: the neuron layer, whose theta counts.  by_channel: whether theta is [C] along dimension 1.  divisor: of the average pooling in
    between, 1 without.  quanta: the largest spike of a neuron, in theta.  signed: whether s may be negative.  sized: nodes for which the number of
    values that they add up depends on the image of the run.
    """

    source: torch.fx.Node
    by_channel: bool
    signed: bool
    divisor: int = 1
    quanta: int = 1
    sized: tuple = ()

    def pooled(self, many):
        return dataclasses.replace(self, divisor=self.divisor * many)


def units(gm):
    """{node: Unit} of the values of a graph that have one."""
    found = {}
    for node in gm.graph.nodes:
        layer = module_of(gm, node)
        if isinstance(layer, nn.IF):
            unit = _of_neuron(node, layer)
        elif len(node.all_input_nodes) == 1 and node.all_input_nodes[0] in found:
            unit = _through(node, layer, found[node.all_input_nodes[0]], gm)
        else:
            unit = None
        if unit is not None:
            found[node] = unit
    return found


def _of_neuron(node, layer):
    if layer.neuron is not iaf or not layer.own or layer.options.get("spikes", "scaled") != "scaled":
        return None
    if layer.theta.numel() == 1:
        return Unit(node, False, layer.is_signed(), quanta=layer.most)
    return Unit(node, True, layer.is_signed(), quanta=layer.most) if layer.axis == 1 and layer.theta.dim() == 1 else None


def _through(node, layer, unit, gm):
    """The unit behind a node, or None."""
    if isinstance(layer, (Pool, nn.SpikeMask, _M.Dropout, _M.Identity)):
        return unit
    if is_view(node, gm):
        return None if unit.by_channel and not isinstance(layer, _M.Identity) else unit
    window = _window(node, layer)
    if window is not None:
        return unit.pooled(window)
    sized = isinstance(layer, _M.AdaptiveAvgPool2d) or (layer is None and name_of(node) in _SIZED and _is_spatial(node))
    return dataclasses.replace(unit, sized=(*unit.sized, node)) if sized else None


def _is_spatial(node):
    """Whether a mean is over the places of an image; True for other functions."""
    if name_of(node) != "mean":
        return True
    dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    return isinstance(dims, (tuple, list)) and sorted(dims) in ([2, 3], [-2, -1])


def _window(node, layer):
    """How many values an average pooling adds up, where that is the same at every place; else None."""
    if isinstance(layer, _M.AvgPool2d):
        kernel, padding = layer.kernel_size, layer.padding
        ceil, inside, divisor = layer.ceil_mode, layer.count_include_pad, layer.divisor_override
    elif layer is None and name_of(node) == "avg_pool2d":
        given = dict(zip(("kernel", "stride", "padding", "ceil", "inside", "divisor"), node.args[1:]))
        names = dict(
            kernel_size="kernel",
            ceil_mode="ceil",
            count_include_pad="inside",
            divisor_override="divisor",
            stride="stride",
            padding="padding",
        )
        given |= {names[k]: v for k, v in node.kwargs.items() if k in names}
        kernel, padding = given.get("kernel"), given.get("padding", 0)
        ceil, inside, divisor = given.get("ceil", False), given.get("inside", True), given.get("divisor")
    else:
        return None
    padded = any(padding) if isinstance(padding, (tuple, list)) else bool(padding)
    if kernel is None or divisor is not None or ceil or (padded and not inside):
        return None
    ky, kx = kernel if isinstance(kernel, (tuple, list)) and len(kernel) == 2 else (kernel, kernel)
    ky, kx = (k[0] if isinstance(k, (tuple, list)) else k for k in (ky, kx))
    return ky * kx

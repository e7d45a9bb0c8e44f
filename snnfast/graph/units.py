"""Inputs of products that are small integers times a unit: spikes of one neuron layer, passed on, max-pooled, or added up by average pooling.

A value that joins several layers (a residual's sum, channels laid side by side) has no single unit, and neither has the value of a function such as
layer norm.
"""

import dataclasses
from typing import NamedTuple

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
    pooling = pooling_of(node, layer)
    if pooling is not None:
        return unit.pooled(pooling.window)
    sized = isinstance(layer, _M.AdaptiveAvgPool2d) or (layer is None and name_of(node) in _SIZED and _is_spatial(node))
    return dataclasses.replace(unit, sized=(*unit.sized, node)) if sized else None


def _is_spatial(node):
    """Whether a mean is over the places of an image; True for other functions."""
    if name_of(node) != "mean":
        return True
    dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    return isinstance(dims, (tuple, list)) and sorted(dims) in ([2, 3], [-2, -1])


class Pooling(NamedTuple):
    """An average pooling that adds up as many values at every place; pairs (vertical, horizontal)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]

    @property
    def window(self):
        return self.kernel[0] * self.kernel[1]


def pooling_of(node, layer):
    """The `Pooling` of a node, a layer or a function; None of others, and where places add up different numbers of values."""
    if isinstance(layer, _M.AvgPool2d):
        given = dict(kernel=layer.kernel_size, stride=layer.stride, padding=layer.padding, ceil=layer.ceil_mode, inside=layer.count_include_pad,
                     divisor=layer.divisor_override)  # fmt: skip
    elif layer is None and name_of(node) == "avg_pool2d":
        given = dict(zip(("kernel", "stride", "padding", "ceil", "inside", "divisor"), node.args[1:]))
        names = dict(kernel_size="kernel", ceil_mode="ceil", count_include_pad="inside", divisor_override="divisor")
        given |= {names.get(k, k): v for k, v in node.kwargs.items() if k != "input"}
    else:
        return None
    kernel, padding = _pair(given.get("kernel")), _pair(given.get("padding") or 0)
    if kernel is None or given.get("divisor") is not None or given.get("ceil") or (any(padding) and not given.get("inside", True)):
        return None
    return Pooling(kernel, _pair(given.get("stride") or kernel), padding)


def _pair(n):
    """(vertical, horizontal) of a number, or of one or two in a list or tuple; None of None."""
    if n is None or isinstance(n, int):
        return None if n is None else (n, n)
    return (int(n[0]), int(n[-1]))

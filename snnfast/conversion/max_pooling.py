"""Max pooling of spikes, which does not commute with rates: its spiking forms keep a running sum over time.

average      the maximum is replaced by the mean, which commutes; another function than the network's
difference   out_t = max(S_t) - max(S_(t-1)) with S the running sum: the outputs of t steps sum to the maximum of the summed inputs
gated        out_t = the input of that neuron of the window whose sum so far is the largest (Rueckauer et al., 2017)
"""

import torch
from torch.nn import functional as F

from snnfast.conversion import functions
from snnfast.graph.rows import rows_of
from snnfast.graph.vocabulary import called
from snnfast.nn.over_time import Pool

FORMS = ("difference", "gated", "average")
_MODULES = {torch.nn.MaxPool1d: 1, torch.nn.MaxPool2d: 2, torch.nn.MaxPool3d: 3}
_FUNCTIONS = {F.max_pool1d: 1, F.max_pool2d: 2, F.max_pool3d: 3, torch.max_pool1d: 1, torch.max_pool2d: 2, torch.max_pool3d: 3}
_ARGUMENTS = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_DEFAULTS = dict(stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False)


def window_of(node, gm):
    """(dimensions, arguments) of the max pooling that a node is, or None."""
    if node.op == "call_module":
        layer = gm.get_submodule(node.target)
        if type(layer) not in _MODULES:
            return None
        return _MODULES[type(layer)], {name: getattr(layer, name) for name in _ARGUMENTS}
    if node.op == "call_function" and node.target in _FUNCTIONS:
        given = dict(zip(_ARGUMENTS, node.args[1:])) | {k: v for k, v in node.kwargs.items() if k in _ARGUMENTS}
        return _FUNCTIONS[node.target], {**_DEFAULTS, **given}
    return None


def replace_function(node, gm, form):
    """Puts a spiking form in place of a maximum over whole dimensions, or of an adaptive pooling; returns the nodes that are new."""
    if form == "gated":
        raise ValueError(f"{called(node, gm)} has no gated form: use maxpool='difference' or 'average'")
    if form == "difference":
        return [functions.over_time(gm, node, f"maximum ({getattr(node.target, '__name__', 'amax')})", [True])]
    name = getattr(node.target, "__name__", "amax")
    node.target = torch.mean if "amax" in name else getattr(F, name.replace("max", "avg"))
    node.meta["kind"] = "linear"
    return []


def is_elsewhere(node):
    """Whether the images of its value do not come first."""
    rows = rows_of(node)
    return rows is not None and (rows.axis > 0 or rows.outer > 1)


def replaced(node, gm, form):
    """The module to put in place of a max pooling, or None if the node is no max pooling."""
    window = window_of(node, gm)
    if window is None:
        return None
    dims, given = window
    if given.pop("return_indices"):
        raise ValueError(f"{called(node, gm)} returns the indices of a max pooling, which spikes do not have")
    if form == "gated" and is_elsewhere(node):
        raise ValueError(f"{called(node, gm)} has no gated form where the images are not the first dimension: use maxpool='difference'")
    if form != "average":
        return Pool(dims, form, **given)
    dilation = given.pop("dilation")
    if any(d != 1 for d in ([dilation] if isinstance(dilation, int) else dilation)):
        raise ValueError(f"{called(node, gm)} is a dilated max pooling, which has no average form; use maxpool='difference'")
    return (torch.nn.AvgPool1d, torch.nn.AvgPool2d, torch.nn.AvgPool3d)[dims - 1](**given)

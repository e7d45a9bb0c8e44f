"""What stays analog: activations, recurrent layers and the like in front of the first neurons, which no neuron replaces."""

import torch

from snnfast import nn
from snnfast.graph import commutes
from snnfast.graph.vocabulary import called, module_of
from snnfast.nn.pointwise import Pointwise

m = torch.nn
# Layers that are not linear, but no activations either: no neuron ever replaces them.
_STAY = (m.MaxPool1d, m.MaxPool2d, m.MaxPool3d, m.LayerNorm, m.GroupNorm, m.RMSNorm, m.InstanceNorm1d, m.InstanceNorm2d, m.InstanceNorm3d,
         m.Softmax, m.LogSoftmax, m.LocalResponseNorm, m.Unflatten, m.modules.dropout._DropoutNd)  # fmt: skip
_NAMES = ("norm", "softmax", "attention", "clamp", "std", "var", "pow", "sqrt")  # in names of functions that are no activations either
_ACTIVATIONS = (
    "relu",
    "relu6",
    "hardtanh",
    "leaky_relu",
    "elu",
    "selu",
    "celu",
    "gelu",
    "silu",
    "mish",
    "sigmoid",
    "tanh",
    "softplus",
    "hardswish",
)


def names(gm, plan):
    """The layers and functions of a graph that stay analog, for a message; without those whose values reach neurons alone."""
    found = []
    for node in gm.graph.nodes:
        if node in plan.from_image and node.op in ("call_module", "call_function", "call_method") and _is_one(node, gm):
            if not all(_fires(user, plan) for user in node.users):
                found.append(called(node, gm))
    return list(dict.fromkeys(found))


def _fires(node, plan):
    """Whether a node is a neuron, or a gate or a view in front of neurons alone."""
    through = node.meta.get("kind") in ("product", "view") and bool(node.users)
    return node in plan.firing or (through and all(_fires(user, plan) for user in node.users))


def _is_one(node, gm):
    kind = node.meta.get("kind")
    if isinstance(module_of(gm, node), Pointwise):
        return True
    if kind is None and node.op == "call_module":
        layer = gm.get_submodule(node.target)
        return not isinstance(layer, (*commutes.MODULES, *_STAY, nn.SpikeMask)) and not hasattr(layer, "over_last")
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if kind is None:
        return name.rstrip("_") in _ACTIVATIONS
    return kind in ("function", "refused", "activation") and not any(part in name for part in _NAMES)

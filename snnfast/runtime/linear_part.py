"""The linear part of the nodes between neurons, for the steps of a differential run that get no constants: no bias, no shift, nothing added."""

import copy

import torch
from torch.nn import functional as F

from snnfast.graph.vocabulary import ADD, is_product

_NORM = torch.nn.modules.batchnorm._BatchNorm
JOINS = {torch.cat, torch.stack}


class Scale(torch.nn.Module):
    """A batch norm in eval mode without its shift: x gamma/sqrt(var + eps) along dimension 1, or along the last dimension if the norm runs there."""

    def __init__(self, norm):
        super().__init__()
        factor = torch.rsqrt(norm.running_var + norm.eps)
        self.register_buffer("factor", factor if norm.weight is None else factor * norm.weight)
        self.last = hasattr(norm, "over_last")

    def forward(self, x):
        return x * (self.factor if self.last else self.factor.view(-1, *[1] * (x.dim() - 2)))


def module_without_constant(module):
    """The linear part of a layer: itself where it has no constant, else a layer that shares its weights."""
    if isinstance(module, _NORM):
        return Scale(module)
    if getattr(module, "bias", None) is None:
        return module
    twin = copy.copy(module)
    twin._parameters = {**module._parameters, "bias": None}
    twin.__dict__.pop("bias", None)  # a bias that is a plain tensor
    return twin


def is_join(node):
    """Whether a node adds, concatenates or stacks its inputs: a constant input then is a term of the result, not a factor."""
    return node.target in ADD or node.target in JOINS


def has_number(node, args):
    """Whether a node adds a number, a literal or one computed from sizes. args: the values of its arguments."""
    return node.target in ADD and any(isinstance(a, (int, float)) for a in args)


def without_constant(node, gm, args, kwargs):
    """The arguments of a node without constants: a function of weights loses its bias, a sum its numbers."""
    if node.op == "call_function" and is_product(node, gm):
        return (*args[:2], *((None,) if len(args) > 2 else ()), *args[3:]), {**kwargs, **({"bias": None} if "bias" in kwargs else {})}
    if node.target in ADD and any(isinstance(a, torch.Tensor) for a in (*args, *kwargs.values())):  # else the node adds sizes, not values
        zeroed = lambda a: 0 if isinstance(a, (int, float)) else a  # noqa: E731
        return tuple(map(zeroed, args)), {k: a if k == "alpha" else zeroed(a) for k, a in kwargs.items()}
    return args, kwargs


def check(node, gm, plan):
    """Raises ValueError if a node has a constant that `without_constant` cannot take away."""
    layer = gm.get_submodule(node.target) if node.op == "call_module" else None
    if layer is not None and (layer._forward_hooks or layer._forward_pre_hooks):
        raise ValueError(
            f"{node.target} has a forward hook, which a differential run would call with differences: remove it before conversion"
        )
    if node in plan.without_values[1]:
        raise ValueError(
            f"{node.name} is a constant that is made with a size or dtype of values that come over time: make it of parameters alone"
        )
    if node.op == "call_function" and is_product(node, gm):
        bias = node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")
        if isinstance(bias, torch.fx.Node) and bias in plan.per_row:
            raise ValueError(f"{node.name} has a bias that follows from the image: add it behind")
    value = node.kwargs.get("value", node.args[3] if len(node.args) > 3 else None) if node.target is F.pad else None
    if value:
        raise ValueError(f"{node.name} pads with {value}, a constant that a differential run would add at every step: pad with 0")

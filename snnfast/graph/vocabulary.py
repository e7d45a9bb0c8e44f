"""What a node of a graph is: what it calls; a size, a softmax, a product with weights, or a function that does not commute with rates."""

import operator

import torch
from torch.nn import functional as F

m = torch.nn


def called(node, gm):
    """What a node calls, for a message."""
    if "told" in node.meta:
        return node.meta["told"]
    if node.op == "call_module":
        return f"{node.target} ({type(gm.get_submodule(node.target)).__name__})"
    return f"{node.target if isinstance(node.target, str) else node.target.__name__} (node {node.name})"


def is_size(node):
    """Whether a node comes from the shape of the image, not from its values."""
    if "kind" in node.meta:
        return node.meta["kind"] == "size"
    if node.op == "call_method" and node.target in ("size", "dim"):
        return True
    if node.target is getattr:
        return node.args[1] in ("shape", "ndim", "dtype", "device")
    return node.target is operator.getitem and isinstance(node.args[0], torch.fx.Node) and is_size(node.args[0])


ADD = {operator.add, operator.sub, operator.iadd, operator.isub, torch.add, torch.sub, "add", "sub"}


def module_of(gm, node):
    return gm.get_submodule(node.target) if node.op == "call_module" else None


SOFTMAX = {torch.nn.Softmax: "softmax", torch.nn.LogSoftmax: "log_softmax", F.softmax: "softmax", torch.softmax: "softmax",
           F.log_softmax: "log_softmax", torch.log_softmax: "log_softmax", "softmax": "softmax", "log_softmax": "log_softmax"}  # fmt: skip


def softmax_of(gm, node):
    """(name, dimension) of the softmax or log_softmax that a node is, or None; the dimension is None where it is not given."""
    layer = module_of(gm, node)
    if layer is not None:
        name, dim = SOFTMAX.get(type(layer)), getattr(layer, "dim", None)
    else:
        name, dim = SOFTMAX.get(node.target), node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
    return None if name is None else (name, dim)


# Functions of one image at a time, at least one of whose arguments is what spikes reach.
FUNCTION_MODULES = (
    m.LayerNorm, m.RMSNorm, m.GroupNorm, m.Softmax, m.LogSoftmax, m.GELU, m.SiLU, m.Sigmoid, m.Tanh, m.ELU, m.LeakyReLU, m.Softplus, m.Hardswish,
    m.Hardsigmoid, m.PReLU, m.Mish, m.SELU, m.CELU, m.LogSigmoid, m.LocalResponseNorm, m.InstanceNorm1d, m.InstanceNorm2d, m.InstanceNorm3d,
)  # fmt: skip


FUNCTIONS = {
    F.layer_norm, F.rms_norm, F.group_norm, F.softmax, torch.softmax, F.log_softmax, torch.log_softmax, F.gelu, F.silu, torch.sigmoid, F.sigmoid,
    torch.tanh, F.tanh, F.scaled_dot_product_attention, "softmax", "log_softmax", "sigmoid", "tanh",
}  # fmt: skip


PRODUCTS = {operator.matmul, torch.matmul, torch.bmm, operator.mul, torch.mul, "matmul", "bmm", "mul"}


def is_function(node, gm, spiking):
    """Whether a node that spikes reach is such a function. A softmax over the images is none; a product is one if both factors are in `spiking`."""
    kind = node.meta.get("kind")
    if kind == "product":
        factors = []  # a factor that stands twice counts twice
        torch.fx.node.map_arg((node.args, node.kwargs), factors.append)
        return sum(a in spiking for a in factors) > 1 or (node.target is operator.truediv and node.args[1] in spiking)
    if kind is not None:
        return kind == "function"
    softmax = softmax_of(gm, node)
    if softmax is not None and softmax[1] in (None, 0) and "rows" not in node.meta:  # with noted `rows` it is not over the images
        return False
    if node.op == "call_module":
        return isinstance(gm.get_submodule(node.target), FUNCTION_MODULES)
    if node.target in FUNCTIONS:
        return True
    return node.target in PRODUCTS and sum(a in spiking for a in node.args[:2] if isinstance(a, torch.fx.Node)) == 2


WEIGHTED = (torch.nn.modules.conv._ConvNd, torch.nn.Linear)


_FUNCTIONS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear")


def is_product(node, gm):
    """Whether a node multiplies by weights."""
    if node.op == "call_module":
        return isinstance(gm.get_submodule(node.target), WEIGHTED)
    return node.op == "call_function" and getattr(node.target, "__name__", "") in _FUNCTIONS


def weight_of(node, gm, env):
    """The weights a node multiplies by, or None. env: values of the nodes, for weights that are an argument."""
    if not is_product(node, gm):
        return None
    if node.op == "call_module":
        return gm.get_submodule(node.target).weight
    return env.get(node.args[1] if len(node.args) > 1 else node.kwargs.get("weight"))

"""What may stand between two neurons: maps that are linear in the spikes, one image and one step at a time, so that they commute with rates."""

import operator

import torch
from torch.nn import functional as F

from snnfast.graph.vocabulary import ADD, PRODUCTS, called, is_function, is_size

m = torch.nn
MODULES = (
    m.Conv1d, m.Conv2d, m.Conv3d, m.ConvTranspose1d, m.ConvTranspose2d, m.ConvTranspose3d, m.Linear, m.Identity, m.Flatten,
    m.AvgPool1d, m.AvgPool2d, m.AvgPool3d, m.AdaptiveAvgPool1d, m.AdaptiveAvgPool2d, m.AdaptiveAvgPool3d,
    m.BatchNorm1d, m.BatchNorm2d, m.BatchNorm3d, m.SyncBatchNorm, m.ZeroPad2d, m.Upsample, m.PixelShuffle, m.ChannelShuffle,
)  # fmt: skip
LINEAR = {
    torch.flatten, torch.cat, torch.split, torch.chunk, torch.unbind, torch.roll, torch.stack,
    torch.neg, operator.neg, torch.reshape, torch.permute, torch.transpose, operator.getitem, getattr,
    F.conv1d, F.conv2d, F.conv3d, F.linear, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d,
    F.pad, F.interpolate, "flatten", "view", "reshape", "permute", "transpose", "contiguous", "size", "dim", "clone", "detach", "unflatten",
    "unsqueeze", "squeeze", "neg", "chunk", "split", "unbind", "roll",
}  # fmt: skip
# Functions that must not touch the first dimension, the images: name -> (position, name) of the argument that says which dimensions they touch.
_FIRST = {"cat": (1, "dim"), "flatten": (1, "start_dim"), "transpose": (1, "dim0"), "chunk": (2, "dim"), "split": (2, "dim"), "unbind": (1, "dim"),
          "unflatten": (1, "dim"),
          "unsqueeze": (1, "dim"), "squeeze": (1, "dim"), "permute": (1, "dims"), "view": (1, "shape"), "reshape": (1, "shape"),
          "roll": (2, "dims"), "stack": (1, "dim")}  # fmt: skip
SCALE = {operator.mul, operator.truediv, operator.imul, operator.itruediv, torch.mul, torch.div, "mul", "div"}
MATMUL = {operator.matmul, torch.matmul, "matmul"}
REDUCE = {torch.mean, torch.sum, "mean", "sum"}


def _dims(node):
    dims = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
    return None if dims is None else [dims] if isinstance(dims, int) else list(dims)


def _keeps_images(node):
    """False if a node of LINEAR mixes, drops or reorders images: it then would mix time steps too."""
    name = node.target if isinstance(node.target, str) else node.target.__name__
    if name == "getitem":
        index = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
        return not isinstance(node.args[0], torch.fx.Node) or index[0] in (slice(None), Ellipsis) or is_size(node) or _is_list(node.args[0])
    if name not in _FIRST:
        return True
    at, key = _FIRST[name]
    value = node.kwargs.get(
        key, node.args[at] if len(node.args) > at else {"flatten": 0, "cat": 0, "chunk": 0, "split": 0, "unbind": 0, "stack": 0}.get(name)
    )
    if name == "transpose":
        return 0 not in (value, node.kwargs.get("dim1", node.args[2] if len(node.args) > 2 else None))
    if name == "roll":
        dims = [value] if isinstance(value, int) else value or [0]
        return 0 not in dims
    if name in ("permute", "view", "reshape"):
        shape = value if isinstance(value, (tuple, list)) else node.args[1:]
        if name == "permute":
            return bool(shape) and shape[0] == 0
        return bool(shape) and (shape[0] == -1 or isinstance(shape[0], torch.fx.Node))
    return value is not None and value != 0


def _is_list(node):
    """Whether a node gives several tensors, of which an index takes one."""
    return (node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")) in ("chunk", "split", "unbind")


def check(node, gm, plan, per_step=False):
    """Raises ValueError, naming the node, if the node is not known to commute with rates. per_step: the caller asked that functions which do not
    commute are computed step by step."""
    sizes = [a for a in node.all_input_nodes if a in plan.from_image and is_size(a)]
    if sizes:
        raise ValueError(
            f"{called(node, gm)} uses a size of the image; time and batch are merged here, so write flatten(1) or h.size(0) instead"
        )
    target = node.target
    if "kind" not in node.meta and target in SCALE | MATMUL | PRODUCTS and len(node.args) < 2:
        raise ValueError(f"{called(node, gm)} has no spiking form with operands by name: give them by place")
    if is_function(node, gm, plan.spiking):
        if not per_step:
            raise ValueError(
                f"{called(node, gm)} has no spiking form that commutes with rates: say mode='differential', which converges to the network "
                "(activations that are not quantised become neurons with levels=, from calibrate= images), or mode='per_step', which is biased"
            )
        return
    kind = node.meta.get("kind")
    if kind is not None:
        ok = kind in ("linear", "affine", "view", "product")
    elif node.op == "call_module":
        ok = isinstance(gm.get_submodule(target), MODULES)
    elif target in LINEAR:
        ok = True
        if not _keeps_images(node):
            raise ValueError(f"{called(node, gm)} changes the first dimension, the images, with which time is merged here")
    elif target in ADD:
        ok = True
    elif target in MATMUL:
        ok = node.args[0] in plan.spiking  # times a parameter: the images are the rows
    elif target in SCALE:
        # One factor is a spike, the other a number or a parameter; nothing is divided by a spike.
        ok = sum(a in plan.spiking for a in (*node.args, *node.kwargs.values()) if isinstance(a, torch.fx.Node)) == 1
        product = target in (operator.mul, operator.imul, torch.mul, "mul")
        ok = ok and not node.kwargs.get("rounding_mode") and (node.args[0] in plan.spiking or product)
    elif target in REDUCE:
        dims = _dims(node)
        ok = dims is not None and 0 not in dims
    else:
        ok = False
    if not ok:
        raise ValueError(
            f"{called(node, gm)} has no spiking form here, because it does not commute with rates: use a quantised activation "
            "(snnfast.nn), or a ReLU and calibrate= images, in place of an activation function"
        )

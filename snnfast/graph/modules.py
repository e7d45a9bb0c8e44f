"""Operators of torch.export that become modules, made of their constant arguments. Neurons, sparse products, folds and fused kernels know modules.

A maker takes (lowering, node, arguments by name) and gives True, or False if an argument that must be constant is not.
"""

import torch
from torch import nn

from snnfast.graph import aten

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORM = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
POOL = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}


def _parameter(value):
    return value if isinstance(value, nn.Parameter) or value is None else nn.Parameter(value.detach(), requires_grad=False)


def _key(node, *given):
    """The key of a layer: two calls are the same layer if their values are the same, tensors compared by identity."""
    return (node.target, *(id(a) if isinstance(a, torch.Tensor) else repr(a) for a in given))


def _with(layer, weight, bias):
    layer.weight, layer.bias = _parameter(weight), _parameter(bias)
    return layer.eval()


def _weighted(lowering, given):
    """(weight, bias) of a layer, or None where one follows from the images."""
    if not (lowering.is_constant(given["weight"]) and lowering.is_constant(given["bias"])):
        return None
    return lowering.value(given["weight"]), lowering.value(given["bias"])


def _explicit(padding, kernel, dilation):
    """Padding as numbers where it is the same on both sides."""
    if padding == "valid":
        return (0,) * len(kernel)
    whole = [d * (k - 1) for d, k in zip(dilation, kernel)]
    return padding if any(w % 2 for w in whole) else tuple(w // 2 for w in whole)


def convolution(lowering, node, given):
    weights = _weighted(lowering, given)
    if weights is None:
        return False
    weight, bias = weights
    dims = weight.dim() - 2
    each = lambda name: tuple(given[name]) * (dims if len(given[name]) == 1 else 1)
    stride, dilation, groups = each("stride"), each("dilation"), given["groups"]
    turned = "transpose" in node.target._schema.name or bool(given.get("transposed"))
    name = lowering.path_for(node, nn.modules.conv._ConvNd)
    padding = given["padding"]
    padding = _explicit(padding, weight.shape[2:], dilation) if isinstance(padding, str) else each("padding")
    how = dict(stride=stride, padding=padding, dilation=dilation, groups=groups, bias=bias is not None, device="meta")
    if turned:
        channels, kind, how = (weight.size(0), weight.size(1) * groups), TRANSPOSED[dims], how | {"output_padding": each("output_padding")}
    else:
        channels, kind = (weight.size(1) * groups, weight.size(0)), CONV[dims]
    make = lambda: kind(*channels, tuple(weight.shape[2:]), **how)
    key = _key(node, weight, bias, *(given[k] for k in given if k not in ("input", "weight", "bias")))
    lowering.layer(node, name, lambda: _with(make(), weight, bias), given["input"], key)
    return True


def linear(lowering, node, given):
    weights = _weighted(lowering, given)
    if weights is None or weights[0].dim() != 2:
        return False
    weight, bias = weights
    make = lambda: _with(nn.Linear(weight.size(1), weight.size(0), bias is not None, device="meta"), weight, bias)
    lowering.layer(node, lowering.path_for(node, nn.Linear), make, given["input"], _key(node, weight, bias))
    return True


def batch_norm(lowering, node, given):
    names = "weight", "bias", "running_mean", "running_var"
    if given.get("training") or given["running_mean"] is None or not all(lowering.is_constant(given[n]) for n in names):
        raise ValueError(f"{lowering.told(node)} has no running statistics: it would mix the images of a batch")
    weight, bias, mean, var = (lowering.value(given[n]) for n in names)
    kind = NORM[given["input"].meta["val"].dim()]

    def make():
        affine = weight is not None or bias is not None
        norm = kind(mean.numel(), given["eps"], affine=False, device="meta")
        norm.affine = affine
        one, zero = torch.ones_like(mean), torch.zeros_like(mean)
        norm.running_mean, norm.running_var, norm.num_batches_tracked = mean.detach(), var.detach(), None
        return _with(norm, (one if weight is None else weight) if affine else None, (zero if bias is None else bias) if affine else None)

    name = lowering.path_for(node, nn.modules.batchnorm._BatchNorm)
    lowering.layer(node, name, make, given["input"], _key(node, weight, bias, mean, var, given["eps"]))
    lowering.made[node].meta["first_alone"] = True
    return True


def layer_norm(lowering, node, given):
    weights = _weighted(lowering, given)
    if weights is None:
        return False
    weight, bias = weights
    shape = tuple(int(n) for n in given["normalized_shape"])
    make = lambda: _with(nn.LayerNorm(shape, given["eps"], elementwise_affine=False), weight, bias)
    lowering.layer(node, lowering.path_for(node, nn.LayerNorm), make, given["input"], _key(node, weight, bias, shape, given["eps"]))
    return True


def group_norm(lowering, node, given):
    weights = _weighted(lowering, given)
    if weights is None:
        return False
    weight, bias = weights
    channels, groups = int(given["input"].meta["val"].shape[1]), given["num_groups"]
    make = lambda: _with(nn.GroupNorm(groups, channels, given["eps"], affine=False), weight, bias)
    lowering.layer(node, lowering.path_for(node, nn.GroupNorm), make, given["input"], _key(node, weight, bias, groups, given["eps"]))
    return True


def softmax(lowering, node, given):
    if given.get("dtype") is not None:
        return False
    kind = nn.LogSoftmax if "log" in node.target._schema.name else nn.Softmax
    lowering.layer(node, lowering.path_for(node, kind), lambda: kind(given["dim"]), given["self"], _key(node, given["dim"]))
    return True


def max_pool(lowering, node, given):
    dims = int(node.target._schema.name.split("max_pool")[1][0])
    args = {
        k: tuple(given[k]) if isinstance(given[k], (list, tuple)) else given[k] for k in ("kernel_size", "stride", "padding", "dilation")
    }
    make = lambda: POOL[dims](args["kernel_size"], args["stride"] or None, args["padding"], args["dilation"], ceil_mode=given["ceil_mode"])
    lowering.layer(node, lowering.path_for(node, POOL[dims]), make, given["self"], _key(node, args, given["ceil_mode"]))
    lowering.made[node].meta["first_alone"] = "indices" in node.target._schema.name
    return True


# ---- activations that are neurons: clipped to [0, most], most None where nothing clips


def _bounds(lowering, node, given):
    """(source, least, most) of a clip, or None."""
    name = node.target._schema.name.split("::")[1]
    number = lambda key: lowering.value(given.get(key))
    if name == "relu":
        return given["self"], 0.0, None
    if name == "hardtanh":
        return given["self"], number("min_val"), number("max_val")
    if name == "relu6":
        return given["self"], 0.0, 6.0
    if name in ("where", "masked_fill"):
        return _chosen(lowering, node, given)
    if name == "threshold":
        return (given["self"], 0.0, None) if number("threshold") == 0 and number("value") == 0 else None
    if name in ("maximum", "max", "minimum", "min"):
        pair = given["self"], given.get("other")
        data = [a for a in pair if not lowering.is_constant(a)]
        constant = [lowering.value(a) for a in pair if lowering.is_constant(a)]
        if len(data) != 1 or not isinstance(constant[0], torch.Tensor):
            return None
        if name.startswith("max"):
            return None if bool(constant[0].any()) else (data[0], 0.0, None)
        return (data[0], None, float(constant[0])) if constant[0].numel() == 1 else None
    least, most = number("min"), number("max")
    if any(isinstance(b, torch.Tensor) and b.numel() > 1 for b in (least, most)):
        return None
    return given["self"], least, most


def _chosen(lowering, node, given):
    """The bounds of where(x > 0, x, 0) and of x.masked_fill(x < 0, 0), which are ReLUs, or None."""
    picks = node.target._schema.name.endswith("where")
    x, mask, other = (given["self"], given["condition"], given["other"]) if picks else (given["self"], given["mask"], given["value"])
    signs = ("gt", "ge") if picks else ("lt", "le")
    if (
        not isinstance(mask, torch.fx.Node)
        or aten.name_of(mask.target) not in signs
        or mask.args[0] is not x
        or not lowering.is_constant(other)
    ):
        return None
    values = [lowering.value(a) if lowering.is_constant(a) else None for a in (mask.args[1], other)]
    zeros = [v is not None and not bool(torch.as_tensor(v).any()) for v in values]
    return (x, 0.0, None) if all(zeros) else None


def clip(lowering, node, given):
    if any(not lowering.is_constant(given.get(k)) for k in ("min", "max") if k in given):
        return False
    value = node.meta["val"]
    if isinstance(value, torch.Tensor) and not value.is_floating_point():  # whole numbers are no activations
        return False
    bounds = _bounds(lowering, node, given)
    if bounds is None:
        return False
    source, least, most = bounds
    if least is None and source in lowering.clips and len(source.users) == 1:  # relu, then clamp(max=)
        (source, above), least = lowering.clips[source], 0.0
        most = above if most is None else most if above is None else min(float(most), above)
    if least is None or float(least) != 0 or (most is not None and not float(most) > 0):
        return False
    most = None if most is None else float(most)
    path, layer = lowering.place(node)
    if isinstance(layer, (nn.ReLU, nn.ReLU6, nn.Hardtanh)):
        make = nn.ReLU if most is None else lambda: nn.ReLU6() if most == 6 else nn.Hardtanh(0.0, most)
        made = lowering.layer(node, path, make, source, ("clip", path, most))
    else:
        call = lambda x: lowering.graph.call_function(*((torch.relu, (x,)) if most is None else (torch.clamp, (x, 0.0, most))))
        made = lowering.neuron(node, source, call, {"told": lowering.told(node)})
    made.meta["kind"] = "activation"
    lowering.clips[node] = source, most
    return True


MADE = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution"), convolution),
    **dict.fromkeys(("batch_norm", "_native_batch_norm_legit_no_training"), batch_norm),
    **dict.fromkeys(("softmax", "log_softmax"), softmax),
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices"), max_pool),
    **dict.fromkeys(
        ("relu", "relu6", "hardtanh", "threshold", "maximum", "max", "minimum", "min", "clamp", "clip", "clamp_min", "clamp_max"), clip
    ),
    **dict.fromkeys(("where", "masked_fill"), clip),
    "linear": linear,
    "layer_norm": layer_norm,
    "group_norm": group_norm,
}

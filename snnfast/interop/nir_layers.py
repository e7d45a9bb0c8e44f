"""Layers without a state in NIR, and back.

NIR has no batch: shapes are those of one image. What NIR cannot say stands in the metadata of a node, so that the same layer is read back.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from snnfast import checks
from snnfast.graph.aten import name_of
from snnfast.interop.nir_neurons import compact, note_of, noted

POOLS = {  # functions with the arguments of layers: names of the arguments in their order
    "avg_pool2d": (nn.AvgPool2d, "kernel_size stride padding ceil_mode count_include_pad divisor_override"),
    "max_pool2d": (nn.MaxPool2d, "kernel_size stride padding dilation ceil_mode"),
    "adaptive_avg_pool2d": (nn.AdaptiveAvgPool2d, "output_size"),
}
VIEWS = {"flatten", "view", "reshape", "_unsafe_view", "unflatten", "squeeze", "unsqueeze", "contiguous", "clone", "dropout"}
CASTS = {"to", "_to_copy", "float"}
SILENT = (
    nn.Identity,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
    nn.Flatten,
    nn.Unflatten,
)


class Unknown(Exception):
    """Why NIR has no such layer."""


def is_sum(node: Any) -> bool:
    """Whether a node adds values, and nothing else."""
    return _name(node) in ("add", "iadd") and not node.kwargs and all(isinstance(a, torch.fx.Node) for a in node.args)


def is_product(node: Any) -> bool:
    return _name(node) == "mul"


def passes_sizes(node: Any, layer: nn.Module | None) -> bool:
    """Whether a layer or function passes on a factor of a whole channel: average pooling, and views that keep channels in front."""
    if layer is not None:
        return isinstance(layer, (nn.AvgPool2d, nn.AdaptiveAvgPool2d, *SILENT))
    return _name(node) in VIEWS | {"avg_pool2d", "adaptive_avg_pool2d", "mean"} and len(node.all_input_nodes) == 1


def to_nir(
    node: Any, layer: nn.Module | None, x: torch.Tensor, y: torch.Tensor, spike: float | None, fixed: torch.Tensor | None
) -> list[Any]:
    """NIR's nodes, one behind the other, of a layer or function of one value x [B, ...] that gives y. spike: how large x is where it is not 0.
    fixed: a tensor that is the other argument.

    Raises:
        Unknown: NIR has none; the reason.
    """
    if layer is None and _name(node) in POOLS:
        cls, names = POOLS[_name(node)]
        layer = cls(**dict(zip(names.split(), node.args[1:]), **node.kwargs))
    if isinstance(layer, nn.MaxPool2d):
        return _maximum(layer, x, y, spike)
    for kind, write in WRITERS.items():
        if type(layer) is kind:
            return [write(layer, x, y)]
    if isinstance(layer, SILENT) or (layer is None and _name(node) in VIEWS):
        return _view(x, y)
    if layer is None and _name(node) == "mean":
        return _mean(node, x, y)
    if layer is None and _name(node) in ("mul", "truediv", "div"):
        return [_scale(node, x, y, fixed)]
    if layer is None and _name(node) == "gt":
        return [_over(node, x, y, fixed)]
    if layer is None and _name(node) in CASTS and x.dtype == torch.bool:
        return []  # a Threshold gives 0 and 1 already
    raise Unknown("its primitives are neurons, convolutions, linear layers, average pooling, sums, scales and flattening")


def _name(node):
    return name_of(node.target) or getattr(node.target, "__name__", node.target)


def _array(t, like=None):
    return np.ascontiguousarray(t.detach().cpu().numpy()) if t is not None else np.zeros(len(like), checks.dtype_name(like.dtype))


def _conv(layer, x, y):
    import nir

    if layer.padding_mode != "zeros":
        raise Unknown(f"it pads with {layer.padding_mode}")
    if x.dim() != layer.weight.dim():
        raise Unknown(f"its input has the shape {tuple(x.shape)}")
    dims = len(layer.kernel_size)
    one = lambda v: v if isinstance(v, str) else v[0] if dims == 1 else tuple(v)  # noqa: E731
    how = dict(
        input_shape=tuple(x.shape[2:]) if dims == 2 else x.size(2), weight=_array(layer.weight), bias=_array(layer.bias, layer.weight),
        stride=one(layer.stride), padding=one(layer.padding), dilation=one(layer.dilation), groups=layer.groups,
        metadata=noted(bias=layer.bias is not None),
    )  # fmt: skip
    made = nir.Conv2d(**how) if dims == 2 else nir.Conv1d(**how)
    made.input_type, made.output_type = {"input": np.array(x.shape[1:])}, {"output": np.array(y.shape[1:])}
    return made


def _linear(layer, x, y):
    import nir

    if x.dim() != 2:
        raise Unknown(f"its input has the shape {tuple(x.shape)}, and a linear layer of NIR takes a vector")
    weight = _array(layer.weight)
    return nir.Linear(weight=weight) if layer.bias is None else nir.Affine(weight=weight, bias=_array(layer.bias))


def _norm(layer, x, y):
    """A batch norm in eval mode, as a convolution of one weight in each channel by itself."""
    if layer.running_mean is None:
        raise Unknown("it has no running statistics")
    if x.dim() == 2:
        raise Unknown("a batch norm of single features, that no convolution stands in front of")
    return _conv(norm_as_conv(layer, x.dim() - 2), x, y)


def norm_as_conv(layer: Any, dims: int) -> nn.Module:
    """A batch norm in eval mode as a convolution of one weight in each channel by itself."""
    mean, C = layer.running_mean, len(layer.running_mean)
    scale = (layer.running_var.double() + layer.eps).rsqrt() * (1 if layer.weight is None else layer.weight.detach().double())
    bias = (0 if layer.bias is None else layer.bias.detach().double()) - mean.double() * scale
    conv = (nn.Conv1d, nn.Conv2d)[dims - 1](C, C, 1, groups=C, device=mean.device, dtype=mean.dtype)
    conv.weight.data, conv.bias.data = scale.to(mean.dtype).view(-1, 1, *[1] * dims), bias.to(mean.dtype)  # type: ignore[union-attr]
    return conv.requires_grad_(False)


def _average(layer, x, y):
    import nir

    kernel, stride, padding, whole = _window(layer, x, y)
    if not whole:
        raise Unknown("ceil_mode adds windows that stand over the border")
    if layer.divisor_override is not None or (any(padding) and not layer.count_include_pad):
        raise Unknown("its divisor is not the size of its window")
    return nir.AvgPool2d(kernel_size=np.array(kernel), stride=np.array(stride), padding=np.array(padding))


def _window(layer, x, y):
    """(kernel, stride, padding, whether no window stands over the border) of a pooling."""
    kernel, stride, padding = (_pair(v) for v in (layer.kernel_size, layer.stride, layer.padding))
    places = [(n + 2 * p - k) // s + 1 for n, k, s, p in zip(x.shape[-2:], kernel, stride, padding)]
    return kernel, stride, padding, list(y.shape[-2:]) == places


def _adaptive(layer, x, y):
    if any(n % m for n, m in zip(x.shape[-2:], y.shape[-2:])):
        raise Unknown(f"its windows are not of one size: {tuple(x.shape[-2:])} to {tuple(y.shape[-2:])}")
    return _windows(x, y, adaptive=list(y.shape[-2:]))


def _windows(x, y, **form):
    import nir

    kernel = [n // m for n, m in zip(x.shape[-2:], y.shape[-2:])]
    metadata = noted(kernel=kernel, **form)
    return nir.AvgPool2d(kernel_size=np.array(kernel), stride=np.array(kernel), padding=np.zeros(2, int), metadata=metadata)


def _mean(node, x, y):
    """A mean over the places of an image: an average pooling, and where these dimensions go a Flatten."""
    dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    dims = sorted(d % x.dim() for d in ([dims] if isinstance(dims, int) else dims or ()))
    if x.dim() != 4 or dims != [2, 3]:
        raise Unknown(f"a mean of dimensions {dims} of {tuple(x.shape)}")
    keep = y.dim() == 4
    one = y if keep else y[..., None, None]
    return [_windows(x, one, mean=True)] + ([] if keep else _view(one, y))


def _maximum(layer, x, y, spike):
    """Of spikes of one size: whether one stands in the window."""
    import nir

    kernel, stride, padding, whole = _window(layer, x, y)
    if spike is None or _pair(layer.dilation) != (1, 1) or not whole or x.dim() != 4:
        raise Unknown(
            'NIR has no maximum; of spikes of one size it is a sum and a threshold. Convert with maxpool="average", or train with that'
        )
    shape, dtype = tuple(y.shape[1:]), checks.dtype_name(x.dtype)
    summed = nir.SumPool2d(
        kernel_size=np.array(kernel), stride=np.array(stride), padding=np.array(padding), metadata=noted(maximum=True, kernel=list(kernel))
    )
    made = [summed, nir.Threshold(threshold=np.full(shape, spike / 2, dtype), metadata=noted(maximum=True, of=spike / 2))]
    return made + ([] if spike == 1 else [nir.Scale(np.full(shape, spike, dtype), metadata=noted(maximum=True, of=spike))])


def _scale(node, x, y, fixed):
    import nir

    factor = _fixed(node, x, y, fixed, "product")
    if _name(node) != "mul":
        if (np.abs(np.frexp(factor)[0]) != 0.5).any():
            raise Unknown("it divides by a number that is no power of two")
        factor = 1 / factor
    return nir.Scale(factor)


def _over(node, x, y, fixed):
    import nir

    return nir.Threshold(_fixed(node, x, y, fixed, "comparison"))


def _fixed(node, x, y, fixed, what):
    """The number or tensor behind a value in `x * fixed` or `x > fixed`, as an array of an image's shape."""
    numbers = [a for a in (*node.args, *node.kwargs.values()) if not isinstance(a, torch.fx.Node)]
    one = len(node.args) == 2 and len(numbers) == (fixed is None) and all(isinstance(a, int | float) for a in numbers)
    if not one or not isinstance(node.args[0], torch.fx.Node):
        raise Unknown(f"it is no {what} with a number")
    shape, dtype = tuple(x.shape[1:]), x.dtype if what == "comparison" else y.dtype  # of truth values by a number: that number's
    if fixed is None:
        return np.full(shape, numbers[0], checks.dtype_name(dtype))
    if what == "comparison" and torch.result_type(x, fixed) != dtype:
        raise Unknown(f"it compares {checks.dtype_name(dtype)} with {checks.dtype_name(fixed.dtype)}")
    if x.shape != y.shape or (fixed.dim() == x.dim() and fixed.size(0) != 1):
        raise Unknown(f"it is a {what} with a tensor of another shape than an image's, {tuple(fixed.shape)}")
    return np.ascontiguousarray(fixed.detach().to(dtype).expand(1, *shape)[0].cpu().numpy())


def _view(x, y):
    """Nothing, or a Flatten, which leaves the values in their order."""
    import nir

    a, b = tuple(x.shape[1:]), tuple(y.shape[1:])
    if x.size(0) != y.size(0):
        raise Unknown("it moves images")
    if a == b:
        return []
    for start in range(len(a)):
        for end in range(start, len(a)):
            if a[:start] + (math.prod(a[start : end + 1]),) + a[end + 1 :] == b:
                return [nir.Flatten({"input": np.array(a)}, start, end)]
    raise Unknown(f"NIR can flatten dimensions, not make {b} of {a}")


def _pair(v):
    return (v, v) if isinstance(v, int) else (v[0], v[0]) if len(v) == 1 else tuple(v)


WRITERS: dict[type, Callable] = {
    nn.Conv1d: _conv, nn.Conv2d: _conv, nn.Linear: _linear, nn.BatchNorm1d: _norm, nn.BatchNorm2d: _norm, nn.AvgPool2d: _average,
    nn.AdaptiveAvgPool2d: _adaptive,
}  # fmt: skip


# ---- back


class Mean(nn.Module):
    """The mean over the places of an image, which stay as dimensions of 1."""

    def forward(self, x):
        return x.mean((2, 3), keepdim=True)


class Over(nn.Module):
    """1 where x > threshold, else 0."""

    def __init__(self, threshold):
        super().__init__()
        self.register_buffer("threshold", threshold)

    def forward(self, x):
        return (x > self.threshold).to(x.dtype)


class Scaled(nn.Module):
    """x times a number for each value."""

    def __init__(self, scale):
        super().__init__()
        self.register_buffer("scale", scale)

    def forward(self, x):
        return x * self.scale


def from_nir(node: Any) -> nn.Module | None:
    """The layer of a node without a state; None where there is nothing to do.

    Raises:
        ValueError: it has no counterpart here.
    """
    kind, note = type(node).__name__, note_of(node)
    if kind in ("Affine", "Linear"):
        return _read_linear(node)
    if kind in ("Conv1d", "Conv2d"):
        return _read_conv(node, note)
    if kind in ("AvgPool2d", "SumPool2d"):
        return _read_pool(node, note)
    if kind == "Flatten":
        start, end = int(node.start_dim), int(node.end_dim)
        return nn.Flatten(start + 1 if start >= 0 else start, end + 1 if end >= 0 else end)
    if kind in ("Threshold", "Scale"):
        number = compact(node.threshold if kind == "Threshold" else node.scale)
        if note.get("maximum"):
            if not np.allclose(number, note.get("of", np.nan)):
                raise ValueError("its note of snnfast contradicts its numbers: the file was changed")
            return None
        return Over(number) if kind == "Threshold" else None if (number == 1).all() else Scaled(number)
    raise ValueError(f"{kind} of NIR has no counterpart here; those that have: Affine, Linear, Conv1d, Conv2d, AvgPool2d, SumPool2d, Flatten, Scale, "
                     "Threshold, IF, LIF")  # fmt: skip


def _read_linear(node):
    weight, bias = _weight(node), getattr(node, "bias", None)
    if weight.dim() != 2:
        raise ValueError(f"weight must be [features, inputs], got shape {tuple(weight.shape)}")
    layer = nn.Linear(weight.size(1), weight.size(0), bias is not None, dtype=weight.dtype)
    _fill(layer, weight, bias)
    return layer


def _read_conv(node, note):
    weight = _weight(node)
    dims = weight.dim() - 2
    padding = node.padding if isinstance(node.padding, str) else _numbers(node.padding, dims)
    has_bias = note.get("bias", True) or bool(np.any(node.bias))
    layer = (nn.Conv1d, nn.Conv2d)[dims - 1](
        weight.size(1) * int(node.groups), weight.size(0), tuple(weight.shape[2:]), _numbers(node.stride, dims), padding,
        _numbers(node.dilation, dims), int(node.groups), has_bias, dtype=weight.dtype,
    )  # fmt: skip
    _fill(layer, weight, node.bias if has_bias else None)
    return layer


def _weight(node):
    weight = torch.from_numpy(np.array(node.weight))
    if not weight.is_floating_point():
        raise ValueError(f"weight must be floating numbers, got {checks.dtype_name(weight.dtype)}")
    return weight


def _fill(layer, weight, bias):
    layer.weight.data = weight
    if bias is None:
        return
    if np.shape(bias) != tuple(layer.bias.shape):
        raise ValueError(f"bias must have the shape {tuple(layer.bias.shape)}, got {np.shape(bias)}")
    layer.bias.data = torch.from_numpy(np.array(bias)).to(weight.dtype)


def _read_pool(node, note):
    kernel, stride, padding = (_numbers(v, 2) for v in (node.kernel_size, node.stride, node.padding))
    if note and list(kernel) != note.get("kernel"):
        raise ValueError("its note of snnfast contradicts its kernel: the file was changed")
    if type(node).__name__ == "SumPool2d":
        if note.get("maximum"):
            return nn.MaxPool2d(kernel, stride, padding)
        return nn.AvgPool2d(kernel, stride, padding, divisor_override=1)
    if note.get("mean"):
        return Mean()
    return nn.AdaptiveAvgPool2d(tuple(note["adaptive"])) if "adaptive" in note else nn.AvgPool2d(kernel, stride, padding)


def _numbers(v, dims):
    found = tuple(int(n) for n in np.atleast_1d(np.asarray(v)))
    return found * dims if len(found) == 1 else found

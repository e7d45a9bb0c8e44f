"""The convolution over spikes: schema, fake, autograd, and the public functions `spike_conv2d` and `spike_linear`."""

import torch
from torch import Tensor

from snnfast import checks
from snnfast.engines import reference
from snnfast.engines.reference import gather
from snnfast.equations.synapses.conv import Rule
from snnfast.ops import library

DTYPES = (torch.float32, torch.float64)


def _fwd(x, w, bias, *rule):
    return gather.fwd(reference.conv, x, w, bias, Rule(*rule))


def _out(x, w, bias, out, *rule):
    out.copy_(_fwd(x, w, bias, *rule))


_RULE = "".join(f", int {name}" for name in Rule._fields)
conv_fwd = library.define(f"conv_fwd(Tensor x, Tensor w, Tensor? bias{_RULE}) -> Tensor", _fwd)
conv_out = library.define(f"conv_out(Tensor x, Tensor w, Tensor? bias, Tensor(a!) out{_RULE}) -> ()", _out)
library.fake("conv_fwd", lambda x, w, bias, *rule: x.new_empty(gather.spec(x, w, rule)))
library.fake("conv_out", lambda *args: None)


def _setup(ctx, inputs, output):
    x, w, ctx.bias, *ctx.rule = inputs
    ctx.save_for_backward(x, w)


def _backward(ctx, dy):
    """The gradients of torch's convolution, by torch's."""
    x, w = ctx.saved_tensors
    sizes, has_bias = ctx.rule, ctx.bias is not None
    wants = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], has_bias and ctx.needs_input_grad[2]]
    dx, dw, dbias = torch.ops.aten.convolution_backward(
        dy.permute(0, 3, 1, 2), x.permute(0, 3, 1, 2), w.permute(3, 2, 0, 1), [w.size(3)] if has_bias else None,
        sizes[0:2], sizes[2:4], sizes[4:6], False, [0, 0], gather.groups_of(x.size(3), w.size(2)), wants,
    )  # fmt: skip
    back = lambda t, *order: None if t is None else t.permute(order)  # noqa: E731
    return (back(dx, 0, 2, 3, 1), back(dw, 2, 3, 1, 0), dbias, *[None] * len(ctx.rule))


_call_fwd = library.autograd("conv_fwd", _backward, _setup)


def spike_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """A convolution that skips what is zero, in a specified order of sums.

    Equivalent to `torch.nn.functional.conv2d(x, weight, bias, stride, padding, dilation, groups)` but for the rounding of its sums:
    `snnfast/equations/synapses/conv.py` says in which order they run. The result of an image depends neither on the batch it came in nor on the
    number of threads, and is the same bit for bit on every backend. Its time is that of the non-zeros: on a CPU it is faster than a library's dense
    convolution where less than about half of x is not zero (`bench/studies.py products`).

    Args:
        x: [R, C, H, W], rows are images times steps; fp32 or fp64. Taken as it lies in channels_last memory, otherwise copied.
        weight: [O, C / groups, KY, KX] in x's dtype. Taken as it lies where `weight.permute(2, 3, 1, 0)` is contiguous (`relaid` makes it so),
            otherwise copied in every call.
        bias: [O], or None.
        stride, padding, dilation: a number, or a pair (vertical, horizontal).
        groups: of channels, and as many of outputs; C of them is a depthwise convolution. In groups of few channels (below 48 on a CPU, 16 on
            CUDA) zeros are not skipped, but add nothing either.
        out: a tensor of the result's shape and dtype in channels_last memory to write to; no autograd.

    Returns:
        [R, O, Ho, Wo] in channels_last memory. Gradients reach x, weight and bias; they are torch's.

    Raises:
        ValueError, TypeError: naming the argument, what was given and what is allowed.

    >>> s, weight = torch.zeros(1, 2, 3, 3), torch.ones(1, 2, 3, 3)
    >>> s[0, 0, 1, 1] = 1.0  # one spike
    >>> snnfast.spike_conv2d(s, weight, padding=1)[0, 0].tolist()
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    rule = Rule(*pair("stride", stride, 1), *pair("padding", padding, 0), *pair("dilation", dilation, 1))
    _check(x, weight, bias, 4, "[R, C, H, W]", "[O, C / groups, KY, KX]", checks.integer("groups", groups))
    rows, w = x.permute(0, 2, 3, 1), weight.permute(2, 3, 1, 0)
    R, Ho, Wo, O = gather.spec(rows, w, rule)
    if min(Ho, Wo) < 1:
        raise ValueError(
            f"x of {tuple(x.shape[2:])} places with padding {tuple(rule[2:4])} is smaller than the kernel {tuple(weight.shape[2:])}"
        )
    if out is not None:
        checks.tensor("out", out, (x.dtype,), x.device)
        if tuple(out.shape) != (R, O, Ho, Wo) or not out.permute(0, 2, 3, 1).is_contiguous():
            raise ValueError(f"out must be [R, O, Ho, Wo] = {(R, O, Ho, Wo)} in channels_last memory, got shape {tuple(out.shape)}")
        out = out.permute(0, 2, 3, 1)
    return _launch(rows, w, bias, rule, out).permute(0, 3, 1, 2)


def spike_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, out: Tensor | None = None) -> Tensor:
    """A linear layer that skips what is zero, in a specified order of sums: `spike_conv2d` of one place.

    Args:
        x: [..., I], fp32 or fp64.
        weight: [O, I]; taken as it lies where `weight.t()` is contiguous, otherwise copied in every call.
        bias: [O], or None.
        out: a contiguous tensor [..., O] to write to; no autograd.

    Returns:
        [..., O].

    >>> snnfast.spike_linear(torch.tensor([[0.0, 1.0]]), torch.tensor([[3.0, 4.0]])).tolist()
    [[4.0]]
    """
    _check(x, weight, bias, 2, "[..., I]", "[O, I]")
    rows, shape = x.reshape(-1, 1, 1, x.size(-1)), (*x.shape[:-1], weight.size(0))
    if out is not None:
        checks.tensor("out", out, (x.dtype,), x.device)
        if tuple(out.shape) != shape or not out.is_contiguous():
            raise ValueError(f"out must be contiguous of shape {shape}, got shape {tuple(out.shape)} with strides {tuple(out.stride())}")
        out = out.view(rows.size(0), 1, 1, weight.size(0))
    return _launch(rows, weight.t()[None, None], bias, Rule(), out).view(shape)


def _launch(x, w, bias, rule, out):
    """The kernel's arrays; the result, which is `out` if there is one."""
    x, w = x.contiguous(), w.contiguous()
    bias = None if bias is None else bias.contiguous()
    if out is None:
        return _call_fwd(x, w, bias, *rule)
    library.check_untransformed("a product into out=", x, w, bias)
    checks.disjoint(out, x=x, weight=w, bias=bias)
    conv_out(x, w, bias, out, *rule)
    return out


def relaid(weight):
    """The same weights, [O, C, KY, KX] or [O, I], in the memory order that `spike_conv2d` and `spike_linear` take as it lies."""
    back = (3, 2, 0, 1) if weight.dim() == 4 else (1, 0)
    return _as_read(weight).contiguous().permute(back)


def is_relaid(weight):
    return _as_read(weight).is_contiguous()


def _as_read(weight):
    return weight.permute((2, 3, 1, 0) if weight.dim() == 4 else (1, 0))


def pair(name, value, least):
    pair = (value, value) if isinstance(value, (int, torch.SymInt)) else value
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise TypeError(f"{name} must be an int or a pair of ints, got {value!r}")
    return tuple(checks.integer(name, v, least) for v in pair)


def _check(x, weight, bias, dims, x_shape, w_shape, groups=1):
    checks.tensor("x", x, DTYPES)
    checks.tensor("weight", weight, (x.dtype,), x.device)
    if weight.dim() != dims or (x.dim() != 4 if dims == 4 else x.dim() < 1):
        raise ValueError(f"x must be {x_shape} and weight {w_shape}, got shapes {tuple(x.shape)} and {tuple(weight.shape)}")
    channels = x.size(1 if dims == 4 else -1)
    if channels != weight.size(1) * groups:
        taken = f"{weight.size(1)} in each of {groups} groups" if groups > 1 else str(weight.size(1))
        raise ValueError(f"x has {channels} channels, but weight {tuple(weight.shape)} takes {taken}")
    if weight.numel() == 0:
        raise ValueError(f"weight must not be empty, got shape {tuple(weight.shape)}")
    if weight.size(0) % groups:
        raise ValueError(f"weight {tuple(weight.shape)} has {weight.size(0)} outputs, which are not {groups} groups of one size")
    if bias is not None:
        checks.tensor("bias", bias, (x.dtype,), x.device)
        if tuple(bias.shape) != (weight.size(0),):
            raise ValueError(f"bias must be [{weight.size(0)}], one number per output channel, got shape {tuple(bias.shape)}")

"""Exact products of spikes: schema, fake, and the public functions `exact_weights`, `exact_conv2d` and `exact_linear`."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from snnfast import checks
from snnfast.engines.reference import integer as engine
from snnfast.equations.synapses import exact as equation
from snnfast.equations.synapses.conv import Rule
from snnfast.ops import library
from snnfast.ops.conv import conv_fwd, pair

BLOCK = 1 << 18  # weights that are made integers at a time


class ExactWeights(NamedTuple):
    """What `exact_weights` makes of a layer's weights.

    packed: the integers as the kernel of their device reads them: on CUDA three signed bytes each, int8 [3, O, KY, KX, C / groups], elsewhere
    int32 [KY, KX, C / groups, O].  bias: int32 [O].  scale: fp32 [O], 2^(-e).  most, signed: of the inputs.  per_unit: fp32 [1] or [C], 1 / unit.
    groups: of channels.
    """

    packed: Tensor
    bias: Tensor
    scale: Tensor
    most: int
    signed: bool
    per_unit: Tensor
    groups: int = 1

    def to(self, device: torch.device | str) -> "ExactWeights":
        """The same on another device, packed for it."""
        packed = self.packed.to(device)
        whole = packed.permute(3, 0, 1, 2) if packed.dtype == torch.int32 else equation.whole(packed)
        bias, scale, per_unit = (t.to(device) for t in (self.bias, self.scale, self.per_unit))
        return self._replace(packed=_packed(whole.long()), bias=bias, scale=scale, per_unit=per_unit)


def _packed(whole):
    """Whole numbers [O, KY, KX, C] for the kernel of their device."""
    return torch.stack(equation.limbs(whole)).to(torch.int8) if whole.is_cuda else whole.permute(1, 2, 3, 0).int().contiguous()


def _fwd(s, per_unit, w, bias, scale, *rule):
    out = s.new_empty(engine.spec(s, w, rule), dtype=torch.float32)
    return engine.fwd(equation, conv_fwd, s, per_unit, w, bias, scale, out, Rule(*rule))


def _out(s, per_unit, w, bias, scale, out, *rule):
    engine.fwd(equation, conv_fwd, s, per_unit, w, bias, scale, out, Rule(*rule))


_RULE = "".join(f", int {name}" for name in Rule._fields)
_ARGS = "Tensor s, Tensor per_unit, Tensor w, Tensor bias, Tensor scale"
exact_fwd = library.define(f"exact_fwd({_ARGS}{_RULE}) -> Tensor", _fwd)
exact_out = library.define(f"exact_out({_ARGS}, Tensor(a!) out{_RULE}) -> ()", _out)
library.fake("exact_fwd", lambda s, per_unit, w, bias, scale, *rule: s.new_empty(engine.spec(s, w, rule), dtype=torch.float32))
library.fake("exact_out", lambda *args: None)


def exact_weights(
    weight: Tensor, bias: Tensor | None = None, *, unit: float | Tensor = 1.0, most: int = 1, signed: bool = False, groups: int = 1
) -> ExactWeights:
    """Weights as integers, for `exact_conv2d` and `exact_linear`. `snnfast/equations/synapses/exact.py` has the definition.

    Args:
        weight: [O, C / groups, KY, KX] or [O, I], fp32 or fp64, finite.
        bias: [O], or None.
        unit: what one unit of the input stands for, > 0: the threshold of its spikes, over k^2 behind an average pooling; a number, or [C] (or
            [I]), one for each channel.
        most: the largest input, 1 to 127.
        signed: whether inputs may be negative, down to -most.
        groups: of channels, and as many of outputs.

    Raises:
        ValueError, TypeError: naming the argument, what was given and what is allowed; also where there are too many terms, or where an output's
            weights are too large for fp32.

    >>> w = snnfast.exact_weights(torch.tensor([[0.5, -0.25]]), unit=0.7)
    >>> w.packed.flatten().tolist(), w.scale.log2().tolist()
    ([5872026, -2936013], [-24.0])
    """
    checks.tensor("weight", weight, (torch.float32, torch.float64))
    if weight.dim() not in (2, 4):
        raise ValueError(f"weight must be [O, C / groups, KY, KX] or [O, I], got shape {tuple(weight.shape)}")
    checks.integer("most", most)
    if most > 127:
        raise ValueError(f"most must be 1 to 127, got {most}")
    checks.yes_or_no("signed", signed)
    checks.integer("groups", groups)
    if weight.size(0) % groups or (groups > 1 and weight.dim() == 2):
        raise ValueError(f"weight must be [O, C / groups, KY, KX] with O a multiple of groups = {groups}, got shape {tuple(weight.shape)}")
    w = weight.detach()
    w = w[:, :, None, None] if w.dim() == 2 else w
    b = torch.zeros(w.size(0), dtype=torch.float64, device=w.device) if bias is None else bias.detach().double()
    if bias is not None and tuple(bias.shape) != (w.size(0),):
        raise ValueError(f"bias must be [O] = {(w.size(0),)}, got shape {tuple(bias.shape)}")
    u = torch.as_tensor(unit, dtype=torch.float64, device=w.device).detach()
    if u.dim() > 1 or (u.dim() == 1 and u.numel() != groups * w.size(1)):
        raise ValueError(f"unit must be a number or [C] = {(groups * w.size(1),)}, got shape {tuple(u.shape)}")
    if not bool(((u > 0) & u.isfinite()).all()):
        raise ValueError("unit must be finite and > 0")
    if not bool((1.0 / u).float().isfinite().all()):
        raise ValueError(f"unit must have an inverse in fp32, got {float(u.min()):.3g}")
    for name, t in (("weight", w), ("bias", b)):
        if not bool(t.isfinite().all()):
            raise ValueError(f"{name} must be finite, {int((~t.isfinite()).sum())} of {t.numel()} values are not")
    terms = w[0].numel() * most if len(w) else 0
    if terms >= equation.MOST_TERMS:
        raise ValueError(
            f"weight has {w[0].numel()} terms of at most {most}: exact products take fewer than {equation.MOST_TERMS} together"
        )
    whole, b, e = _integers(w, b, u, most, signed, groups)
    scale = torch.ldexp(torch.ones_like(e, dtype=torch.float32), -e)
    return ExactWeights(_packed(whole), b, scale, most, signed, (1.0 / u).float().reshape(-1), groups)


def _integers(w, b, u, most, signed, groups):
    """(int32 [O, KY, KX, C], int32 [O], exponents) of weights [O, C, KY, KX], some outputs at a time: in fp64 they are many times their memory."""
    O, C, KY, KX = w.shape
    of_group = u.reshape(groups, C, 1, 1).expand(groups, C, KY, KX).repeat_interleave(O // groups, 0) if u.dim() else None
    whole, biases, exponents = [w.new_empty((0, KY, KX, C), dtype=torch.int32)], [b[:0].int()], [b[:0].long()]
    many = max(1, BLOCK // max(1, KY * KX * C))
    for first in range(0, O, many):
        part = slice(first, first + many)
        values = w[part].double() * (u if of_group is None else of_group[part])
        rows = values.permute(0, 2, 3, 1).reshape(len(values), KY * KX * C)
        n, own, e = equation.quantised(rows, b[part], most, signed, first)
        whole.append(n.int().view(len(values), KY, KX, C))
        biases.append(own.int())
        exponents.append(e)
    return torch.cat(whole), torch.cat(biases), torch.cat(exponents)


def exact_conv2d(
    s: Tensor,
    weights: ExactWeights,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """A convolution over small integers whose sums are exact: the same bits on every device, in every batch.

    On CUDA three int8 products on tensor cores (Triton), for groups of few channels sums in int32; on a CPU the loops of `spike_conv2d` in int32.
    No gradients.

    Args:
        s: [R, C, H, W], rows are images times steps: whole numbers in int8, or the values that they stand for, in fp32, which are divided by the
            weights' unit and rounded. The numbers lie between 0 and weights.most, or from -weights.most on where weights are signed; that is not
            checked. Taken as it lies in channels_last memory, otherwise copied.
        weights: of `exact_weights`, on s's device.
        stride, padding, dilation: a number, or a pair (vertical, horizontal).
        out: fp32 of the result's shape in channels_last memory to write to.

    Returns:
        fp32 [R, O, Ho, Wo] in channels_last memory.

    Raises:
        ValueError, TypeError: naming the argument, what was given and what is allowed; also where s requires a gradient.

    >>> w = snnfast.exact_weights(torch.ones(1, 2, 3, 3), unit=0.5)
    >>> s = torch.ones(1, 2, 3, 3, dtype=torch.int8)
    >>> snnfast.exact_conv2d(s, w, padding=1)[0, 0].tolist()
    [[4.0, 6.0, 4.0], [6.0, 9.0, 6.0], [4.0, 6.0, 4.0]]
    >>> snnfast.exact_conv2d(s * 0.5, w, padding=1)[0, 0, 0].tolist()  # the same spikes as values
    [4.0, 6.0, 4.0]
    """
    rule = Rule(*pair("stride", stride, 1), *pair("padding", padding, 0), *pair("dilation", dilation, 1))
    _check(s, weights)
    *kernel, C, _ = engine.sizes_of(weights.packed)
    if s.dim() != 4 or s.size(1) != C * weights.groups:
        raise ValueError(f"s must be [R, C, H, W] with C = {C * weights.groups}, got shape {tuple(s.shape)}")
    shape = engine.spec(s.permute(0, 2, 3, 1), weights.packed, rule)
    if min(shape[1:3]) < 1:
        raise ValueError(f"s of {tuple(s.shape[2:])} places with padding {tuple(rule[2:4])} is smaller than the kernel {tuple(kernel)}")
    if out is not None:
        checks.tensor("out", out, (torch.float32,), s.device)
        if tuple(out.permute(0, 2, 3, 1).shape) != shape or not out.permute(0, 2, 3, 1).is_contiguous():
            R, Ho, Wo, O = shape
            raise ValueError(f"out must be [R, O, Ho, Wo] = {(R, O, Ho, Wo)} in channels_last memory, got shape {tuple(out.shape)}")
        out = out.permute(0, 2, 3, 1)
    return _launch(s.permute(0, 2, 3, 1), weights, rule, out).permute(0, 3, 1, 2)


def exact_linear(s: Tensor, weights: ExactWeights, *, out: Tensor | None = None) -> Tensor:
    """A linear layer over small integers whose sums are exact: `exact_conv2d` of one place.

    Args:
        s: [..., I], int8 or fp32 as there.
        weights: of `exact_weights` of a weight [O, I].
        out: fp32, contiguous, [..., O].

    Returns:
        fp32 [..., O].

    >>> w = snnfast.exact_weights(torch.tensor([[3.0, 4.0]]), torch.tensor([0.5]))
    >>> snnfast.exact_linear(torch.tensor([[0, 1]], dtype=torch.int8), w).tolist()
    [[4.5]]
    """
    _check(s, weights)
    if weights.groups > 1:
        raise ValueError(f"weights must be of a weight [O, I], got weights in {weights.groups} groups: exact_conv2d takes them")
    KY, KX, I, O = engine.sizes_of(weights.packed)  # noqa: E741
    if s.dim() < 1 or s.size(-1) != I or (KY, KX) != (1, 1):
        raise ValueError(f"s must be [..., I] with I = {I} of weights [O, I], got shape {tuple(s.shape)} and a kernel {(KY, KX)}")
    shape = (*s.shape[:-1], O)
    if out is not None:
        checks.tensor("out", out, (torch.float32,), s.device)
        if tuple(out.shape) != shape or not out.is_contiguous():
            raise ValueError(f"out must be contiguous of shape {shape}, got shape {tuple(out.shape)} with strides {tuple(out.stride())}")
        out = out.view(math.prod(s.shape[:-1]), 1, 1, O)
    return _launch(s.reshape(math.prod(s.shape[:-1]), 1, 1, I), weights, Rule(), out).view(shape)


def _check(s, weights):
    if not isinstance(weights, ExactWeights):
        raise TypeError(f"weights must be what snnfast.exact_weights returned, got {type(weights).__name__}")
    checks.tensor("s", s, (torch.int8, torch.float32))
    checks.tensor("weights.packed", weights.packed, (torch.int8, torch.int32), s.device)
    library.check_no_derivative("an exact product", s)
    if s.requires_grad and torch.is_grad_enabled():
        raise ValueError("s requires a gradient, and exact products have none: call them under torch.no_grad(), or take spike_conv2d")


def _launch(s, weights, rule, out):
    s = s.contiguous()
    if weights.packed.dtype == torch.int8 and s.device.type == "cpu":  # of a GPU's file
        weights = weights.to(s.device)
    if out is None:
        return exact_fwd(s, weights.per_unit, weights.packed, weights.bias, weights.scale, *rule)
    checks.disjoint(out, s=s, weights=weights.packed)
    exact_out(s, weights.per_unit, weights.packed, weights.bias, weights.scale, out, *rule)
    return out

"""Batch norm and the neuron behind it in one pass over the currents: its op, what flows through the statistics, and the public function."""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from snnfast import checks
from snnfast.equations.neurons import norm_neuron as equation
from snnfast.ops import library
from snnfast.ops.channels import channel_add, moments
from snnfast.ops.iaf import rule_of
from snnfast.ops.layout import accumulator, layout_of
from snnfast.ops.neuron import IAFState, Neuron
from snnfast.ops.plif import rho_of

OPS = Neuron("norm_neuron", equation, compiled=True)


def statistics(x, weight, bias, eps):
    """x [T, B, C, ...] -> (x, scale [C], shift [C], mean [C], var [C]) of batch norm over all but the channels, as `snnfast::norm_neuron` takes them.

    mean and the biased var are fp64 and have no gradient; scale and shift are in the accumulator's dtype. The backward adds to the gradient of x, in
    its place, what flows through mean and var, which is a line in x for each channel.
    """
    return (Composed if library.is_transformed() else Statistics).apply(x, weight, bias, eps)


def _forward(x, weight, bias, eps):
    mean, var = moments(*_channels(layout_of(x), x))
    scale, shift = torch.stack(affine(mean, var.add(eps).rsqrt_(), weight, bias)).to(accumulator(x.dtype)).unbind()
    return x.view_as(x), scale, shift, mean, var


def _setup(ctx, inputs, output):
    x, weight, bias, ctx.eps = inputs
    ctx.save_for_backward(x, weight, *output[3:])
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.mark_non_differentiable(*output[3:])


class Statistics(torch.autograd.Function):
    """`statistics` in the form that costs least."""

    @staticmethod
    def forward(ctx, *inputs):
        output = _forward(*inputs)
        _setup(ctx, inputs, output)
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dx, dscale, dshift, dmean, dvar):
        x, weight, mean, var = ctx.saved_tensors
        invstd, n = var.add(ctx.eps).rsqrt_(), x.numel() // mean.numel()
        S1, S2 = torch.stack((dshift, dscale)).double().unbind()
        D = torch.addcmul(S2, mean, S1, value=-1).mul_(invstd)  # the sum of dy (x - mean) invstd
        if ctx.needs_input_grad[0]:
            gain = invstd / -n if weight is None else (invstd / -n).mul_(weight)
            q = (gain * invstd).mul_(D)
            line = torch.stack((q, gain.mul_(S1).addcmul_(q, mean, value=-1))).to(accumulator(x.dtype))
            layout = layout_of(x)
            (flat, _, inner), to = _channels(layout, x), layout.rows(dx.unsqueeze(0))[0]
            channel_add(to, flat, line, inner)
            dx = layout.unrows(to.unsqueeze(0))[0]
        dweight = D.to(weight.dtype) if ctx.needs_input_grad[1] else None
        return dx if ctx.needs_input_grad[0] else None, dweight, S1.to(ctx.bias_dtype) if ctx.needs_input_grad[2] else None, None


class Composed(torch.autograd.Function):
    """The same in the form that torch.func's transforms take."""

    forward, setup_context = staticmethod(_forward), staticmethod(_setup)

    @staticmethod
    def backward(ctx, *grads):
        return Statistics.backward(ctx, *grads)


def _channels(layout, x):
    """(x [N] in memory order, C, how many neighbours share a channel) of x [T, B, C, ...]."""
    C, inner = x.size(2), math.prod(x.shape[3:])
    if not layout.identity:
        _, inner = layout.pattern("channels", torch.empty((C,) + (1,) * (x.dim() - 3)))
    return layout.rows(x.unsqueeze(0))[0], C, inner if C > 1 else x.numel()


def affine(mean, invstd, weight, bias):
    """(scale, shift) in fp64 of (x - mean) invstd weight + bias = x scale + shift."""
    scale = invstd if weight is None else invstd * weight
    shift = mean * -scale
    return scale, shift if bias is None else shift + bias


def norm_neuron(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    *,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    theta: float | Tensor = 1.0,
    v0: float | Tensor = 0.0,
    tau: float | None = None,
    w: float | Tensor | None = None,
    decay_input: bool = True,
    product: bool = True,
    reset: Literal["soft", "hard"] = "soft",
    v_reset: float = 0.0,
    strict: bool = False,
    spikes: Literal["scaled", "unit", "int8", "bits", "count"] = "scaled",
    mask: Tensor | None = None,
    state: IAFState | None = None,
    surrogate: Literal["zif", "triangle", "rectangle", "box", "atan", "sigmoid"] = "zif",
    gamma: float | None = None,
    detach_reset: bool = False,
) -> tuple[Tensor, IAFState]:
    """Batch norm and the neuron behind it, over all T steps: the normalised currents are never written to memory, nor kept for the backward.

    Equivalent to (Ioffe and Szegedy, ICML 2015; statistics over steps, images and places together)::

        y = torch.nn.functional.batch_norm(x.flatten(0, 1), running_mean, running_var, weight, bias, training, momentum, eps).view_as(x)
        s, state = snnfast.iaf(y, theta, v0)  # snnfast.lif(y, theta, tau, v0) with tau, snnfast.plif(y, theta, w, v0) with w

    but for rounding: with scale = weight / sqrt(var + eps) and shift = bias - mean scale, which are computed in fp64, the current is x scale + shift
    in fp32 (fp64 for fp64 input), also where x is in half precision. Sums over a channel are in fp64 and in a fixed order.

    Args:
        x: [T, B, C, ...] with time first and channels third; fp16, bf16, fp32 or fp64.
        weight, bias: [C], or None for 1 and 0.
        running_mean, running_var: [C]; what is normalised with, or in training None or what is brought up to date, in place. var is then the
            unbiased one.
        training: whether x is normalised with its own statistics.
        momentum: the weight of x's statistics in the running ones.
        eps: > 0, added to the variance.
        theta, v0, reset, v_reset, strict, spikes, mask, state, surrogate, gamma, detach_reset: as in `snnfast.iaf`.
        tau: the time constant of a leak in steps, as in `snnfast.lif`; None for none.
        w: a learnt leak, as in `snnfast.plif`.
        decay_input, product: how the leak is applied, as in `snnfast.lif`.

    Returns:
        (s, state), as `snnfast.iaf`. Gradients reach x, weight, bias, theta, w, v0 (as a tensor) and state.v; x is kept for the backward, and no
        other tensor of its size.

    Raises:
        ValueError, TypeError: naming the argument, what was given and what is allowed.

    >>> x = torch.tensor([0.0, 2.0, 0.0, 2.0]).view(4, 1, 1)  # four steps of one image and one channel: -1, 1, -1, 1
    >>> s, state = snnfast.norm_neuron(x, training=True, theta=0.5)
    >>> s.flatten().tolist()
    [0.0, 0.0, 0.0, 0.0]
    >>> snnfast.norm_neuron(x, bias=torch.tensor([1.0]), training=True, theta=0.5)[0].flatten().tolist()
    [0.0, 0.5, 0.5, 0.5]
    """
    x = checks.resolved(x)
    C = _check(x, weight, bias, running_mean, running_var, training, momentum, eps)
    if training:
        x, scale, shift, mean, var = statistics(x, weight, bias, float(eps))
        update(running_mean, running_var, mean, var, x.numel() // C, momentum)
    else:
        assert running_mean is not None and running_var is not None  # _check refused it
        scale, shift = affine(running_mean.double(), (running_var.double() + eps).rsqrt(), weight, bias)
    return normed_neuron(
        x, scale, shift, 2, theta, v0, tau=tau, w=w, decay_input=decay_input, product=product, reset=reset, v_reset=v_reset, strict=strict,
        spikes=spikes, mask=mask, state=state, surrogate=surrogate, gamma=gamma, detach_reset=detach_reset,
    )  # fmt: skip


def normed_neuron(
    x,
    scale,
    shift,
    axis,
    theta=1.0,
    v0=0.0,
    *,
    tau=None,
    w=None,
    decay_input=True,
    product=True,
    spikes="scaled",
    mask=None,
    state=None,
    **rule,
):
    """The neuron of the currents x scale + shift; scale, shift: [C], of x's dimension `axis`. The rest is as in `norm_neuron`."""
    if tau is not None and w is not None:
        raise ValueError("tau and w are both a leak: give the number tau, or w, whose leak is learnt")
    numbers: dict[str, Any] = rule_of(**rule, tau=tau, decay_input=decay_input, product=product)._asdict() | dict(learnt=w is not None)
    if numbers["normalised"] or numbers["negative"] != "none" or numbers["memory"] or numbers["offset"]:
        raise ValueError("the neuron behind a batch norm runs in volts, without negative spikes, memory and offset")
    if isinstance(w, Tensor):
        checks.tensor("w", w)
        checks.broadcasts("w", w.shape, x.shape[1:])
    at = (-1,) + (1,) * (x.dim() - axis - 1)
    learns = isinstance(theta, Tensor) and (theta.requires_grad or library.is_transformed())
    numbers["asked"] = 4 if learns else 2 if w is None else 3
    own = (theta, 1.0 if w is None else rho_of(w), scale.view(at), shift.view(at))
    return OPS(x, own, v0, equation.Rule(**numbers), T=None, spikes=spikes, mask=mask, state=state, out=None, state_out=None)


def _check(x, weight, bias, running_mean, running_var, training, momentum, eps):
    """Refuses what is not batch norm's; the number of channels."""
    checks.tensor("x", x)
    if x.dim() < 3:
        raise ValueError(f"x must be [T, B, C, ...] with time first and channels third, got shape {tuple(x.shape)}")
    C = x.size(2)
    if not C:
        raise ValueError(f"x must have at least one channel, got shape {tuple(x.shape)}")
    for name, t in (("weight", weight), ("bias", bias), ("running_mean", running_mean), ("running_var", running_var)):
        if t is None:
            continue
        checks.tensor(name, t, device=x.device)
        if tuple(t.shape) != (C,):
            raise ValueError(f"{name} must be [{C}], a number for each channel of x {tuple(x.shape)}, got shape {tuple(t.shape)}")
    checks.yes_or_no("training", training)
    checks.number("eps", eps, positive=True)
    if not 0 <= checks.number("momentum", momentum) <= 1:
        raise ValueError(f"momentum must be from 0 to 1, got {momentum}")
    if (running_mean is None) != (running_var is None):
        raise ValueError("running_mean and running_var go together: one of them is None")
    if not training and running_mean is None:
        raise ValueError("without training, x is normalised with running_mean and running_var, which are None")
    if training and x.numel() < 2 * C:
        raise ValueError(f"x must hold more than one number for each channel in training, got shape {tuple(x.shape)}")
    return C


@torch.no_grad()
def update(running_mean, running_var, mean, var, n, momentum):
    if running_mean is not None and momentum:
        running_mean.mul_(1 - momentum).add_(mean, alpha=momentum)
        running_var.mul_(1 - momentum).add_(var, alpha=momentum * n / (n - 1))

"""The parametric leaky integrate-and-fire neuron, whose time constant is learnt: its op, and the public function `plif`."""

import math
from typing import Literal

import torch
from torch import Tensor

from snnfast import checks
from snnfast.equations.neurons import plif as equation
from snnfast.ops.iaf import rule_of
from snnfast.ops.neuron import IAFState, Neuron

OPS = Neuron("plif", equation, compiled=True)


def first_w(init_tau: float) -> float:
    """w with 1/sigmoid(w) = init_tau."""
    if checks.number("init_tau", init_tau) <= 1:
        raise ValueError(f"init_tau must be > 1 time step, got {init_tau}")
    return -math.log(init_tau - 1.0)


def rho_of(w: float | Tensor) -> float | Tensor:
    """1/tau = sigmoid(w), by torch for a tensor, whose gradient passes."""
    if isinstance(w, Tensor):
        return torch.sigmoid(w)
    if checks.number("w", w) < -700:
        raise ValueError(f"w must be >= -700, where 1/tau = sigmoid(w) is still a number > 0, got {w}")
    return 1.0 / (1.0 + math.exp(-w)) if w >= 0 else math.exp(w) / (1.0 + math.exp(w))


def plif(
    x: Tensor,
    theta: float | Tensor = 1.0,
    w: float | Tensor = 0.0,
    v0: float | Tensor = 0.0,
    *,
    decay_input: bool = True,
    product: bool = True,
    T: int | None = None,
    reset: Literal["soft", "hard"] = "soft",
    v_reset: float = 0.0,
    strict: bool = False,
    spikes: Literal["scaled", "unit", "int8", "bits", "count"] = "scaled",
    mask: Tensor | None = None,
    state: IAFState | None = None,
    surrogate: Literal["zif", "triangle", "rectangle", "box", "atan", "sigmoid"] = "zif",
    gamma: float | None = None,
    detach_reset: bool = False,
    out: Tensor | None = None,
    state_out: IAFState | None = None,
) -> tuple[Tensor, IAFState]:
    """Leaky integrate-and-fire whose time constant is learnt, over all T steps in one launch: 1/tau = sigmoid(w).

    Equivalent to (soft reset; `snnfast/equations/neurons/plif.py` has every form)::

        v, rho = v0 * theta, sigmoid(w)
        for t in range(T):
            v = v + (x[t] - v) * rho  # decay_input; else v * (1 - rho) + x[t]
            s = (v >= theta).to(v.dtype)
            v = v - s * theta
            y[t] = s * theta

    (Fang et al., "Incorporating learnable membrane time constant to enhance learning of spiking neural networks", ICCV 2021.)

    Args:
        x, theta, v0, T, reset, v_reset, strict, spikes, mask, state, surrogate, gamma, detach_reset, out, state_out: as in `snnfast.iaf`. A neuron
            with a hard reset decays towards v_reset.
        w: a number, or a tensor that broadcasts over one step: one for a layer, for each channel or for each neuron. tau = 1 + exp(-w), so that w = 0
            is tau = 2, and w = -log(tau - 1).
        decay_input: whether the leak multiplies the input too.
        product: without decay_input and with v_reset = 0, v (1 - rho) + x (True) or v - v rho + x.

    Returns:
        (s, state), as `snnfast.iaf`. Gradients reach x, theta, w, v0 (as a tensor) and state.v.

    Raises:
        ValueError, TypeError: naming the argument, what was given and what is allowed.

    >>> w = torch.zeros((), requires_grad=True)  # tau = 2
    >>> s, state = snnfast.plif(torch.full((3, 1), 1.5), 1.0, w)
    >>> s.flatten().tolist(), state.v.tolist()
    ([0.0, 1.0, 0.0], [0.8125])
    >>> s.sum().backward()
    >>> w.grad.shape
    torch.Size([])
    """
    if isinstance(w, Tensor):
        checks.tensor("w", w)
        checks.tensor("x", x)
        checks.broadcasts("w", w.shape, x.shape if T is not None else x.shape[1:])
    leak = dict(decay_input=decay_input, product=product)
    rule = rule_of(reset, v_reset, strict=strict, surrogate=surrogate, gamma=gamma, detach_reset=detach_reset, **leak)
    return OPS(x, (theta, rho_of(w)), v0, rule, T=T, spikes=spikes, mask=mask, state=state, out=out, state_out=state_out)

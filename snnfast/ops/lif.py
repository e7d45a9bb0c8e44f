"""The leaky integrate-and-fire neuron: the public function `lif`. Its op is `iaf`'s, with a leak."""

from typing import Literal

from torch import Tensor

from snnfast.ops.iaf import OPS, rule_of
from snnfast.ops.neuron import IAFState


def lif(
    x: Tensor,
    theta: float | Tensor = 1.0,
    tau: float = 2.0,
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
    """Leaky integrate-and-fire over all T steps in one launch.

    Equivalent to (soft reset; `snnfast/equations/neurons/lif.py` has every form)::

        v = v0 * theta
        for t in range(T):
            v = v + (x[t] - v) / tau  # decay_input; else v * (1 - 1/tau) + x[t]
            s = (v >= theta).to(v.dtype)
            v = v - s * theta
            y[t] = s * theta

    Args:
        x, theta, v0, T, reset, v_reset, strict, spikes, mask, state, surrogate, gamma, detach_reset, out, state_out: as in `snnfast.iaf`. A neuron
            with a hard reset decays towards v_reset.
        tau: time constant in steps, >= 1.
        decay_input: whether the leak divides the input too.
        product: without decay_input and with v_reset = 0, v (1 - 1/tau) + x (True; SpikingJelly until 0.0.0.0.14) or v - v/tau + x (SpikingJelly
            2.0).

    Returns:
        (s, state), as `snnfast.iaf`. Gradients reach x, theta, v0 (as a tensor) and state.v.

    Raises:
        ValueError, TypeError: naming the argument, what was given and what is allowed.

    >>> s, state = snnfast.lif(torch.full((3, 1), 2.0), tau=2.0)
    >>> s.flatten().tolist(), state.v.tolist()
    ([1.0, 1.0, 1.0], [0.0])
    """
    rule = rule_of(
        reset,
        v_reset,
        strict=strict,
        surrogate=surrogate,
        gamma=gamma,
        detach_reset=detach_reset,
        tau=tau,
        decay_input=decay_input,
        product=product,
    )
    return OPS(x, theta, v0, rule, T=T, spikes=spikes, mask=mask, state=state, out=out, state_out=state_out)

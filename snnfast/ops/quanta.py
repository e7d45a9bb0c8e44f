"""The integrate-and-fire neuron that may send several quanta in one step: the checks of its rule, and the public function `quanta`."""

import math
from typing import Literal

from torch import Tensor

from snnfast import checks
from snnfast.checks import MOST_STEPS
from snnfast.equations.neurons import quanta as equation
from snnfast.equations.neurons.quanta import Rule
from snnfast.ops.iaf import GAMMA, caps_of, gamma_of
from snnfast.ops.neuron import IAFState, Neuron

OPS = Neuron("quanta", equation, compiled=True)
LADDERS = ("uniform", "power")
MOST = 1 << 8  # quanta in a step: bf16 holds them


def rule_of(m=1, ladder="uniform", unit="normalised", negative=None, caps=None, surrogate="zif", gamma=None, detach_reset=False):
    """Checks the launch's numbers."""
    checks.integer("m", m)
    checks.choice("ladder", ladder, LADDERS)
    checks.choice("unit", unit, ("volts", "normalised"))
    checks.choice("negative", negative, (None, "stbif"))
    checks.choice("surrogate", surrogate, tuple(GAMMA))
    if m > MOST:
        raise ValueError(f"m must be <= {MOST} quanta a step, got {m}")
    if ladder == "power" and m & (m - 1):
        raise ValueError(f"m must be a power of two where ladder is 'power', got {m}")
    n_min, p_max = caps_of(negative, caps)
    for i, cap in enumerate((n_min, p_max)):
        if math.isfinite(cap) and cap != int(cap):
            raise ValueError(f"caps[{i}] must be a whole number of quanta, got {cap}")
    gamma = gamma_of(surrogate, gamma)
    return Rule(m, ladder, unit == "normalised", negative or "none", n_min, p_max, surrogate, gamma, bool(detach_reset))


def check_form(m, T, spikes):
    """Refuses forms of the spikes that cannot hold them."""
    if m > 1 and spikes == "bits":
        raise ValueError(f"spikes='bits' holds a sign, and m = {m} quanta are more: 'int8' holds them up to m = 127")
    if m > 127 and spikes == "int8":
        raise ValueError(f"spikes='int8' holds up to 127 quanta, m is {m}: 'unit' or 'scaled' hold them")
    if T * m > MOST_STEPS:
        raise ValueError(f"T m must be <= 2^24 = {MOST_STEPS}, the quanta that are counted exactly, got {T} x {m}")


def quanta(
    x: Tensor,
    theta: float | Tensor,
    v0: float | Tensor = 0.5,
    *,
    m: int,
    ladder: Literal["uniform", "power"] = "uniform",
    T: int | None = None,
    negative: Literal["stbif"] | None = None,
    caps: tuple[float | None, float | None] | None = None,
    unit: Literal["volts", "normalised"] = "normalised",
    spikes: Literal["scaled", "unit", "int8", "count"] = "scaled",
    mask: Tensor | None = None,
    state: IAFState | None = None,
    surrogate: Literal["zif", "triangle", "rectangle", "box", "atan", "sigmoid"] = "zif",
    gamma: float | None = None,
    detach_reset: bool = False,
    out: Tensor | None = None,
    state_out: IAFState | None = None,
) -> tuple[Tensor, IAFState]:
    """Integrate-and-fire that sends up to m quanta in a step, over all T steps in one launch: group neurons, burst spikes, multi-threshold neurons.

    Equivalent to (uniform ladder, no negative spikes; `snnfast/equations/neurons/quanta.py` has every rule)::

        v = v0
        for t in range(T):
            v = v + x[t] / theta
            s = v.floor().clamp(0, m)
            v = v - s
            y[t] = s * theta

    Args:
        x, T, mask, state, out, state_out: as in `snnfast.iaf`.
        theta: the quantum > 0, in the unit of x: y = s theta with whole numbers s. A number, or a tensor that broadcasts over one step.
        v0: start voltage in quanta.
        m: most quanta in one step, 1 to 256. In a network with threshold lam, theta = lam/m, so that a step carries what one spike of lam carries.
        ladder: "uniform", s is any whole number up to m; or "power", |s| is a power of two up to m = 2^(n - 1), the nearest to the potential (n
            thresholds, at three quarters of the amplitudes; below the first, 0).
        negative: None, or "stbif": s < 0 where v < 0, as far as the net count stays above its cap.
        caps: (n_min, p_max) of the net count of quanta, each a whole number or None for no bound; default (0, None).
        unit: "normalised", v is in quanta, or "volts".
        spikes: "scaled" s*theta or "unit" s in x's dtype, "int8" s for m <= 127, "count" int32, the net sum of s. Only "scaled" is differentiable.
        surrogate, gamma: ds/dv at the rung of the ladder that v is nearest to, in quanta, as in `snnfast.iaf`; on "power" that of the nearest
            amplitude, in units of it. On "uniform" "rectangle" with gamma = 0.5 lets the gradient straight through within the ladder.
        detach_reset: as in `snnfast.iaf`.

    Returns:
        (s, state): spikes, and the state after the last step; state.count is the net sum of quanta, exact up to 2^24 in size. Gradients
        reach x, theta, v0 (as a tensor) and state.v.

    Raises:
        ValueError, TypeError: naming the argument, what was given and what is allowed.

    >>> x = torch.tensor([[0.6], [0.9], [-0.3]])  # [T, N]
    >>> s, state = snnfast.quanta(x, theta=0.25, m=4, negative="stbif", spikes="int8")
    >>> s.flatten().tolist(), state.count.tolist()
    ([2, 4, -1], [5])
    """
    rule = rule_of(m, ladder, unit, negative, caps, surrogate, gamma, detach_reset)
    if T is not None or isinstance(x, Tensor):
        steps = 1 if T is not None or x.is_nested or not x.dim() else len(x)  # a nested one is refused by its name below
        check_form(m, steps if T is None else checks.integer("T", T), spikes)
    return OPS(x, theta, v0, rule, T=T, spikes=spikes, mask=mask, state=state, out=out, state_out=state_out)

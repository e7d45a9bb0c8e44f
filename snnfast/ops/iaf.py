"""The integrate-and-fire op: the checks of its rule, and the public function `iaf`."""

import functools
from typing import Literal

import torch
from torch import Tensor

from snnfast import checks
from snnfast.equations.neurons import iaf as equation
from snnfast.equations.neurons.iaf import Rule
from snnfast.ops.neuron import IAFState, Neuron

NEGATIVE = ("stbif", "snm")
GAMMA = {"zif": 1.0, "triangle": 1.0, "rectangle": 1.0, "box": 1.0, "atan": 2.0, "sigmoid": 4.0}

SMALLEST = 2.0**-126  # of fp32, whose exponent is whole

OPS = Neuron("iaf", equation, compiled=True)
iaf_fwd, iaf_out, iaf_bwd = OPS.fwd, OPS.out, OPS.bwd


def _rule(
    reset="soft", v_reset=0.0, negative=None, caps=None, unit="volts", strict=False, surrogate="zif", gamma=None, detach_reset=False,
    memory=False, offset=0.0, tau=None, decay_input=True, product=True,
):  # fmt: skip
    """Checks the launch's numbers."""
    checks.choice("reset", reset, ("soft", "hard"))
    checks.choice("unit", unit, ("volts", "normalised"))
    checks.choice("surrogate", surrogate, tuple(GAMMA))
    v_reset = checks.number("v_reset", v_reset) + 0.0  # -0 is 0
    gamma = gamma_of(surrogate, gamma)
    n_min, p_max = caps_of(negative, caps, memory)
    offset = checks.number("offset", offset) + 0.0
    if tau is not None:
        if unit != "volts":
            raise ValueError("a neuron with a leak runs in volts: tau and unit='normalised' do not go together")
        if checks.number("tau", tau) < 1:
            raise ValueError(f"tau must be >= 1 time step, got {tau}")
    product = bool(product) and (reset == "soft" or v_reset == 0)  # v decays towards v_reset
    return Rule(
        unit == "normalised", bool(strict), reset == "hard", v_reset, negative or "none", n_min, p_max, surrogate, gamma, bool(detach_reset),
        bool(memory), offset, 0.0 if tau is None else float(tau), bool(decay_input), product,
    )  # fmt: skip


def gamma_of(surrogate, gamma):
    """The width or steepness that was given, or the surrogate's own."""
    if gamma is None:
        return GAMMA[surrogate]
    gamma = checks.number("gamma", gamma, positive=True)
    if surrogate == "box" and gamma < SMALLEST:
        raise ValueError(f"gamma must be >= {SMALLEST:.2g}, the smallest number of fp32, for a box, got {gamma}")
    return gamma


_known_rule = functools.lru_cache(256, typed=True)(_rule)


@functools.wraps(_rule)
def rule_of(reset="soft", v_reset=0.0, negative=None, caps=None, *others, **named):
    # Checked numbers of an earlier call are known to be right: a small call is mostly made of checks.
    if caps is None and not torch.compiler.is_compiling():
        try:
            return _known_rule(reset, v_reset, negative, caps, *others, **named)
        except TypeError:  # of what has no hash, or is wrong: the checks below tell
            pass
    return _rule(reset, v_reset, negative, caps, *others, **named)


def caps_of(negative, caps, memory=False):
    """(n_min, p_max) of the net count."""
    if negative is not None:
        checks.choice("negative", negative, (None, *NEGATIVE))
    if memory and (negative is None or caps is not None):
        raise ValueError("memory=True gates negative spikes by a float memory > 0: it needs negative='stbif' or 'snm', and takes no caps")
    if caps is None:
        return 0.0, float("inf")
    if negative is None:
        raise ValueError("caps limit the spike count of a neuron with negative spikes; give negative='stbif' or 'snm'")
    if not isinstance(caps, (tuple, list)) or len(caps) != 2:
        raise ValueError(f"caps must be (n_min, p_max), got {caps!r}")
    n_min = -float("inf") if caps[0] is None else checks.number("caps[0]", caps[0])
    p_max = float("inf") if caps[1] is None else checks.number("caps[1]", caps[1])
    if not n_min <= 0 <= p_max:
        raise ValueError(f"caps must satisfy n_min <= 0 <= p_max, got {caps!r}")
    return n_min, p_max


def in_units(x, theta):
    """(x, theta) for a neuron in normalised units that divides by the number theta as torch does: on CUDA by a product with its reciprocal, so that x
    comes divided there and theta is 1. A tensor divides truly everywhere."""
    return (x / theta, 1.0) if x.is_cuda and isinstance(theta, (int, float)) else (x, theta)


def iaf(
    x: Tensor,
    theta: float | Tensor,
    v0: float | Tensor = 0.5,
    *,
    T: int | None = None,
    reset: Literal["soft", "hard"] = "soft",
    v_reset: float = 0.0,
    negative: Literal["stbif", "snm"] | None = None,
    caps: tuple[float | None, float | None] | None = None,
    unit: Literal["volts", "normalised"] = "volts",
    strict: bool = False,
    spikes: Literal["scaled", "unit", "int8", "bits", "count"] = "scaled",
    mask: Tensor | None = None,
    state: IAFState | None = None,
    surrogate: Literal["zif", "triangle", "rectangle", "box", "atan", "sigmoid"] = "zif",
    gamma: float | None = None,
    detach_reset: bool = False,
    memory: bool = False,
    offset: float = 0.0,
    out: Tensor | None = None,
    state_out: IAFState | None = None,
) -> tuple[Tensor, IAFState]:
    """Integrate-and-fire over all T steps in one launch.

    Equivalent to (volts, soft reset; `snnfast/equations/neurons/iaf.py` has every rule)::

        v = v0 * theta
        for t in range(T):
            v = v + x[t]
            s = (v >= theta).to(v.dtype)
            v = v - s * theta
            y[t] = s * theta

    Args:
        x: input current, [T, ...] with time first, or [...] for a current that is constant in time (then give `T`).
            fp16, bf16, fp32 or fp64; the state is fp32 (fp64 for fp64). Any dense layout is taken as it lies.
        theta: threshold > 0, in the unit of x: a number, or a tensor that broadcasts over one step x[0].
            Tensors are not checked for their sign here (that would wait for the device); layers and `convert` do.
        v0: start voltage in units of theta, a number or a tensor that broadcasts over one step. Not used with `state`.
        T: number of steps, for a constant current only.
        reset: "soft" (subtract theta) or "hard" (to `v_reset`, in the unit of v).
        negative: None, "stbif" (s = -1 where v < 0) or "snm" (s = -1 where v <= -theta), while the net count exceeds n_min.
        caps: (n_min, p_max) of the net count, each a number or None for no bound; default (0, None).
        unit: "volts" (v += x, compare with theta) or "normalised" (v += x/theta, compare with 1).
        strict: fire on v > theta instead of v >= theta.
        spikes: form of the result: "scaled" s*theta in x's dtype; "unit" s in x's dtype; "int8" s; "bits" int32 [T, ceil(N/32)] (with `negative`
            [2, T, ceil(N/32)], positive then negative), neuron 32 w + j of a step in memory order at bit j of word w, tail zero;
            "count" int32 of one step's shape, the net sum of s over this call. Only "scaled" is differentiable.
        mask: bool, broadcasts over one step: where False nothing is emitted; potential and count go on as without it.
        state: `IAFState` of an earlier call: chunk after chunk gives bit for bit what one call gives.
        surrogate: ds/du at a = u - theta: "zif" max(gamma - |a|, 0)/gamma^2; "triangle" the same with gamma = theta;
            "rectangle" [|a| <= gamma]/(2 gamma); "box" [|a| < gamma]/(2 gamma); "atan" (gamma/2)/(1 + (pi/2 gamma a)^2);
            "sigmoid" gamma sig(gamma a)(1 - sig(gamma a)).
        gamma: width or steepness of the surrogate; default 1 (zif, rectangle, box), 2 (atan), 4 (sigmoid).
        detach_reset: no gradient through the spike in the reset.
        memory: with `negative`, gate by a floating-point sum of s theta > 0 as SNM's authors do, instead of the exact count; for comparison with
            their program. state.count then holds that sum.
        offset: in units of theta: fire on u + offset*theta >= theta, which is not the same rounding as a start voltage.
        out: a tensor to write the spikes to: same shape, dtype and layout as the result; no autograd.
        state_out: with `out`, an `IAFState` whose tensors receive the state after the last step; it may be `state` itself, which is then
            updated in place.

    Returns:
        (s, state): spikes, and the state after the last step. Gradients reach x, theta, v0 (as a tensor) and state.v.

    Raises:
        ValueError, TypeError: naming the argument, what was given and what is allowed.

    >>> x = torch.tensor([[0.75], [0.75], [0.75]])  # [T, N]
    >>> s, state = snnfast.iaf(x, theta=1.0, v0=0.5)
    >>> s.flatten().tolist(), state.v.tolist(), state.count.tolist()
    ([1.0, 1.0, 0.0], [0.75], [2])
    """
    rule = rule_of(
        reset, v_reset, negative, caps, unit, strict, surrogate, gamma, detach_reset, memory, offset,
    )  # fmt: skip
    return OPS(x, theta, v0, rule, T=T, spikes=spikes, mask=mask, state=state, out=out, state_out=state_out)

"""The integrate-and-fire op: schemas, fakes, autograd, and the public function `iaf`."""

from typing import NamedTuple

import torch

from snnfast import reference
from snnfast.ops import checks, library
from snnfast.ops.layout import accumulator, layout_of, threshold
from snnfast.reference import multistep

MOST_STEPS = 1 << 24
EVERY = multistep.EVERY

_RULE = (
    "bool normalised, bool strict, bool hard, float v_reset, str negative, float n_min, float p_max, "
    "str surrogate, float gamma, bool detach_reset"
)
_NEURON = "Tensor x, Tensor theta, Tensor? v, Tensor? count, Tensor? mask"
_LAUNCH = "int T, int inner, float v0"

NEGATIVE = ("stbif", "snm")
SPIKES = ("scaled", "int8", "bits", "count")
GAMMA = {"zif": 1.0, "triangle": 1.0, "rectangle": 1.0, "atan": 2.0, "sigmoid": 4.0}


class IAFState(NamedTuple):
    """What a neuron carries from one chunk of time to the next, each of the shape of one step.

    v: membrane after the last step, in volts or in units of theta, fp32 (fp64 for fp64 input); differentiable.
    count: net spikes (positive minus negative, unmasked) since the start, int32; exact up to 2^24 in size.
    """

    v: torch.Tensor
    count: torch.Tensor


def _fwd(x, theta, v, count, mask, T, inner, v0, spikes, every, *rule):
    k = reference.iaf.Rule(*rule)
    return multistep.fwd(reference.iaf, x, theta, v, count, mask, T, inner, v0, spikes, every, k)


def _out(x, theta, v, count, mask, out, v_end, count_end, T, inner, v0, spikes, *rule):
    k = reference.iaf.Rule(*rule)
    v, count, _ = multistep.fwd_into(reference.iaf, out, x, theta, v, count, mask, T, inner, v0, spikes, 0, k)
    v_end.copy_(v)
    count_end.copy_(count)


def _bwd(ds, dv, x, theta, v, count, mask, kept, T, inner, v0, *rule):
    k = reference.iaf.Rule(*rule)
    return multistep.bwd(reference.iaf, ds, dv, x, theta, v, count, mask, kept, T, inner, v0, k, EVERY)


iaf_fwd = library.define(
    f"iaf_fwd({_NEURON}, {_LAUNCH}, str spikes, int every, {_RULE}) -> (Tensor s, Tensor v_end, Tensor count_end, Tensor kept)", _fwd
)
iaf_out = library.define(
    f"iaf_out({_NEURON}, Tensor(a!) out, Tensor(b!) v_end, Tensor(c!) count_end, {_LAUNCH}, str spikes, {_RULE}) -> ()", _out
)
iaf_bwd = library.define(
    f"iaf_bwd(Tensor? ds, Tensor? dv, {_NEURON}, Tensor kept, {_LAUNCH}, {_RULE}) -> (Tensor dx, Tensor dv_start, Tensor dtheta)", _bwd
)


def _fake_state(x, theta):
    return theta.new_empty((x.size(1),)), x.new_empty((x.size(1),), dtype=torch.int32)


def _fake_fwd(x, theta, v, count, mask, T, inner, v0, spikes, every, *rule):
    negative = reference.iaf.Rule(*rule).negative
    kept = theta.new_empty(multistep.kept_shape(T, x.size(1), every, negative))
    return multistep.allocate(x, T, spikes, negative), *_fake_state(x, theta), kept


def _fake_out(x, theta, *rest):
    return None


def _fake_bwd(ds, dv, x, theta, *rest):
    return x.new_empty(x.shape), theta.new_empty((x.size(1),)), theta.new_empty((x.size(1),))


library.fake("iaf_fwd", _fake_fwd)
library.fake("iaf_out", _fake_out)
library.fake("iaf_bwd", _fake_bwd)


def _setup(ctx, inputs, output):
    x, theta, v, count, mask, T, inner, v0, spikes, every, *rule = inputs
    ctx.save_for_backward(x, theta, v, count, mask, output[3])
    ctx.launch = (T, inner, v0, *rule)
    ctx.scaled = spikes == "scaled"
    ctx.set_materialize_grads(False)


def _backward(ctx, ds, dv, dcount, dkept):
    x, theta, v, count, mask, kept = ctx.saved_tensors
    inner = ctx.launch[1]
    if not ctx.scaled:
        ds = None
    if ds is not None and ds.size(1) > 1 and ds.stride(1) != 1:
        ds = ds.contiguous()
    if dv is not None:
        dv = dv.contiguous()
    dx, dv_start, dtheta = iaf_bwd(ds, dv, x, theta, v, count, mask, kept, *ctx.launch)
    C = theta.size(0)
    shape = (1, 1, x.size(1)) if C == 1 else (x.size(1) // (C * inner), C, inner)
    dtheta = dtheta.view(shape).sum((0, 2))
    return dx, dtheta, (None if v is None else dv_start), *(None,) * (len(ctx.launch) + 4)


library.autograd("iaf_fwd", _backward, _setup)
library.once_differentiable("iaf_bwd")


def _rule(reset, v_reset, negative, caps, unit, strict, surrogate, gamma, detach_reset):
    """Checks the launch's numbers; returns them in the order of `Rule`."""
    checks.choice("reset", reset, ("soft", "hard"))
    checks.choice("unit", unit, ("volts", "normalised"))
    checks.choice("surrogate", surrogate, tuple(GAMMA))
    v_reset = checks.number("v_reset", v_reset)
    gamma = GAMMA[surrogate] if gamma is None else checks.number("gamma", gamma, positive=True)
    n_min, p_max = 0.0, float("inf")
    if negative is not None:
        checks.choice("negative", negative, (None, *NEGATIVE))
    if caps is not None:
        if negative is None:
            raise ValueError("caps limit the spike count of a neuron with negative spikes; give negative='stbif' or 'snm'")
        if not isinstance(caps, (tuple, list)) or len(caps) != 2:
            raise ValueError(f"caps must be (n_min, p_max), got {caps!r}")
        n_min = -float("inf") if caps[0] is None else checks.number("caps[0]", caps[0])
        p_max = float("inf") if caps[1] is None else checks.number("caps[1]", caps[1])
        if not n_min <= 0 <= p_max:
            raise ValueError(f"caps must satisfy n_min <= 0 <= p_max, got {caps!r}")
    return (
        unit == "normalised",
        bool(strict),
        reset == "hard",
        v_reset,
        negative or "none",
        n_min,
        p_max,
        surrogate,
        gamma,
        bool(detach_reset),
    )


def _input(x, T):
    """Returns x as [T or 1, *step] and the number of steps."""
    checks.tensor("x", x)
    if T is not None:
        return x.unsqueeze(0), _countable(checks.integer("T", T))
    if x.dim() == 0:
        raise ValueError("x must be [T, ...] with time first, got a tensor without dimensions; a constant current needs T=")
    if x.size(0) == 0:
        raise ValueError(f"x has no time steps: shape {tuple(x.shape)}; its first axis is time and must be >= 1")
    return x, _countable(x.size(0))


def _countable(T):
    """Counts are kept in fp32 lanes, exact below 2^24."""
    if T > MOST_STEPS:
        raise ValueError(f"T must be <= 2^24 = {MOST_STEPS} per call, got {T}: run it in chunks with `state`")
    return T


def _start(x, layout, theta, v0, state, normalised):
    """The state before the first step: v [N] or None (then v0 is a number), count [N] or None, v0."""
    if state is not None:
        if not isinstance(state, (tuple, list)) or len(state) != 2:
            raise TypeError(f"state must be the IAFState that iaf returned, got {type(state).__name__}")
        v, count = state
        checks.tensor("state.v", v, (accumulator(x.dtype),), x.device)
        checks.tensor("state.count", count, (torch.int32,), x.device)
        for name, t in (("state.v", v), ("state.count", count)):
            if t.shape != layout.shape:
                raise ValueError(f"{name} has shape {tuple(t.shape)}, but one step of x has shape {layout.shape}")
        return layout.vector(v), layout.vector(count), 0.0
    if isinstance(v0, torch.Tensor):
        checks.tensor("v0", v0, device=x.device)
        checks.broadcasts("v0", v0.shape, layout.shape)
        v = v0.to(accumulator(x.dtype))
        if not normalised:
            v = v * (theta.to(v.dtype) if isinstance(theta, torch.Tensor) else theta)
        return layout.vector(v), None, 0.0
    return None, None, checks.number("v0", v0)


def _out_rows(out, layout, x, T, spikes, negative):
    """`out` as the kernel sees it; its shape, dtype, device and layout must be those of the result."""
    shape, dtype = multistep.spikes_spec(T, layout.N, x.dtype, spikes, negative)
    checks.tensor("out", out, (dtype,), x.device)
    if spikes in ("scaled", "int8"):
        shape = (T, *layout.shape)
    elif spikes == "count":
        shape = layout.shape
    if tuple(out.shape) != tuple(shape):
        raise ValueError(f"out has shape {tuple(out.shape)}, but the result for spikes={spikes!r} has shape {tuple(shape)}")
    if spikes == "bits":
        rows = out
    elif spikes == "count":
        rows = layout.rows(out.unsqueeze(0))[0]
    else:
        rows = layout.rows(out)
    if out.numel() and (rows.data_ptr() != out.data_ptr() or not rows.is_contiguous()):
        raise ValueError(f"out must be dense and lie in memory as x does; its strides are {tuple(out.stride())}")
    return rows


def _state_out(state_out, layout, theta):
    """The vectors that receive the final state: new ones, or views of `state_out`'s tensors."""
    if state_out is None:
        return theta.new_empty((layout.N,)), theta.new_empty((layout.N,), dtype=torch.int32)
    vectors = []
    for name, t, dtype in (("state_out.v", state_out[0], theta.dtype), ("state_out.count", state_out[1], torch.int32)):
        checks.tensor(name, t, (dtype,), theta.device)
        if t.shape != layout.shape or layout.vector(t).data_ptr() != t.data_ptr():
            raise ValueError(f"{name} must have the shape and layout of one step of x, {layout.shape}; got shape {tuple(t.shape)}")
        vectors.append(layout.vector(t))
    return vectors


def iaf(
    x,
    theta,
    v0=0.5,
    *,
    T=None,
    reset="soft",
    v_reset=0.0,
    negative=None,
    caps=None,
    unit="volts",
    strict=False,
    spikes="scaled",
    mask=None,
    state=None,
    surrogate="zif",
    gamma=None,
    detach_reset=False,
    out=None,
    state_out=None,
):
    """Integrate-and-fire over all T steps in one launch.

    Equivalent to (volts, soft reset; `snnfast/neurons/iaf.py` has every rule)::

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
        spikes: form of the result: "scaled" s*theta in x's dtype; "int8" s; "bits" int32 [T, ceil(N/32)] (with `negative`
            [2, T, ceil(N/32)], positive then negative), neuron 32 w + j of a step in memory order at bit j of word w, tail zero;
            "count" int32 of one step's shape, the net sum of s over this call. Only "scaled" is differentiable.
        mask: bool, broadcasts over one step: where False nothing is emitted; potential and count go on as without it.
        state: `IAFState` of an earlier call: chunk after chunk gives bit for bit what one call gives.
        surrogate: ds/du at a = u - theta: "zif" max(gamma - |a|, 0)/gamma^2; "triangle" the same with gamma = theta;
            "rectangle" [|a| <= gamma]/(2 gamma); "atan" (gamma/2)/(1 + (pi/2 gamma a)^2); "sigmoid" gamma sig(gamma a)(1 - sig(gamma a)).
        gamma: width or steepness of the surrogate; default 1 (zif, rectangle), 2 (atan), 4 (sigmoid).
        detach_reset: no gradient through the spike in the reset.
        out: a tensor to write the spikes to: same shape, dtype and layout as the result; no autograd.
        state_out: with `out`, an `IAFState` whose tensors receive the state after the last step; it may be `state` itself, which is then
            updated in place.

    Returns:
        (s, state): spikes, and the state after the last step. Gradients reach x, theta, v0 (as a tensor) and state.v.

    Raises:
        ValueError, TypeError: naming the argument, what was given and what is allowed.
    """
    x, T = _input(x, T)
    rule = _rule(reset, v_reset, negative, caps, unit, strict, surrogate, gamma, detach_reset)
    checks.choice("spikes", spikes, SPIKES)
    layout = layout_of(x, skip=1)
    th, inner = threshold("theta", theta, x, layout)
    v, count, v0 = _start(x, layout, theta, v0, state, rule[0])
    if mask is not None:
        checks.tensor("mask", mask, (torch.bool,), x.device)
        checks.broadcasts("mask", mask.shape, layout.shape)
        mask = layout.vector(mask)
    rows = layout.rows(x)
    grad = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, th, v))
    if out is None:
        if state_out is not None:
            raise ValueError("state_out goes with out=")
        every = EVERY if grad and x.is_cuda else 0
        s, v, count, _ = iaf_fwd(rows, th, v, count, mask, T, inner, v0, spikes, every, *rule)
    else:
        if grad or out.requires_grad:
            raise ValueError("out= has no autograd: call iaf under torch.no_grad(), or without out")
        s = _out_rows(out, layout, x, T, spikes, rule[4])
        checks.disjoint(out, x=x, theta=th, **{"state.v": v, "state.count": count}, mask=mask)
        v_end, count_end = _state_out(state_out, layout, th)
        iaf_out(rows, th, v, count, mask, s, v_end, count_end, T, inner, v0, spikes, *rule)
        return out, IAFState(layout.unvector(v_end), layout.unvector(count_end)) if state_out is None else state_out
    state = IAFState(layout.unvector(v), layout.unvector(count))
    if spikes in ("scaled", "int8"):
        s = layout.unrows(s)
    elif spikes == "count":
        s = layout.unvector(s)
    return s, state

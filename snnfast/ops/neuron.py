"""What the ops of every neuron share: schemas, fakes, autograd, and the way from a caller's tensors to a launch."""

from typing import NamedTuple

import torch

from snnfast import checks
from snnfast.checks import MOST_STEPS
from snnfast.engines import backends, form, reference
from snnfast.engines.reference import multistep
from snnfast.equations.bind import functions, remembers, signed
from snnfast.ops import carried, library
from snnfast.ops.channels import totals
from snnfast.ops.layout import accumulator, layout_of, threshold, together

SMALL = 1 << 17  # spikes

_NEURON = "Tensor x, Tensor theta, Tensor? v, Tensor? count, Tensor? mask"
_LAUNCH = "int T, int inner, float v0"


class IAFState(NamedTuple):
    """What a neuron carries from one chunk of time to the next, each of the shape of one step.

    v: membrane after the last step, in volts or in units of theta, fp32 (fp64 for fp64 input); differentiable.
    count: net spikes (positive minus negative, unmasked) since the start, int32; exact up to 2^24 in size. With memory=True the float memory
        instead, the sum of s theta in the dtype of v.
    """

    v: torch.Tensor
    count: torch.Tensor  # type: ignore[assignment]  # in the place of tuple.count, which nobody calls


class Neuron:
    """The ops snnfast::<stem>_fwd, _out, _bwd of an equation, with the reference as their kernel, and the call that uses them.

    compiled: they have C++ kernels too (a row of csrc/ops/table.h, and csrc/ops/<stem>.cpp); Triton serves CUDA where those are not built, and always
    where they are not compiled.

    Attributes:
        fwd, out, bwd: the ops; bwd is None where the equation has no `step_bwd`.
        reference_fwd, reference_bwd: their reference kernels.
    """

    def __init__(self, stem, equation, compiled=False):
        self.stem, self.eq = stem, reference.bound(equation)
        self.fwd = library.define(
            f"{stem}_fwd({_NEURON}, {_LAUNCH}, int spikes, int every, float[] rule) -> (Tensor s, Tensor v_end, Tensor count_end, Tensor kept)",
            self.reference_fwd,
        )
        self.out = library.define(
            f"{stem}_out({_NEURON}, Tensor(a!) out, Tensor(b!) v_end, Tensor(c!) count_end, {_LAUNCH}, int spikes, float[] rule) -> ()",
            self.reference_out,
        )
        library.fake(f"{stem}_fwd", self._fake_fwd)
        library.fake(f"{stem}_out", lambda *args: None)
        self.bwd, self.call_fwd = None, self.fwd
        if "step_bwd" in functions(equation):
            self.bwd = library.define(
                f"{stem}_bwd(Tensor? ds, Tensor? dv, {_NEURON}, Tensor kept, {_LAUNCH}, float[] rule) -> (Tensor dx, Tensor dv_start, Tensor dtheta)",
                self.reference_bwd,
            )
            library.fake(f"{stem}_bwd", self._fake_bwd)
            self.call_fwd = library.autograd(f"{stem}_fwd", self._backward, self._setup)
            self.call_bwd = library.once_differentiable(f"{stem}_bwd")
        backends.register_neuron(library.override, stem, equation, differentiable=self.bwd is not None, compiled=compiled)

    # ---- the reference kernels

    def reference_fwd(self, x, theta, v, count, mask, T, inner, v0, spikes, every, rule):
        k = self.eq.numbers.unpack(rule)
        return multistep.fwd(self.eq, x, theta, v, count, mask, T, inner, v0, form.SPIKES[spikes], every, k)

    def reference_out(self, x, theta, v, count, mask, out, v_end, count_end, T, inner, v0, spikes, rule):
        k = self.eq.numbers.unpack(rule)
        v, count, _ = multistep.fwd_into(self.eq, out, x, theta, v, count, mask, T, inner, v0, form.SPIKES[spikes], 0, k)
        v_end.copy_(v)
        count_end.copy_(count)

    def reference_bwd(self, ds, dv, x, theta, v, count, mask, kept, T, inner, v0, rule):
        return multistep.bwd(self.eq, ds, dv, x, theta, v, count, mask, kept, T, inner, v0, self.eq.numbers.unpack(rule))

    # ---- shapes and autograd

    def _fake_fwd(self, x, theta, v, count, mask, T, inner, v0, spikes, every, rule):
        k = self.eq.numbers.unpack(rule)
        kept = theta.new_empty(form.kept_shape(T, x.size(1), every, self.eq.gates(k)))
        s = form.allocate(x, T, form.SPIKES[spikes], signed(k))
        return s, theta.new_empty((x.size(1),)), form.count_like(x, theta, k), kept

    def _fake_bwd(self, ds, dv, x, theta, *rest):
        N = x.size(1)
        shape = (N,) if theta.dim() == 1 else (self.eq.asked(self.eq.numbers.unpack(rest[-1])), N)
        return x.new_empty(x.shape), theta.new_empty((N,)), theta.new_empty(shape)

    @staticmethod
    def _setup(ctx, inputs, output):
        x, theta, v, count, mask, T, inner, v0, spikes, every, rule = inputs
        ctx.save_for_backward(x, theta, v, count, mask, output[3])
        ctx.launch = (T, inner, v0, rule)
        kind = form.SPIKES[spikes]
        ctx.scaled = kind == "scaled"
        s, _, count, kept = output
        ctx.mark_non_differentiable(*((s, count, kept) if kind == "unit" else (count, kept)))
        ctx.set_materialize_grads(False)

    def _backward(self, ctx, ds, dv, dcount, dkept):
        x, theta, v, count, mask, kept = ctx.saved_tensors
        inner = ctx.launch[1]
        if not ctx.scaled:
            ds = None
        if ds is not None and ds.size(1) > 1 and ds.stride(1) != 1:
            ds = ds.contiguous()
        if dv is not None:
            dv = dv.contiguous()
        dx, dv_start, dtheta = self.call_bwd(ds, dv, x, theta, v, count, mask, kept, *ctx.launch)
        if ctx.needs_input_grad[1]:
            C = theta.size(-1)
            shares = [totals(share, C, inner) for share in (dtheta[None] if dtheta.dim() == 1 else dtheta)]
            shares = [torch.zeros_like(shares[0])] * (len(self.eq.parameters) - len(shares)) + shares
            dtheta = torch.stack(shares).view(theta.shape).to(theta.dtype)
        else:
            dtheta = None
        return dx, dtheta, (None if v is None else dv_start), *(None,) * (len(ctx.launch) + 4)

    # ---- the call

    def __call__(self, x, theta, v0, rule, *, T, spikes, mask, state, out, state_out):
        """Runs the neuron; the arguments are those of `snnfast.iaf`, `rule` a Rule of the equation; theta is a tuple where it has more parameters."""
        tape = carried.active()
        if tape is None:
            return self._run(x, theta, v0, rule, T, spikes, mask, state, out, state_out)
        counted = self.eq.gates(rule) or remembers(rule)
        run = lambda begin: self._run(x, theta, v0, rule, T, spikes, mask, begin, out, state_out)  # noqa: E731
        return tape.through(run, IAFState, self.stem, counted, state)

    def _run(self, x, theta, v0, rule, T, spikes, mask, state, out, state_out):
        x, T = steps_of(x, T)
        checks.choice("spikes", spikes, form.SPIKES)
        if spikes == "count" and remembers(rule):
            raise ValueError("spikes='count' needs whole counts, which memory=True replaces by a float memory")
        plain = library.is_plain()
        layout = layout_of(x, 1, plain)
        if len(self.eq.parameters) == 1:
            th, inner = threshold(self.eq.parameters[0], theta, x, layout, plain)
        else:
            th, inner = together(dict(zip(self.eq.parameters, theta, strict=True)), x, layout)
        v, count, v0 = _start(x, layout, theta, v0, state, self.eq, rule)
        if mask is not None:
            checks.tensor("mask", mask, (torch.bool,), x.device)
            checks.broadcasts("mask", mask.shape, layout.shape)
            mask = layout.vector(mask)
        rows = layout.rows(x)
        grad = torch.is_grad_enabled() and (x.requires_grad or th.requires_grad or (v is not None and v.requires_grad))
        if grad and self.bwd is None:
            raise ValueError(f"{self.stem} has no step_bwd, so it has no gradient: call it under torch.no_grad()")
        if out is not None:
            if grad or out.requires_grad:
                raise ValueError("out= has no autograd: call it under torch.no_grad(), or without out")
            s = _out_rows(out, layout, x, T, spikes, signed(rule))
            checks.disjoint(out, x=x, theta=th, **{"state.v": v, "state.count": count}, mask=mask)
            v_end, count_end = _state_out(state_out, layout, rows, th, rule)
            self.out(rows, th, v, count, mask, s, v_end, count_end, T, inner, v0, form.SPIKES.index(spikes), self.eq.numbers.pack(rule))
            return out, IAFState(layout.unvector(v_end), layout.unvector(count_end)) if state_out is None else state_out
        if state_out is not None:
            raise ValueError("state_out goes with out=")
        kind, numbers = form.SPIKES.index(spikes), (self.eq.numbers.packed if plain else self.eq.numbers.pack)(rule)
        # With results allocated here a small launch takes three quarters of the time; a large one wants the op's, which lie on huge pages.
        if plain and not grad and T * layout.N <= SMALL and library.are_plain(rows, th, v, count, mask):
            like = spikes == "scaled" and T == rows.size(0) and rows.is_contiguous()
            s = torch.empty_like(rows) if like else form.allocate(rows, T, spikes, signed(rule))
            ends = th.new_empty(layout.N), form.count_like(rows, th, rule)
            self.out(rows, th, v, count, mask, s, *ends, T, inner, v0, kind, numbers)
            v, count = ends
        else:
            every = form.EVERY if grad and x.is_cuda else 0
            s, v, count, _ = self.call_fwd(rows, th, v, count, mask, T, inner, v0, kind, every, numbers)
        state = IAFState(layout.unvector(v), layout.unvector(count))
        if spikes in form.DENSE:
            s = layout.unrows(s)
        elif spikes == "count":
            s = layout.unvector(s)
        return s, state


def steps_of(x, T):
    """Returns x as [T or 1, *step] and the number of steps."""
    x = checks.resolved(x)
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


def _start(x, layout, theta, v0, state, eq, rule):
    """The state before the first step: v [N] or None (then v0 is a number), count [N] or None, v0."""
    if state is not None:
        if not isinstance(state, (tuple, list)) or len(state) != 2:
            raise TypeError(f"state must be the IAFState that an earlier call returned, got {type(state).__name__}")
        v, count = state
        checks.tensor("state.v", v, (accumulator(x.dtype),), x.device)
        if count is not None or carried.active() is None:
            checks.tensor("state.count", count, (accumulator(x.dtype) if remembers(rule) else torch.int32,), x.device)
        for name, t in (("state.v", v), ("state.count", count)):
            if t is not None and t.shape != layout.shape:
                raise ValueError(f"{name} has shape {tuple(t.shape)}, but one step of x has shape {layout.shape}")
        return layout.vector(v), None if count is None else layout.vector(count), 0.0
    if isinstance(v0, torch.Tensor):
        checks.tensor("v0", v0, device=x.device)
        checks.broadcasts("v0", v0.shape, layout.shape)
        v = v0.to(accumulator(x.dtype))
        cast = lambda t: t.to(v.dtype) if isinstance(t, torch.Tensor) else t  # noqa: E731
        return layout.vector(eq.start(v, tuple(map(cast, theta)) if isinstance(theta, tuple) else cast(theta), rule)), None, 0.0
    return None, None, checks.number("v0", v0)


def _out_rows(out, layout, x, T, spikes, signed):
    """`out` as the kernel sees it; its shape, dtype, device and layout must be those of the result."""
    shape, dtype = form.spikes_spec(T, layout.N, x.dtype, spikes, signed)
    checks.tensor("out", out, (dtype,), x.device)
    if spikes in form.DENSE:
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
    if out.numel() and (checks.start(rows) != checks.start(out) or not rows.is_contiguous()):
        raise ValueError(f"out must be dense and lie in memory as x does; its strides are {tuple(out.stride())}")
    return rows


def _state_out(state_out, layout, x, theta, rule):
    """The vectors that receive the final state: new ones, or views of `state_out`'s tensors."""
    new = theta.new_empty((layout.N,)), form.count_like(x, theta, rule)
    if state_out is None:
        return new
    vectors = []
    for name, t, like in (("state_out.v", state_out[0], new[0]), ("state_out.count", state_out[1], new[1])):
        checks.tensor(name, t, (like.dtype,), theta.device)
        if t.shape != layout.shape or checks.start(layout.vector(t)) != checks.start(t):
            raise ValueError(f"{name} must have the shape and layout of one step of x, {layout.shape}; got shape {tuple(t.shape)}")
        vectors.append(layout.vector(t))
    return vectors

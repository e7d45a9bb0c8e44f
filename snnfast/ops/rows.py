"""Functions of rows over time: schemas, fakes, and the public functions `softmax_over_time` and `layer_norm_over_time`."""

from typing import NamedTuple

import torch
from torch import Tensor

from snnfast import checks
from snnfast.engines import reference
from snnfast.engines.reference import rows
from snnfast.ops import library

DTYPES = (torch.float32, torch.float64)
MOST_COLUMNS = 4096  # a row lies in the registers of a block of threads


class RowState(NamedTuple):
    """What a function over time keeps, each of the shape of one step: the sum of the inputs so far, and the function of it."""

    total: torch.Tensor
    last: torch.Tensor


def _softmax(x, total, last, out):
    rows.run(reference.softmax, x, total, last, out, None, None, reference.softmax.Rule(x.dtype == torch.float64))


def _layer_norm(x, weight, bias, total, last, out, eps):
    w, b = (total.new_full((1,), fill) if t is None else t for t, fill in ((weight, 1.0), (bias, 0.0)))
    rows.run(reference.layer_norm, x, total, last, out, w, b, reference.layer_norm.Rule(x.dtype == torch.float64, eps))


_STATE = "Tensor(a!) total, Tensor(b!) last, Tensor(c!) out"
softmax_out = library.define(f"softmax_out(Tensor x, {_STATE}) -> ()", _softmax)
layer_norm_out = library.define(f"layer_norm_out(Tensor x, Tensor? weight, Tensor? bias, {_STATE}, float eps) -> ()", _layer_norm)
library.fake("softmax_out", lambda *args: None)
library.fake("layer_norm_out", lambda *args: None)


def softmax_over_time(x: Tensor, state: RowState | None = None, *, out: Tensor | None = None) -> tuple[Tensor, RowState]:
    """The softmax over the last dimension of a running sum, passed on as differences.

    Equivalent to (`snnfast/equations/functions/softmax.py` has the order of operations)::

        for t in range(T):
            total = total + x[t]
            y = softmax(total, -1)
            out[t] = y - last
            last = y

    Args:
        x: [T, ..., C] with time first, fp32 or fp64; C <= 4096.
        state: the `RowState` of an earlier call, which is updated in place; None at the start, where both its tensors are 0.
        out: a contiguous tensor of x's shape to write to.

    Returns:
        (out, state). Nothing is differentiable.

    Raises:
        ValueError, TypeError: naming the argument, what was given and what is allowed.

    >>> y, state = snnfast.softmax_over_time(torch.tensor([[0.0, 0.0], [0.0, 0.0]]))
    >>> y.tolist()  # the second step changes nothing
    [[0.5, 0.5], [0.0, 0.0]]
    """
    return _launch(softmax_out, x, state, out)


def layer_norm_over_time(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    state: RowState | None = None,
    *,
    out: Tensor | None = None,
) -> tuple[Tensor, RowState]:
    """The layer norm over the last dimension of a running sum, passed on as differences; as `softmax_over_time`.

    Args:
        x: [T, ..., C] with time first, fp32 or fp64; C <= 4096.
        weight, bias: [C] in x's dtype, or None.
        eps: > 0, added to the variance.
        state: the `RowState` of an earlier call, which is updated in place; None at the start, where both its tensors are 0.
        out: a contiguous tensor of x's shape to write to.

    Returns:
        (out, state). Nothing is differentiable. The sum of all outputs is layer_norm(sum x) weight + bias.

    >>> y, state = snnfast.layer_norm_over_time(torch.tensor([[1.0, 3.0], [0.0, 0.0]]), eps=1e-9)
    >>> y.round().tolist()
    [[-1.0, 1.0], [0.0, 0.0]]
    """
    checks.number("eps", eps, positive=True)
    for name, t in (("weight", weight), ("bias", bias)):
        if t is not None:
            checks.tensor("x", x, DTYPES)
            checks.tensor(name, t, (x.dtype,), x.device)
            if x.dim() < 1 or tuple(t.shape) != tuple(x.shape[-1:]):
                raise ValueError(f"{name} must be {list(x.shape[-1:])}, a number per column of x, got shape {tuple(t.shape)}")
    contiguous = [None if t is None else t.detach().contiguous() for t in (weight, bias)]

    def call(x, total, last, out):
        layer_norm_out(x, *contiguous, total, last, out, float(eps))

    return _launch(call, x, state, out)


@torch.no_grad()
def _launch(op, x, state, out):
    checks.tensor("x", x, DTYPES)
    library.check_untransformed("a function over time", x)
    if x.dim() < 2 or not 1 <= x.size(-1) <= MOST_COLUMNS or x.size(0) < 1:
        raise ValueError(f"x must be [T, ..., C] with T >= 1 and 1 <= C <= {MOST_COLUMNS}, got shape {tuple(x.shape)}")
    if state is None:
        state = RowState(*(x.new_zeros(x.shape[1:]) for _ in range(2)))
    if not isinstance(state, (tuple, list)) or len(state) != 2:
        raise TypeError(f"state must be the RowState that an earlier call returned, got {type(state).__name__}")
    for name, t in zip(("state.total", "state.last"), state):
        checks.tensor(name, t, (x.dtype,), x.device)
        if t.shape != x.shape[1:] or not t.is_contiguous():
            raise ValueError(f"{name} must be contiguous and of the shape of one step of x, {tuple(x.shape[1:])}; got {tuple(t.shape)}")
    if out is None:
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    checks.tensor("out", out, (x.dtype,), x.device)
    if out.shape != x.shape or not out.is_contiguous():
        raise ValueError(f"out must be contiguous and of x's shape {tuple(x.shape)}, got {tuple(out.shape)}")
    checks.disjoint(out, x=x, **{"state.total": state[0], "state.last": state[1]})
    flat = lambda t, *lead: t.reshape(*lead, -1, x.size(-1))  # noqa: E731
    op(flat(x.contiguous(), x.size(0)), flat(state[0]), flat(state[1]), flat(out, x.size(0)))
    return out, RowState(*state)

"""The gradients of a network that runs in chunks, summed up from the last chunk to the first."""

import contextlib

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from snnfast.ops import carried
from snnfast.training.boundaries import differentiable
from snnfast.training.time_trial import check_leaves, differ


class ChunkGradients:
    """run: the `Run`.  wants_x, wants: whether x, and each parameter, gets a gradient."""

    def __init__(self, run, x, parameters, wants_x, wants):
        self.run, self.x, self.parameters, self.wants = run, x, [p for p, wanted in zip(parameters, wants) if wanted], wants
        self.dx = (torch.zeros_like if run.constant else torch.empty_like)(x) if wants_x else None
        self.of, self.after = [None] * len(self.parameters), None

    def sums(self):
        """The gradient of each parameter, or None."""
        of = iter(zip(self.of, self.parameters))
        summed = [next(of) if wanted else (None, None) for wanted in self.wants]
        return [None if total is None else total.to(p.dtype) for total, p in summed]

    def chunk(self, i, before, y, dy):
        """Chunk i once more, from the state before it, and its gradients."""
        run, cut = self.run, slice(self.run.cuts[i], self.run.cuts[i + 1])
        before, begins = differentiable(before)
        part = run.part(self.x, i).detach().requires_grad_(self.dx is not None)
        again, state = run.steps(part, cut.stop - cut.start, before)
        if differ(again.detach(), y[cut]):
            raise RuntimeError(
                f"steps {cut.start} to {cut.stop} gave something else when they ran again for the backward: net holds a state that is neither "
                "snnfast's nor SpikingJelly's, or was changed since"
            )
        ends = [t for t in tree_flatten(state)[0] if isinstance(t, Tensor) and t.is_floating_point()]
        if self.after is None:
            self.after = [None] * len(ends)
            check_leaves([again], [part, *begins, *run.net.parameters()])
        pairs = [(t, g) for t, g in zip([again, *ends], [dy[cut], *self.after]) if g is not None and t.requires_grad]
        inputs = [*begins, *self.parameters, *([part] if self.dx is not None else [])]
        found = [None] * len(inputs)
        if pairs:
            with carried.closed(), _without_hooks(self.parameters):
                found = list(torch.autograd.grad([t for t, _ in pairs], inputs, [g for _, g in pairs], allow_unused=True))
        self.after = found[: len(begins)]
        self._add(found[len(begins) : len(begins) + len(self.parameters)])
        if self.dx is not None:
            self._add_to_x(cut, found[-1])

    def _add(self, gradients):
        """Sums of half precision are in fp32. A new tensor each time: autograd may give one to several parameters."""
        for j, gradient in enumerate(gradients):
            if gradient is not None:
                gradient = gradient.float() if gradient.dtype.itemsize == 2 else gradient
                self.of[j] = gradient if self.of[j] is None else self.of[j] + gradient

    def _add_to_x(self, cut, gradient):
        if self.run.constant:
            if gradient is not None:
                self.dx.add_(gradient)
        elif gradient is None:
            self.dx[cut].zero_()
        else:
            self.dx[cut].copy_(gradient)


@contextlib.contextmanager
def _without_hooks(parameters):
    """Hooks on parameters are for their whole gradient, which autograd gives them afterwards."""
    hooks = [(p, p._backward_hooks) for p in parameters if p._backward_hooks]
    for p, _ in hooks:
        p._backward_hooks = None
    try:
        yield
    finally:
        for p, of in hooks:
            p._backward_hooks = of

"""Backpropagation through T steps in memory that hardly grows with T: chunks of time, run again in the backward.

forward    without a graph, chunk by chunk; what every neuron carries is kept at the boundaries of chunks, or at every m-th of them
backward   from the last chunk: its steps once more, with a graph, from the kept state; then the gradients of that state are those of the chunk before
"""

import contextlib
import math
import weakref
from typing import Literal

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_flatten

from snnfast import checks
from snnfast.checks import resolved
from snnfast.models.direct import DirectNetwork, SharedDropout
from snnfast.ops import carried
from snnfast.training.boundaries import Held, States, Surroundings, detached, differentiable

_tried: weakref.WeakSet = weakref.WeakSet()  # networks that gave the same in one piece and in two
_AT_MOST = 0.05  # share by which outputs may differ where rounding moved a spike


def backward_through_time(
    net: torch.nn.Module,
    x: Tensor,
    T: int | None = None,
    *,
    chunk: int | None = None,
    states: int | None = None,
    batch_norm: Literal["refuse", "chunk"] = "refuse",
) -> Tensor:
    """The outputs of a spiking network at T steps, whose backward holds `chunk` steps at a time in memory, not T.

    Equivalent to net(x), or for a `snnfast.models.DirectNetwork` to net.logits(x), in outputs and gradients. The network's own code runs on chunks of
    time; its neurons carry their state from one to the next, and the backward runs each chunk once more, from the last to the first (checkpointing in
    time: Chen et al., "Training deep nets with sublinear memory cost", 2016). The outputs, and the gradients of x at a step, are the same bits as
    those of the whole run wherever torch's layers give an image the same bits in any batch. Gradients of parameters, and of an x that is the same at
    every step, are sums over the chunks, from the last: they round in another order than the whole run's, and are the same for any `states`.

    Args:
        net: [T, B, ...] -> [T, B, ...], time first, any module whose neurons are snnfast's (ops, `snnfast.nn`, `snnfast.models`) or SpikingJelly's in
            multi-step mode, from whose memories it starts. Everything else in it must treat each step alone. A `DirectNetwork` takes what it always
            takes; what its images are before the first neuron is computed once.
        x: [T, B, ...]; or, with T, one step [B, ...] that is the same at every step. Of a DirectNetwork: images, or frames [B, T, ...].
        T: the number of steps of an x that is the same at each; of a DirectNetwork net.T by default.
        chunk: steps that are in memory at a time; by default about the square root of T / 2.
        states: at how many boundaries of chunks states are kept, at most; fewer cost a further run without a graph. Default: at all.
        batch_norm: "refuse" a batch norm that normalises with the statistics of its batch, which are those of all steps; "chunk" lets it take those
            of each chunk, which is another training than the whole run's.

    Returns:
        [T, B, ...], the output at each step; its backward runs once.

    Raises:
        ValueError: a batch norm in training, a dropout with one mask for all steps; a network whose outputs depend on how time is cut, which a few
            steps show before its first run.
        RuntimeError: in the backward, where the second run of a chunk gives something else than the first: the network holds a state that is not
            known, or was changed since.

    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), snnfast.nn.LIF(2.0), torch.nn.Linear(3, 1))
    >>> x = torch.rand(64, 5, 2)  # 64 steps, 5 samples
    >>> y = snnfast.backward_through_time(net, x, chunk=8)
    >>> torch.equal(y, net(x))
    True
    >>> y.mean().backward()
    >>> net[0].weight.grad.shape
    torch.Size([3, 2])
    """
    checks.tensor("x", x)
    checks.choice("batch_norm", batch_norm, ("refuse", "chunk"))
    if not isinstance(net, torch.nn.Module):
        raise TypeError(f"net must be a torch.nn.Module, got {type(net).__name__}")
    call, x, constant, T = _call(net, x, T)
    chunk = min(T, max(1, round(math.sqrt(T / 2))) if chunk is None else checks.integer("chunk", chunk))
    if states is not None:
        checks.integer("states", states)
    if chunk == T:
        return _output(call(x.expand(T, *x.shape) if constant and not isinstance(net, DirectNetwork) else x, T), T)
    check_layers(net, batch_norm)
    parameters = [p for p in net.parameters() if p.requires_grad]
    run = Run(net, call, constant, T, chunk, states)
    if net not in _tried and all(norm.running_mean is not None for norm in run.norms):
        run.compare(x, parameters)
        _tried.add(net)
    run.recorded = torch.is_grad_enabled() and (x.requires_grad or bool(parameters))
    return _ThroughTime.apply(run, x, *parameters)


def _call(net, x, T):
    """(what runs some steps, its x, whether x is the same at each, how many steps there are)."""
    if isinstance(net, DirectNetwork):
        net.check(x)
        if net.frames:
            if T is not None:
                raise ValueError(f"T is the number of frames of x, {x.size(1)}; got T = {T}")
            return lambda part, t: net.last(net.features(part, t)), x.transpose(0, 1), False, x.size(1)
        return lambda part, t: net.last(net.features(part, t)), net.constant_part(x), True, checks.steps("T", net.T if T is None else T)
    if T is not None:
        return lambda part, t: net(part), x, True, checks.steps("T", T)
    if x.dim() == 0 or not x.size(0):
        raise ValueError(
            f"x must be [T, B, ...] with time first and at least one step, got shape {tuple(x.shape)}; one step of x goes with T="
        )
    return lambda part, t: net(part), x, False, x.size(0)


def check_layers(net, batch_norm):
    """Refuses layers that take all steps together."""
    for name, m in net.named_modules():
        name = name or "net"
        if isinstance(m, SharedDropout) and m.training and m.p:
            raise ValueError(f"{name} drops the same numbers at all steps: set its p to 0, or chunk to T")
        if not isinstance(m, _BatchNorm) or batch_norm == "chunk":
            continue
        if m.training or m.running_mean is None:
            raise ValueError(
                f"{name} is a batch norm that takes the statistics of its batch, and those of all steps are not at hand in a chunk: put it into "
                "eval(), or give batch_norm='chunk' for the statistics of each chunk, which is another training"
            )


def _output(y, t):
    y = resolved(y)
    if not isinstance(y, Tensor) or y.dim() == 0 or y.size(0) != t:
        given = f"shape {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
        raise ValueError(f"net must give one tensor with its {t} steps first, [{t}, B, ...], got {given}")
    return y


class Run:
    """A network, and how its time is cut."""

    def __init__(self, net, call, constant, T, chunk, states):
        self.net, self.call, self.constant, self.T, self.chunk = net, call, constant, T, chunk
        self.direct = isinstance(net, DirectNetwork)
        self.cuts = [*range(0, T, chunk), T]
        self.many = len(self.cuts) - 1
        self.every = 1 if states is None else -(-self.many // states)  # chunks from one kept state to the next
        self.norms = [m for m in net.modules() if isinstance(m, _BatchNorm)]
        self.recorded = False

    def part(self, x, i):
        """What the network is given in chunk i."""
        return x if self.constant else x[self.cuts[i] : self.cuts[i + 1]]

    def steps(self, part, t, before):
        """(outputs of t steps, the state after them) from the state before: those that the tape carries, None at rest, and those that layers hold."""
        held = Held(self.net)
        held.put(before[1])
        if self.constant and not self.direct:
            part = part.expand(t, *part.shape)
        with carried.carrying(carried.Tape(before[0])) as tape:
            y = _output(self.call(part, t), t)
        tape.check()
        return y, (tape.after, held.take())

    def chunk_of(self, x, i, before):
        return self.steps(self.part(x, i), self.cuts[i + 1] - self.cuts[i], before)

    def compare(self, x, parameters):
        """Refuses a network that gives something else when its time is cut, or that learns what is none of its parameters."""
        t = min(self.T, max(2, min(self.chunk, 4)))
        part = x.detach() if self.constant else x.detach()[:t]
        cut = part if self.constant else part[: t // 2], part if self.constant else part[t // 2 :]
        began = None, Held(self.net).take()
        try:
            with _settled(self.net, x.device), torch.enable_grad():
                whole, _ = self.steps(part, t, began)
                self._check_leaves(whole, parameters)
                with torch.no_grad():
                    first, state = self.steps(cut[0], t // 2, began)
                    second, _ = self.steps(cut[1], t - t // 2, state)
        finally:
            Held(self.net).put(began[1])
        if differ(whole.detach(), torch.cat((first, second))):
            raise ValueError(
                f"the outputs of {t} steps are others than those of {t // 2} and {t - t // 2}: net takes steps together, or holds a state that is "
                "neither snnfast's nor SpikingJelly's"
            )

    def _check_leaves(self, y, parameters):
        """Refuses what has a gradient and is no parameter: it would get none."""
        known, seen, todo = {id(p) for p in parameters}, set(), [y.grad_fn]
        while todo:
            node = todo.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            leaf = getattr(node, "variable", None)
            if leaf is not None and id(leaf) not in known:
                raise ValueError(f"net uses a tensor of shape {tuple(leaf.shape)} that has a gradient and is none of its parameters")
            todo += [following for following, _ in node.next_functions]

    def dropped(self):
        """The network while a chunk runs once more: running statistics have taken it in already."""
        stack = contextlib.ExitStack()
        for norm in self.norms:
            stack.callback(setattr, norm, "track_running_stats", norm.track_running_stats)
            norm.track_running_stats = False
        return stack


@contextlib.contextmanager
def _settled(net, device):
    """A network that draws nothing and counts nothing, for as long as it is tried; then as it was."""
    training = {m: m.training for m in net.modules()}
    for m in net.modules():
        if isinstance(m, _BatchNorm) or not list(m.children()):
            m.training = False
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        for m, was in training.items():
            m.training = was


def differ(a, b):
    """Whether more differs than where rounding moved a spike."""
    if a.shape != b.shape:
        return True
    if torch.equal(a, b):
        return False
    a, b = (torch.nan_to_num(t.double()) for t in (a, b))
    return bool((a - b).abs().sum() > _AT_MOST * torch.maximum(a.abs(), b.abs()).sum())


class _ThroughTime(torch.autograd.Function):
    @staticmethod
    def forward(ctx, run, x, *parameters):
        around, kept, out = Surroundings(x.device), States(-(-run.many // run.every)), []
        before = (None, Held(run.net).take())
        if any(isinstance(t, Tensor) and t.requires_grad for t in tree_flatten(before)[0]):
            raise ValueError("a layer's memory has a graph from an earlier call: reset the network's states first, or detach them")
        for i in range(run.many):
            if run.recorded and i % run.every == 0:
                kept.put(i, before)
            y, state = run.chunk_of(x, i, before)
            out.append(y)
            before = detached(state)
            around.note()
        y = torch.cat(out)
        ctx.run, ctx.around, ctx.kept = run, around, kept
        ctx.save_for_backward(x, y, *parameters)
        return y

    @staticmethod
    def backward(ctx, dy):
        if torch.is_grad_enabled():
            raise RuntimeError("backward_through_time is differentiable once: call backward() without create_graph=True")
        x, y, *parameters = ctx.saved_tensors
        run, held = ctx.run, Held(ctx.run.net)
        left = held.take()
        adjoint = _Adjoint(run, x, parameters, ctx.needs_input_grad[1], ctx.needs_input_grad[2:])
        try:
            with run.dropped():
                for first in sorted(ctx.kept.at, reverse=True):
                    last, states = min(first + run.every, run.many), States(run.every)
                    states.put(first, ctx.kept.at[first])
                    for i in range(first, last - 1):
                        with torch.no_grad(), ctx.around.again(i):
                            states.put(i + 1, detached(run.chunk_of(x, i, states.at[i])[1]))
                    for i in range(last - 1, first - 1, -1):
                        with torch.enable_grad(), ctx.around.again(i):
                            adjoint.chunk(i, states.at.pop(i), y, dy)
        finally:
            held.put(left)
        return None, adjoint.dx, *adjoint.sums


class _Adjoint:
    """The gradients as they are summed up, from the last chunk to the first."""

    def __init__(self, run, x, parameters, wants_x, wants):
        self.run, self.x, self.parameters, self.wants = run, x, [p for p, wanted in zip(parameters, wants) if wanted], wants
        self.dx = (torch.zeros_like if run.constant else torch.empty_like)(x) if wants_x else None
        self.of, self.after = [None] * len(self.parameters), None

    @property
    def sums(self):
        of = iter(self.of)
        return [next(of) if wanted else None for wanted in self.wants]

    def chunk(self, i, before, y, dy):
        """Chunk i once more, and its gradients."""
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
        after = [None] * len(ends) if self.after is None else self.after
        pairs = [(t, g) for t, g in zip([again, *ends], [dy[cut], *after]) if g is not None and t.requires_grad]
        inputs = [*begins, *self.parameters, *([part] if self.dx is not None else [])]
        found = [None] * len(inputs)
        if pairs:
            found = list(torch.autograd.grad([t for t, _ in pairs], inputs, [g for _, g in pairs], allow_unused=True))
        self.after = found[: len(begins)]
        for j, gradient in enumerate(found[len(begins) : len(begins) + len(self.parameters)]):
            if gradient is not None:
                self.of[j] = gradient if self.of[j] is None else self.of[j].add_(gradient)
        if self.dx is None:
            return
        if run.constant:
            if found[-1] is not None:
                self.dx.add_(found[-1])
        elif found[-1] is None:
            self.dx[cut].zero_()
        else:
            self.dx[cut].copy_(found[-1])

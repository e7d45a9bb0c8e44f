"""Backpropagation through T steps in memory that hardly grows with T: chunks of time, run again in the backward.

forward    without a graph, chunk by chunk; what every neuron carries is kept at the boundaries of chunks, or at every m-th of them
backward   from the last chunk: its steps once more, with a graph, from the kept state; then the gradients of that state are those of the chunk before
"""

import contextlib
import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from snnfast import checks
from snnfast.checks import resolved
from snnfast.models.direct import DirectNetwork, SharedDropout
from snnfast.ops import carried
from snnfast.training.boundaries import Held, States, Surroundings, detached
from snnfast.training.chunk_gradients import ChunkGradients
from snnfast.training.time_trial import try_cuts


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
        x: floating numbers [T, B, ...]; or, with T, one step [B, ...] that is the same at every step. Of a DirectNetwork: images, or frames
            [B, T, ...].
        T: the number of steps of an x that is the same at each; of a DirectNetwork net.T by default.
        chunk: steps that are in memory at a time; by default about the square root of T / 2.
        states: at how many boundaries of chunks states are kept, at most; fewer cost a further run without a graph. Default: at all.
        batch_norm: "refuse" a batch norm that normalises with the statistics of its batch, which are those of all steps; "chunk" lets it take those
            of each chunk, which is another training than the whole run's.

    Returns:
        [T, B, ...], the output at each step; its backward runs once.

    Before the first call a copy of the network runs some steps, a few more than a chunk, in one piece and in two, in fp64, where outputs and
    gradients must be the same. That is less sharp where it has no copy in fp64, or draws random numbers, for which it is tried in eval(); and a
    layer of one's own that reaches over more steps than those, such as a long delay, is not seen. Hooks of layers see values without a graph, and a
    chunk's twice: a loss is made of what the call returns.

    Raises:
        ValueError: a batch norm in training, `SharedDropout`, a neuron of SpikingJelly in single-step mode; a network that takes steps together, or
            holds a state that is not known, as the trial shows; a tensor with a gradient that is none of net's parameters; buffers or an input that
            the network changes.
        RuntimeError: in the backward, where the second run of a chunk gives something else than the first, or the network was changed since; a
            neuron that runs once more while gradients are taken, as in torch.utils.checkpoint.

    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), snnfast.nn.LIF(2.0), torch.nn.Linear(3, 1))
    >>> x = torch.rand(64, 5, 2)  # 64 steps, 5 samples
    >>> y = snnfast.backward_through_time(net, x, chunk=8)
    >>> torch.allclose(y, net(x))
    True
    >>> y.mean().backward()
    >>> net[0].weight.grad.shape
    torch.Size([3, 2])
    """
    checks.tensor("x", x)
    checks.choice("batch_norm", batch_norm, ("refuse", "chunk"))
    if not isinstance(net, torch.nn.Module):
        raise TypeError(f"net must be a torch.nn.Module, got {type(net).__name__}")
    call, constant, T = _call(net, x, T)
    chunk = min(T, max(1, round(math.sqrt(T / 2))) if chunk is None else checks.integer("chunk", chunk))
    if states is not None:
        checks.integer("states", states)
    inside = carried.active() is not None
    if chunk < T and (not inside or isinstance(net, DirectNetwork)):
        check_layers(net, batch_norm)
    if isinstance(net, DirectNetwork):
        x = x.transpose(0, 1) if net.frames else net.constant_part(x)
    if chunk == T or inside:  # in one piece, or in a chunk of another
        return _output(call(net, x, T), T)
    Held(net).check()
    run = Run(net, call, constant, T, chunk, states)
    try_cuts(run, x)
    run.recorded = torch.is_grad_enabled() and (x.requires_grad or bool(run.parameters))
    return _ThroughTime.apply(run, x, *run.parameters)


def _call(net, x, T):
    """(what runs some steps of a network, whether x is the same at each, how many steps there are)."""
    if isinstance(net, DirectNetwork):
        net.check(x)
        if net.frames:
            if T is not None:
                raise ValueError(f"T is the number of frames of x, {x.size(1)}; got T = {T}")
            return lambda net, part, t: net.last(net.features(part, t)), False, x.size(1)
        return lambda net, part, t: net.last(net.features(part, t)), True, checks.steps("T", net.T if T is None else T)
    if T is not None:
        return lambda net, part, t: net(part.expand(t, *part.shape)), True, checks.steps("T", T)
    if x.dim() == 0 or not x.size(0):
        raise ValueError(
            f"x must be [T, B, ...] with time first and at least one step, got shape {tuple(x.shape)}; one step of x goes with T="
        )
    return lambda net, part, t: net(part), False, x.size(0)


def check_layers(net, batch_norm):
    """Refuses layers that take all steps together, or images for steps."""
    if parametrize._cache_enabled:
        raise ValueError(
            "in torch.nn.utils.parametrize.cached() weights are computed once, without a graph: call backward_through_time outside"
        )
    for name, m in net.named_modules():
        if name and isinstance(m, DirectNetwork):
            raise ValueError(f"{name} is a {type(m).__name__}, which takes images and shows them at T steps itself: give it alone, as net")
        if getattr(m, "step_mode", None) == "s" and isinstance(getattr(m, "_memories", None), dict) and not _stepped(net, name):
            raise ValueError(
                f"{name or 'net'} is a {type(m).__name__} in single-step mode, which takes [T, B, ...] for one step: "
                "spikingjelly.activation_based.functional.set_step_mode(net, 'm')"
            )
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


def _stepped(net, name):
    """Whether a layer stands in one of SpikingJelly's containers, which give it step by step."""
    while name:
        name = name.rpartition(".")[0]
        if "Container" in type(net.get_submodule(name)).__name__:
            return True
    return False


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
        self.cuts = [*range(0, T, chunk), T]
        self.many = len(self.cuts) - 1
        self.every = 1 if states is None else -(-self.many // states)  # chunks from one kept state to the next
        self.norms = [m for m in net.modules() if isinstance(m, _BatchNorm)]
        self.parameters = [p for p in net.parameters() if p.requires_grad]
        self.buffers: list = []  # with what they were at the end of the forward
        self.recorded = False

    def of(self, net):
        """The same of a copy of the network."""
        return Run(net, self.call, self.constant, self.T, self.chunk, None)

    def note(self):
        """What the backward must find again. Statistics of batches that are taken anew do not matter."""
        batch = {id(b) for norm in self.norms if norm.training for b in norm.buffers()}
        self.buffers = [(b, b._version) for b in self.net.buffers() if id(b) not in batch and not b.is_inference()]

    def check(self):
        """Refuses a backward through a network that was changed since."""
        now = [p for p in self.net.parameters() if p.requires_grad]
        if [id(p) for p in now] != [id(p) for p in self.parameters]:
            raise RuntimeError("net has other parameters with a gradient than when it ran forward: some were frozen, or swapped, since")
        if parametrize._cache_enabled:
            raise RuntimeError("call backward() outside of torch.nn.utils.parametrize.cached(), where weights have no graph")
        if any(b._version != version for b, version in self.buffers):
            raise RuntimeError("a buffer of net was modified by an inplace operation since it ran forward")

    def part(self, x, i):
        """What the network is given in chunk i."""
        return x if self.constant else x[self.cuts[i] : self.cuts[i + 1]]

    def steps(self, part, t, before):
        """(outputs of t steps, the state after them) from the state before: those that the tape carries, None at rest, and those that layers hold."""
        held = Held(self.net)
        held.put(before[1])
        with carried.carrying(carried.Tape(before[0])) as tape:
            y = _output(self.call(self.net, part, t), t)
        tape.check()
        return y, (tape.after, held.take())

    def chunk_of(self, x, i, before):
        return self.steps(self.part(x, i), self.cuts[i + 1] - self.cuts[i], before)

    def dropped(self):
        """The network while a chunk runs once more: running statistics have taken it in already."""
        stack = contextlib.ExitStack()
        for norm in self.norms:
            stack.callback(setattr, norm, "track_running_stats", norm.track_running_stats)
            norm.track_running_stats = False
        return stack


class _ThroughTime(torch.autograd.Function):
    @staticmethod
    def forward(ctx, run, x, *parameters):
        around, kept, out = Surroundings(x.device), States(-(-run.many // run.every)), []
        began = Held(run.net).take()
        before = None, began
        try:
            for i in range(run.many):
                if run.recorded and i % run.every == 0:
                    kept.put(i, before)
                y, state = run.chunk_of(x, i, before)
                out.append(y)
                before = detached(state)
                around.note()
        except BaseException:
            Held(run.net).put(began)
            raise
        y = torch.cat(out)
        run.note()
        ctx.run, ctx.around, ctx.kept = run, around, kept
        ctx.save_for_backward(x, y, *parameters)
        return y

    @staticmethod
    def backward(ctx, dy):
        if torch.is_grad_enabled():
            raise RuntimeError("backward_through_time is differentiable once: call backward() without create_graph=True")
        x, y, *parameters = ctx.saved_tensors
        run, held = ctx.run, Held(ctx.run.net)
        run.check()
        left = held.take()
        adjoint = ChunkGradients(run, x, parameters, ctx.needs_input_grad[1], ctx.needs_input_grad[2:])
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
        return None, adjoint.dx, *adjoint.sums()

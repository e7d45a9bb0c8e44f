"""A spiking network run chunk by chunk in time, so that its memory does not grow with T."""

import contextlib
import functools
import math
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from snnfast import checks, nn
from snnfast.graph import analog
from snnfast.graph.flow import Plan
from snnfast.graph.outputs import outputs_of
from snnfast.runtime import gradients, inputs
from snnfast.runtime.run import Run
from snnfast.system import heap, memory
from snnfast.system.text import first_line

STEPS = 64  # of a run where none are asked for, as on the command line


class SpikingNetwork(torch.nn.Module):
    """What `snnfast.convert` returns.

    By default the image is a constant current; see `inputs` of `convert`. Nodes of the graph that no spike reaches (the first convolution) are
    computed once per batch; the others once per chunk of time, on time and batch merged [chunk * B, ...], with each neuron's state carried from
    chunk to chunk. State and buffers belong to the run, not to the network: runs may be interleaved, abandoned or threaded.

    The weights are frozen. After `requires_grad_()`, or with images that require a gradient, `snn(x, T)` and `snn.logits(x, T)` have a gradient, by
    the neurons' surrogate gradients through all steps. All steps are then kept in memory.

    Attributes:
        gm: the graph, a torch.fx.GraphModule.
        levels: quantisation levels of the activation that each neuron stands for, by its name.
        method: the `snnfast.conversion.method.Method` of the conversion.
        clock: the `snnfast.runtime.clock.Clock`: when the image comes in, and how the answer is read from the outputs.
        outputs: the `snnfast.graph.outputs.Outputs` of a network that gives several tensors, or one inside a dictionary; None for a single tensor.
        choice: the `snnfast.conversion.choice.Choice` of a method that was chosen automatically; None if the caller named a method.
        analog: names of the layers and functions in front of the first neurons that are neither neurons nor linear, such as an LSTM: they do not
            spike.
    """

    def __init__(self, gm, levels, method, clock):
        super().__init__()
        self.gm, self.levels, self.method, self.clock, self.choice = gm, dict(levels), method, clock, None
        output = next(n for n in gm.graph.nodes if n.op == "output").args[0]
        if not isinstance(output, fx.Node):
            raise ValueError("net must return one tensor, the logits: give sample=, images, with which torch.export captures several")
        if output not in self.plan().spiking:
            raise ValueError("net's output does not depend on any quantised activation, so no spike would reach it")
        self.analog, self.outputs = analog.names(gm, Plan(gm)), outputs_of(gm)  # also where the image comes as spikes

    def train(self, mode: bool = True) -> "SpikingNetwork":
        """Sets `training`, as any module does. The layers stay in eval mode: a converted network computes the same function in training."""
        super().train(mode)
        self.gm.eval()
        return self

    def __getstate__(self):
        """The state for pickling, with the `meta` of the graph's nodes, which torch leaves out when it pickles a graph."""
        return {**self.__dict__, "notes": [dict(node.meta) for node in self.gm.graph.nodes]}

    def __setstate__(self, state):
        notes = state.pop("notes", [])
        super().__setstate__(state)
        for node, kept in zip(self.gm.graph.nodes, notes):
            node.meta.update(kept)

    @property
    def frames(self) -> bool:
        """Whether it takes event data, a frame for each step."""
        return self.clock.frames

    def facts(self) -> dict[str, Any]:
        """Method and input, for a report: plain values."""
        own = self.method.facts()
        told = {"analog": analog_note(self.analog)} if self.analog else {}
        return {k: own.pop(k) for k in ("method", "parity")} | self.clock.facts() | own | told

    def plan(self) -> Plan:
        return Plan(self.gm, self.clock.changes)

    def neurons(self) -> list[tuple[str, torch.nn.Module]]:
        """(name, IF) of every neuron layer, in the order of the graph."""
        return [(n.target, self.gm.get_submodule(n.target)) for n in self.plan().firing]

    def chunks(
        self, x: torch.Tensor, T: int, chunk: int | None = None, first: int | torch.Tensor = 0, statistics: Any = None, **how: Any,
    ) -> Iterator[Any]:  # fmt: skip
        """Yields the logits of successive chunks of time, [t, B, classes] each, T steps in all; all outputs if the network has several.

        Args:
            x: images [B, ...]; the same current at every step. Of a network that takes frames of events, frames [B, T or more, ...].
            T: number of steps. The steps of SRP's first phase come before these steps, and are not yielded.
            chunk: steps per chunk; by default as many as keep the first layer near the cache (CPU) or fill the device (GPU),
                whatever T is. The neurons' spikes do not depend on `chunk`.
            first: number of the first image in its data set, or a tensor [B] with the number of each: Poisson input depends on it.
            statistics: a `snnfast.evaluation.statistics.Statistics` that collects from this run.
            how: `execution`, a `snnfast.runtime.execution.Execution` of this network; `observe`, see `snnfast.runtime.run.Run`; `on_bad`, called
                with {layer: neurons} if currents were not finite, in place of a warning. For a differential run also `stop`, whether to compute
                nothing more once no neuron fires any more (default: on a CPU, where the check costs nothing), and `on_end`, called at the end
                with (neurons that are not idle after T steps, all neurons), in place of a warning about neurons that are not idle.
        """
        return (self.unpacked(y) for y, _ in self.run(x, T, chunk, first, statistics, **how))

    def run(
        self, x: torch.Tensor, T: int, chunk: int | None = None, first: int | torch.Tensor = 0, statistics: Any = None, **how: Any,
    ) -> Iterator[tuple[torch.Tensor, dict[str, Any]]]:  # fmt: skip
        """As `chunks`, but yields (logits, states): the `IAFState` of every neuron, by its node's name, as it is until the next chunk runs. Several
        outputs come as one tensor [t, B, values of an image]."""
        self.check(x, T, chunk)
        if gradients.wanted(self.gm, x):
            raise ValueError(
                "x, a weight or a threshold requires a gradient, which does not go through chunks of a run: call it under torch.no_grad(), or take "
                "snn(x, T) or snn.logits(x, T), which keep all steps"
            )
        self.check_first(x, first)
        if statistics is not None and statistics.gm is not self.gm:
            raise ValueError("statistics are of another network: make them of this one")
        return self._run(x, T, chunk, first, statistics, **how)

    def check(self, x, T, chunk=None):
        """Refuses arguments that no run takes."""
        checks.tensor("x", x)
        inputs.check_plain(self.gm, x)
        checks.steps("T", T)
        self.method.check_T(T)
        if chunk is not None:
            checks.integer("chunk", chunk)
        inputs.check_samples(self.gm, self.clock, x)
        if self.clock.frames and x.size(1) < T:
            raise ValueError(f"x must be frames [B, {T} or more, ...], one for each of T = {T} steps, got shape {tuple(x.shape)}")
        inputs.check_like_weights(self.gm, x)
        for name, neuron in self.gm.named_modules():
            if not isinstance(neuron, nn.IF) or not neuron.theta.requires_grad:
                continue
            if neuron.number is not None:
                raise ValueError(f"threshold of {name} requires a gradient, and parity=True holds it as a number: convert without parity")
            checks.positive(f"threshold of {name}", neuron.theta.detach())  # an optimiser may have changed it

    def check_first(self, x, first):
        """Refuses a `first` that does not number the images of x."""
        if isinstance(first, torch.Tensor):
            checks.tensor("first", first, (torch.int64,))
            if first.shape != x.shape[:1]:
                raise ValueError(f"first must have a number for each of {x.size(0)} images, got shape {tuple(first.shape)}")
        else:
            checks.integer("first", first, 0)

    def _outputs(self, x, T, chunk):
        """Outputs [t, B, ...] of successive chunks; they have a gradient if one is asked for."""
        self.check(x, T, chunk)
        if gradients.wanted(self.gm, x):
            with _passes(x):
                return list(gradients.outputs(self, x, T, chunk, _warn_of))  # as a list: all steps are kept anyway
        return (y for y, _ in self.run(x, T, chunk))

    @torch.no_grad()
    def _run(self, x, T, chunk, first, statistics, execution=None, observe=None, stop=None, on_end=None, on_bad=None):
        # The caller's autocast is switched off: kernels would get currents in other formats (dtype= sets the format of products). The context is
        # entered anew for every chunk, because a generator that waits inside would leave the context active in the caller's own code.
        plain = functools.partial(torch.autocast, x.device.type, enabled=False)
        if self.clock.poisson:
            inputs.warn_of_saturation(x, self.clock.amplitude)
        with plain(), _passes(x):
            run = Run(self.gm, x, self.method, self.clock, first, execution, observe)
        chunk, done, marks = chunk or run.default_chunk(), 0, statistics.marks(T, self.method.least_T) if statistics else []
        stop, y = self.clock.differential and (x.device.type == "cpu" if stop is None else stop), None
        with plain():
            self.method.before(run, chunk)
            if statistics:
                statistics.begin(run)
        if statistics:
            run.counting, run.on_mark = True, statistics.mark
        while done < T:
            steps = self.steps_of_chunk(done, T, chunk)
            if statistics:  # statistics read the spikes so far at their marks
                if run.execution.graphs:  # a captured chunk runs as a whole
                    steps = min(steps, next(m for m in marks if m > done) - done)
                run.marks = [m - done for m in marks if done < m < done + steps]
            if stop and run.is_idle():
                y = y[:1].new_zeros(1).expand(steps, *y.shape[1:])
            else:
                with plain(), contextlib.nullcontext() if done else _passes(x):
                    y = run.execution.chunk(run, steps)
            done += steps
            if statistics:
                statistics.chunk(run, done)
                if done == T:
                    statistics.end(run, T)
            yield y, {n.name: s for n, s in run.states.items()}
            if x.device.type == "cpu":
                heap.release()
        if on_bad or x.device.type == "cpu":  # on a GPU asking would wait
            bad = run.not_finite()
            wrong = checks.count_not_finite(y)
            bad |= {"the output": wrong} if wrong else {}
            if bad:
                (on_bad or _warn_of)(bad)
        if self.clock.differential:
            (on_end or _warn)(*run.not_idle())

    def logits(self, x: torch.Tensor, T: int, at: list[int] | None = None, chunk: int | None = None) -> Any:
        """Logits over time.

        Args:
            x, T, chunk: as in `chunks`.
            at: None, or increasing steps in 1..T.

        Returns:
            at=None: the output of each step, [T, B, classes], without a softmax at its end. Otherwise the mean output of the first t steps (for a
            differential run the sum) for each t of `at`, [len(at), B, classes]: the network's answer when it is read at t. Outputs are summed in
            fp64, step by step, so that the result does not depend on `chunk`. A network that gives a dictionary, a list or a tuple gives the
            same structure here.
        """
        if at is None:
            return self.unpacked(torch.cat(list(self._outputs(x, T, chunk))))
        return self.unpacked(self._means(x, T, at, chunk))

    def steps_of_chunk(self, done, T, chunk):
        """Steps of the chunk after `done`, at most `chunk`. The first chunk has at least `least_T` steps, which the method must see at once."""
        steps, boundary = min(T - done, chunk if done else max(chunk, self.method.least_T)), self.clock.part(done)[1]
        return min(steps, boundary - done) if boundary else steps

    def means(
        self, x: torch.Tensor, T: int, at: list[int], chunk: int | None = None, first: int | torch.Tensor = 0, statistics: Any = None, **how: Any,
    ) -> Iterator[tuple[int, torch.Tensor]]:  # fmt: skip
        """Yields (t, mean logits of the first t steps [B, classes], in a differential run their sum) for each t of `at`, in memory that does not
        grow with T."""
        return ((t, self.unpacked(y)) for t, y in self._answers(self.sums(x, T, at, chunk, first, statistics, **how)))

    def sums(self, x, T, at, chunk=None, first=0, statistics=None, on_steps=None, **how):
        """As `means`, but yields (t, sum of the first t outputs in fp64, dtype of the outputs), several outputs as one. The sum is updated in place
        later.

        on_steps: called after every chunk with the number of its steps.
        """
        return self._sums((y for y, _ in self.run(x, T, chunk, first, statistics, **how)), at, on_steps)

    def _sums(self, outputs, at, on_steps=None):
        asked, total, t = set(at), None, 0
        for y in outputs:
            if on_steps:
                on_steps(len(y))
            for step in y:
                t += 1
                total = step.to(torch.float64, copy=True) if total is None else total.add_(step)
                if t in asked:
                    yield t, total, y.dtype

    def read(self, mean):
        """The network's answer for this mean output: the mean itself, or its softmax if the network ends in one."""
        if self.clock.readout is None:
            return mean
        name, dim = self.clock.readout
        return getattr(torch, name)(mean, dim)

    def steps_by_default(self, frames: int | None = None) -> int:
        """T of a run for which none is asked: all frames of event data, the steps that a network was trained with, or else 64."""
        return frames if self.clock.frames and frames is not None else self.method.own_T or STEPS

    def forward(self, x: torch.Tensor, T: int | None = None, chunk: int | None = None) -> Any:
        """Mean logits of T steps, in a differential run their sum, [B, classes]. A network with several outputs gives its own structure of these.
        Default: `steps_by_default`."""
        if T is None:
            T = self.steps_by_default(x.size(1) if isinstance(x, torch.Tensor) and x.dim() > 1 else None)
        return self.unpacked(self._means(x, T, [T], chunk)[0])

    def _means(self, x, T, at, chunk):
        """What the network answers at each t, [len(at), B, ...]."""
        checks.steps("T", T)
        sums = self._sums(self._outputs(x, T, chunk), check_at(at, T))
        return torch.stack([y for _, y in self._answers(sums)])

    def _answers(self, sums):
        """(t, what the network answers then), several outputs as one tensor, from (t, sum of the outputs, their dtype)."""
        for t, total, dtype in sums:
            yield t, self.read(self.clock.answer(total, t).to(dtype))

    def unpacked(self, y):
        """The network's own structure of outputs, from a run's one tensor [..., B, values of an image]."""
        return y if self.outputs is None else self.outputs.unpacked(y)


@contextlib.contextmanager
def _passes(x):
    """In this context, images that do not fit a later layer are refused with their shape."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if memory.is_out(error) or x.device.type != "cpu" and "CUDA" in str(error):
            raise
        raise ValueError(f"x of shape {tuple(x.shape)} does not pass through the network: {first_line(error)}") from error


def analog_note(names):
    """Names of what does not spike, at most five."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _warn_of(bad):
    warnings.warn(not_finite_note(bad), stacklevel=2)


def not_finite_note(bad):
    """The warning of a run whose currents were NaN or infinite. bad: {layer: neurons}."""
    told = ", ".join(f"{layer} ({many})" for layer, many in list(bad.items())[:5])
    return f"currents were NaN or infinite in {told}{', ...' if len(bad) > 5 else ''} (neurons): the outputs mean nothing there"


def _warn(busy, neurons):
    if busy:
        warnings.warn(not_idle_note(busy, neurons), stacklevel=2)


def check_at(at, T):
    """The asked steps as a list: increasing whole numbers in 1..T."""
    if not isinstance(at, (list, tuple, range)):
        raise TypeError(f"at must be a list of steps, got {type(at).__name__}")
    at = list(at)
    for t in at:
        checks.integer("at", t)
    if not at or at != sorted(set(at)) or at[-1] > T:
        raise ValueError(f"at must be increasing steps between 1 and T = {T}, got {at}")
    return at


def powers_of_two(T):
    """1, 2, 4, ..., T: the steps at which a report is read by default."""
    return sorted({2**i for i in range(math.floor(math.log2(T)) + 1)} | {T})


def not_idle_note(busy, neurons):
    """The warning of a run that was too short."""
    return f"T is too small: {busy} of {neurons} neurons are not idle yet, so the outputs are not those of the quantised network"

"""Steps of a spiking network as a function of tensors alone, which torch.export, AOTInductor and ONNX take."""

import copy
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from snnfast import checks
from snnfast.graph import guard
from snnfast.ops import library
from snnfast.runtime import inputs
from snnfast.runtime.execution import Execution
from snnfast.runtime.gradients import DifferentiableRun
from snnfast.runtime.network import SpikingNetwork


class Steps(torch.nn.Module):
    """A number of steps of a spiking network, with the neurons' states as tensors that come in and go out.

    ``Steps(snn, T, answer=True)``: x [B, ...] -> what `snn(x, T)` answers, and no state. ``Steps(snn)``: the first step, x -> (y, *state);
    ``Steps(snn, first=False)``: a later one, (x, *state) -> (y, *state). y [B, ...] is the sum of the outputs of these steps. A network that gives
    several tensors gives one of them laid side by side as y, and its own structure as the answer.

    Nothing is computed in place, weights are dense, and the image's part of the network is computed in every call. Functions of rows (softmax, layer
    norm) are torch's, which round in another order than the kernels of a run. Everything else is what a run computes, to the last bit. Exported
    under `torch.no_grad()`, a program has torch's operators alone and runs without snnfast; exported with gradients, it keeps snnfast's neurons.

    Args:
        snn: a network of `snnfast.convert`, with a method without phases (not SRP or COS), whose image is a current (not Poisson spikes, nor spread
            over several steps).
        steps: how many steps a call makes.
        first: whether these are the steps 1, 2, ..., which start from v0.
        answer: with `first`, whether the result is the network's answer after these steps.

    Raises:
        ValueError, TypeError: naming the argument and what is allowed.

    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), snnfast.nn.QCFS(levels=8, theta=1.0), torch.nn.Linear(8, 2))
    >>> snn, x = snnfast.convert(net), torch.randn(3, 4)
    >>> y, *state = snnfast.Steps(snn)(x)
    >>> later = torch.export.export(snnfast.Steps(snn, first=False), (x, *state)).module()
    >>> more, *state = later(x, *state)
    >>> torch.equal((y + more) / 2, snn(x, T=2))
    True
    """

    def __init__(self, snn: SpikingNetwork, steps: int = 1, *, first: bool = True, answer: bool = False):
        super().__init__()
        if not isinstance(snn, SpikingNetwork):
            raise TypeError(f"snn must be a network of snnfast.convert, got {type(snn).__name__}")
        checks.yes_or_no("first", first)
        checks.yes_or_no("answer", answer)
        self.steps = checks.integer("steps", steps)
        if answer and not first:
            raise ValueError("answer=True is of a whole run: it needs first=True")
        if snn.clock.changes or snn.clock.input_steps > 1:
            raise ValueError(
                "snn gets its image as spikes, in frames or over several steps: Steps takes inputs='constant', or 'analog' in mode 'differential'"
            )
        if snn.method.has_phases():
            raise ValueError(
                f"snn has method {snn.method.name!r}, which looks at the first steps at once: Steps takes methods without phases"
            )
        if guard.has_masks(snn.gm):
            raise ValueError(
                "snn has random masks (snnfast.nn.SpikeMask), which draw other numbers at every step: Steps takes networks without"
            )
        self.snn, self.first, self.answer = snn, first, answer
        self.layout = None  # of the states in the arguments, as the first steps leave them
        self.executions: dict[torch.device, Execution] = {}  # by device; made outside of a trace, as they ask for values
        weight = next(iter((*snn.gm.parameters(), *snn.gm.buffers())), None)
        self._execution(torch.device("cpu") if weight is None else weight.device)

    def _execution(self, device):
        if device not in self.executions:
            self.executions[device] = Execution(self.snn.gm, device, products="dense")
        return self.executions[device]

    def _run(self, x):
        checks.tensor("x", x)
        inputs.check_shape(self.snn.gm, x)
        inputs.check_like_weights(self.snn.gm, x)
        return _StepsRun(self.snn.gm, x, self.snn.method, self.snn.clock, self._execution(x.device))

    def forward(self, x: Tensor, *state: Tensor):
        if torch.is_autocast_enabled(x.device.type):  # a run is in the network's own format
            with torch.autocast(x.device.type, enabled=False):
                return self.forward(x, *state)
        run = self._run(x)
        if self.first == bool(state):
            raise ValueError(
                f"{'the first steps take no state' if self.first else 'later steps take the states of those before'}: x, *state"
            )
        if state:
            self._restore(run, x, state)
        run.execution.linear_parts = {}  # layers without their bias hold the weights that the network has in this call
        total: Any = None
        with library.torchs_own():
            for _ in range(self.steps):  # one by one: no shape is then a multiple of the batch's size
                (y,) = run.chunk(1)
                total = y.double() if total is None else total + y
        if self.answer:
            return self.snn.unpacked(self.snn.read(self.snn.clock.answer(total, self.steps).to(y.dtype)))
        return (total.to(y.dtype), *_flat(run)[0])

    def _restore(self, run, x, state):
        run.t = 1 << 20  # no longer the first step
        if self.layout is None:
            with torch.no_grad():
                before = self._run(x.detach())
                before.chunk(1)
                self.layout = _flat(before)[1:]
        keys, spec, there = self.layout
        if len(state) != sum(there):
            raise ValueError(f"state has {len(state)} tensors, and the network's neurons and functions over time have {sum(there)}")
        given = iter(state)
        values = pytree.tree_unflatten([next(given) if is_there else None for is_there in there], spec)
        run.states, run.sums = (dict(zip(names, each)) for names, each in zip(keys, values))


def _flat(run):
    """(the tensors of all states, the nodes that have one, how they are put together again, which leaves are tensors and not None)"""
    keys = [list(run.states), list(run.sums)]
    leaves, spec = pytree.tree_flatten([list(run.states.values()), list(run.sums.values())])
    there = [leaf is not None for leaf in leaves]
    return [leaf for leaf in leaves if leaf is not None], keys, spec, there


class _StepsRun(DifferentiableRun):
    """A run that reads no values and takes no kernels beside the neurons'."""

    def watch(self, node, neuron, current, constant):
        pass

    def _step_by_step(self, node, inputs, steps):
        return self._evaluate(node, inputs, self.B)

    def _over_time(self, node):
        layer = copy.copy(super()._over_time(node))
        if getattr(layer, "fused", None) is not None:
            layer.fused = None
        return layer

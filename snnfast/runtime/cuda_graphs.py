"""CUDA graphs for the loop over chunks: captured once for a batch's shape, replayed for every later chunk of the same length.

A graph reads and writes fixed memory: the currents of the image, the states of the neurons, the buffers for spikes. The first chunks of the first
batch run without a graph and leave that memory behind. A later batch runs its first chunk in its own memory, because its start values may differ
(SRP's masks, COS's voltages). The batch then copies its values into the fixed memory and continues there.
"""

import torch

from snnfast.nn.over_time import Differential, OverTime

WARM = 2  # chunks that run without a graph before one is captured: from the second on, no allocation outlives its chunk


def _cuda(function):
    """Captures a call of `function`: (replay, what `function` returned)."""
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        result = function()
    return graph.replay, result


class Graphs:
    """The graphs of one run at a time. capture: turns a function into (replay, result); tests pass their own."""

    def __init__(self, capture=_cuda):
        self.capture, self.graphs, self.owners, self.refused = capture, {}, {}, None

    def why_not(self, run):
        """Why a run cannot be captured, or None."""
        if run.clock.poisson:
            return "Poisson input draws other numbers at every step"
        if run.clock.frames:
            return "every step has a frame of its own"
        changes = [m.changes for m in run.gm.modules() if isinstance(m, OverTime)]
        if changes or run.clock.differential:
            return changes[0] if changes else Differential.changes
        if run.observe or run.execution.clock:
            return "something looks into every chunk"
        if run.entering and run.entering.sums:
            return "what enters products is counted chunk by chunk"
        if run.counting and not all(run.gm.get_submodule(n.target).is_counted() for n in run.plan.firing):
            return "negative spikes are counted chunk by chunk"
        return None

    def chunk(self, run, steps):
        """The outputs that `run.chunk(steps)` would give, from a graph where possible."""
        self.refused = self.refused or self.why_not(run)
        key = (tuple(run.image.shape), run.image.dtype, steps)
        if self.refused or not run.eager:
            run.eager += 1
            return run.chunk(steps)
        if key in self.graphs:
            fixed, replay, y = self.graphs[key]
            if self.owners.get(key) is not run:
                adopt(fixed, run)
                self.owners = {key: run}
            replay()
            run.t += steps
            return y.clone()
        if run.eager >= WARM and not any(k[:2] == key[:2] for k in self.graphs):
            t = run.t
            replay, y = self.capture(lambda: run.chunk(steps))
            self.graphs[key], self.owners, run.t = (run, replay, y), {key: run}, t + steps
            replay()
            return y.clone()
        run.eager += 1
        return run.chunk(steps)


def adopt(fixed, run):
    """Copies the values of `run` into the memory of `fixed`, a run of the same shape, and lets `run` go on there."""
    for mine, theirs in ((fixed.fixed, run.fixed), (_masks(fixed), _masks(run))):
        for node, value in theirs.items():
            if isinstance(value, torch.Tensor) and value is not mine[node]:
                mine[node].copy_(value)
    for node, state in run.states.items():
        for mine, theirs in zip(fixed.states[node], state):
            if isinstance(theirs, torch.Tensor):
                mine.copy_(theirs)
    run.fixed, run.states, run.options, run.arena, run.layouts = fixed.fixed, fixed.states, fixed.options, fixed.arena, fixed.layouts


def _masks(run):
    return {node: options["mask"] for node, options in run.options.items() if "mask" in options}

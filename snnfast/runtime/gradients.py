"""A run that gradients go through: backpropagation through time, by the surrogate gradients of the neurons.

The values are those of other runs, bit for bit. Nothing is computed in place, and every step is kept for the backward pass: memory grows with T. A
training loop gets no warning about neurons that are not idle at the end.
"""

import torch

from snnfast.nn.over_time import Moment
from snnfast.runtime.run import Run


def wanted(gm, x):
    """Whether a caller asks for gradients: by images, weights or thresholds that require one."""
    tensors = x, *gm.parameters(), *gm.buffers()
    return any(t.requires_grad for t in tensors) and torch.is_grad_enabled()


def outputs(snn, x, T, chunk, on_bad):
    """Yields the outputs of successive chunks of T steps, [t, B, ...] each; all steps at once where chunk is None. on_bad: as in
    `SpikingNetwork.chunks`."""
    if snn.clock.poisson and x.requires_grad:
        raise ValueError("x requires a gradient, and Poisson spikes have none: use inputs='constant'")
    with torch.autocast(x.device.type, enabled=False):
        run = DifferentiableRun(snn.gm, x, snn.method, snn.clock)
        with torch.no_grad():  # the steps before those that count only choose neurons
            snn.method.before(run, chunk or run.default_chunk())
    done = 0
    while done < T:
        steps = snn.steps_of_chunk(done, T, chunk or T)
        with torch.autocast(x.device.type, enabled=False):
            yield run.chunk(steps)
        done += steps
    bad = run.not_finite() if x.device.type == "cpu" else {}  # on a GPU asking would wait
    if bad:
        on_bad(bad)


class DifferentiableRun(Run):
    """One batch on its way through time, without memory that steps share."""

    def __init__(self, gm, x, method, clock, execution=None):
        super().__init__(gm, x, method, clock, execution=execution)
        self.slabs.wanted = False

    def _evaluate(self, node, env, rows):
        return self.execution.node(self.interpreter, node, env, self.plan.per_row, rows, constants=self.part[1])

    def _step_by_step(self, node, inputs, steps):
        ((source, x),) = inputs.items()
        return self._each_step(node, source, x)

    def _layer_over_time(self, node, inputs, steps):
        values = [x.unflatten(0, (steps, -1)) if a in self.plan.spiking else x for a, x in inputs.items()]
        moment = Moment(self.t - steps, self.first)
        y, self.sums[node] = self._over_time(node).differentiable(values, self.sums.get(node), moment)
        return y.flatten(0, 1)

    def _over_time(self, node):
        return self.gm.get_submodule(node.target)

    def _fire(self, node, env, steps):
        neuron, source = self.gm.get_submodule(node.target), node.all_input_nodes[0]
        constant = source not in self.plan.spiking
        current = self._image_current(source) if constant else env[source].unflatten(0, (steps, -1))
        state, options = self.states.get(node), self.options[node]
        if state is None:
            with torch.no_grad():  # the start voltages that COS calibrates are constants
                options = options | self.method.start(neuron, current, constant)
        self.watch(node, neuron, current, constant)
        unit = neuron.options.get("spikes") == "unit"  # unit spikes have no gradient; spikes as multiples of theta have one
        options = options | {"spikes": "scaled"} if unit else options
        s, self.states[node] = neuron.fire(current, T=steps if constant else None, state=state, **options)
        return (s / neuron.theta_for(s[0]) if unit else s).flatten(0, 1)

"""One batch on its way through time: which nodes of the graph fire, what is fixed, the state of every neuron."""

import collections
import functools

import torch
from torch import fx

from snnfast import checks
from snnfast.graph.flow import Plan
from snnfast.graph.rows import rows_of
from snnfast.graph.vocabulary import called
from snnfast.nn.over_time import Moment, is_silent
from snnfast.ops.layout import layout_of
from snnfast.runtime import inputs, linear_part
from snnfast.runtime.arena import Arena, Slabs
from snnfast.runtime.execution import ALIGNED, Execution

# Neuron-steps of the first layer in flight: near the cache on a CPU, enough to fill a GPU.
CHUNK_ELEMENTS = {"cpu": 1 << 21, "cuda": 1 << 26}
IDLE_STEPS = 12  # most steps in a chunk of a differential run, which checks after each chunk whether it is idle: longer chunks gain little


def default_chunk(kind, neurons, linear=0, differential=False):
    """Steps at a time for so many neurons in the first layer, on a "cpu" or a "cuda" device.

    linear: number of weights of linear layers. They are read once per chunk, so a chunk has up to twice as many steps, until the share of these
    weights is that of the neurons in flight.
    Measured (`bench/studies.py choices`): VGG-16 gains 10 %; ResNet-18, with hardly any such weights, would gain 5 % and take twice the memory.
    differential: also twice as many steps, up to `IDLE_STEPS`.
    """
    elements = CHUNK_ELEMENTS.get(kind, CHUNK_ELEMENTS["cpu"])
    if differential:
        return max(1, min(2 * elements // max(1, neurons), IDLE_STEPS))
    return max(1, min(max(elements, linear // 4), 2 * elements) // max(1, neurons))


def nonzeros(s):
    """How many elements of s [t, B, ...] are not zero. Sums ones in fp32 where such sums are exact: torch's own count takes ten times as long."""
    if s.dim() < 3 or s[0, 0].numel() > 1 << 24:
        return int(torch.count_nonzero(s))
    ones = (step.sign().abs_().sum(list(range(1, step.dim())), dtype=torch.float32) for step in s)
    return sum(int(each.sum(dtype=torch.float64)) for each in ones)


def alike(x, rows):
    """x [steps * rows, ...] step by step, with every step aligned alike: a library's order of sums may depend on the address."""
    parts = x.split(rows)
    return parts if x.stride(0) * rows * x.element_size() % ALIGNED == 0 else (part.clone() for part in parts)


class Run:
    """One batch on its way through time: the fixed values of the graph, the state of every neuron, the memory for spikes and currents.

    first: number of the first image in its data set, or a tensor [B] with the number of each.  execution: how nodes are computed.
    observe: called with (node, current, spikes) of every neuron layer in every chunk, both [t, B, ...]; they are overwritten later.
    """

    def __init__(self, gm, x, method, clock, first=0, execution=None, observe=None):
        self.gm, self.plan, self.B, self.method, self.clock = gm, Plan(gm, clock.changes), x.size(0), method, clock
        self.image, self.first, self.t = x, first, 0  # Poisson input and frames are made of these
        self.image_spikes, self.counting, self.signed = 0, False, {}  # spikes of the image and of signed neurons, counted if statistics ask
        self.marks, self.on_mark = [], None  # steps of this chunk after which statistics ask; the function that each layer then calls
        self.image_inside = {}  # spikes of the image in this chunk, by mark
        self.entering = None  # what counts the inputs of products, see `snnfast/evaluation/entering.py`
        self.sums, self.layouts = {}, {}  # running sums of functions over time; the layout of each neuron's step
        self.fired = []  # of a differential run: for each neuron layer, whether anything fired in the last step
        self.part = 1.0, True  # of a differential run: the share of the image in this chunk, whether it is the first step
        self.options = {n: {} for n in self.plan.firing}  # options of each neuron layer, on top of its own
        self.execution, self.observe = execution or Execution(gm, x.device), observe
        self.whole = set() if observe else self.execution.whole()  # nodes whose values are whole numbers
        self.interpreter = fx.Interpreter(gm, garbage_collect_values=False)
        self.states, self.arena, self.slabs, self.longest = {}, Arena(x.device), Slabs(x.device), 0
        self.infinite = {}  # for neurons that forget: the most with an infinite current at once, a tensor []
        self.eager = 0  # chunks that ran without a graph, if CUDA graphs are asked for
        self.last_use = {}
        last = {a: node for node in gm.graph.nodes for a in node.all_input_nodes if a in self.plan.spiking}
        for value, node in last.items():
            self.last_use.setdefault(node, []).append(value)
        self.fixed = self._fixed_values()  # values that no spike reaches and that spiking nodes use

    def _fixed_values(self):
        nodes = [n for n in self.gm.graph.nodes if n not in self.plan.spiking and n.op != "output"]
        kept = {a for n in self.plan.spiking for a in n.all_input_nodes}
        last = {a: n for n in nodes for a in n.all_input_nodes}
        image = self.clock.at_a_step(self.image)
        env = {n: image for n in self.gm.graph.find_nodes(op="placeholder") if n in self.plan.spiking}  # whose size may be asked for
        self.interpreter.args_iter = iter([self.image])
        for node in nodes:
            with self.execution.timed(node):
                env[node] = self.execution.node(self.interpreter, node, env, self.plan.from_image, self.B)
            for a in node.all_input_nodes:
                if last[a] is node and a not in kept:
                    env.pop(a, None)
        return {n: v for n, v in env.items() if n in kept}

    def _evaluate(self, node, env, rows):
        return self.execution.node(self.interpreter, node, env, self.plan.per_row, rows, self.arena.take, constants=self.part[1])

    def default_chunk(self):
        currents = [self.fixed[c].numel() for c in (n.all_input_nodes[0] for n in self.plan.firing) if c in self.fixed]
        neurons = max(currents, default=self.clock.at_a_step(self.image).numel())
        return default_chunk(self.image.device.type, neurons, self.plan.linear, self.clock.differential)

    def rehearsed(self, steps, chunk, options):
        """Runs `steps` steps with `options` for every neuron, discards the outputs and resets the states. Poisson input is not reset: the steps
        that count get new spikes. Yields (node, potentials at the end, theta) of every neuron layer."""
        self.options, observe, self.observe = dict.fromkeys(self.plan.firing, options), self.observe, None
        for done in range(0, steps, chunk):
            self.chunk(min(chunk, steps - done))
        self.sums, self.observe, self.options = {}, observe, {n: {} for n in self.plan.firing}
        for node in self.plan.firing:
            v = self.states.pop(node).v
            yield node, v, self.gm.get_submodule(node.target).theta_for(v)
        self.slabs = Slabs(self.image.device)

    def chunk(self, steps):
        """Runs one chunk. Values that spikes reach are [steps * B, ...]; beside them, a fixed value of the image is repeated over the steps."""
        env = {}
        self.part = self.clock.part(self.t)[0], self.t == 0 or not self.clock.differential
        self.t += steps
        self.fired = []
        if steps > self.longest:  # buffers of shorter chunks would stay beside those of this one
            self.arena.free.clear()
            self.longest = steps
        for node in self.gm.graph.nodes:
            if node.op == "output":
                return self._logits(env[node.args[0]].unflatten(0, (steps, self.B)))
            if node not in self.plan.spiking:
                continue
            with self.execution.timed(node):
                env[node] = self._value(node, env, steps)
            for dead in self.last_use.get(node, ()):
                env.pop(dead, None)
            if self.slabs.wanted and node in env:
                self.slabs.let_go(self._on_heap(node, env[node], steps))
            self.arena.give_back(env.values())

    def _on_heap(self, node, value, steps):
        """Bytes that a node took from the heap and not from the arena."""
        if not isinstance(value, torch.Tensor) or node in self.plan.firing:
            return 0
        if node in self.plan.over_time:  # the memory of every step
            return value.nbytes if getattr(self.gm.get_submodule(node.target), "fused", None) is None else 0
        if node in self.execution.unspiking:  # the memory of the first step
            return value.nbytes // steps
        return 0 if self.arena.holds(value) else value.nbytes

    def _logits(self, y):
        # A network that ends in a neuron answers in memory that the next chunk reuses.
        y = y.clone() if self.arena.holds(y) else y
        self.arena.give_back([])
        return y.float() if self.execution.half else y

    def _value(self, node, env, steps):
        if node.op == "placeholder":
            return self._image_spikes(steps)
        if node in self.plan.firing:
            return self._fire(node, env, steps)
        if node in self.plan.over_time:  # a layer with running sums takes a fixed value as it is
            inputs = {a: env[a] if a in self.plan.spiking else self.fixed[a] for a in node.all_input_nodes}
        else:
            inputs = {a: self._input(a, env, steps, linear_part.is_join(node)) for a in node.all_input_nodes}
        if self.entering:
            self.entering.see(node, inputs, steps, self.marks)
        if node in self.plan.over_time:
            return self._layer_over_time(node, inputs, steps)
        if node in self.execution.unspiking:
            return self._step_by_step(node, inputs, steps)
        value = self._evaluate(node, inputs, steps * self.B)
        if isinstance(value, torch.Tensor):
            self._check_images(node, value, steps * self.B)
        return value

    def _input(self, node, env, steps, joined=False):
        """An input of a node that spikes reach. joined: whether the node adds this input to its others, or lays it beside them."""
        if node in self.plan.spiking:
            return env[node]
        value, (share, first) = self.fixed[node], self.part
        if not isinstance(value, torch.Tensor):
            return value
        image = node in self.plan.from_image
        if joined and (share != 1 if image else not first):
            value = value * share if image and share else torch.zeros_like(value)
        if not image:
            return value  # a parameter
        rows = rows_of(node)
        if rows is None:
            return value
        self._check_images(node, value, self.B)
        return value if steps == 1 else rows.repeated(value, steps)

    def _check_images(self, node, value, many):
        if not rows_of(node).fits(value, many):
            raise ValueError(
                f"{called(node, self.gm)} does not give a value per image: shape {tuple(value.shape)} where time and batch are {many}; images, "
                "and with them time steps, would be mixed"
            )

    def _image_spikes(self, steps):
        begin = self.t - steps
        if self.clock.frames:
            s = self.image[:, begin : self.t].transpose(0, 1)
        else:
            s = inputs.spikes(self.image, self.clock.amplitude, self.clock.seed, begin, steps, self.first)
        self.image_spikes = nonzeros(s) if self.counting else 0
        self.image_inside = {mark: nonzeros(s[:mark]) for mark in self.marks}
        return s.flatten(0, 1)

    def _step_by_step(self, node, inputs, steps):
        """A layer that torch computes, one call per step, so that no shape depends on the chunk. Skips a step without input and constants."""
        ((source, x),) = inputs.items()
        out = None
        at, to = rows_of(source), rows_of(node)
        if max(at.axis, to.axis) > 0 or max(at.outer, to.outer) > 1:
            return self._each_step(node, source, x)
        for t, part in enumerate(alike(x, at.times * self.B)):
            if out is None:
                y = self._evaluate(node, {source: part}, self.B)
                layout = layout_of(y)
                out = layout.unrows(self.arena.take(steps * layout.N, y.dtype).view(steps, layout.N))
                out[0].copy_(y)
            if not self.part[1] and is_silent(part):
                out[t].zero_()
            elif t and not self.execution.write(node, part, out[t], self.part[1]):
                out[t].copy_(self._evaluate(node, {source: part}, self.B))
        return out.flatten(0, 1)

    def _each_step(self, node, source, x):
        """As `_step_by_step`, each step in memory of its own."""
        at, to = rows_of(source), rows_of(node)
        each = [self._evaluate(node, {source: at.back(part)}, self.B) for part in alike(at.by_image(x), self.B)]
        return to.back(torch.cat([to.by_image(y) for y in each]))

    def _layer_over_time(self, node, inputs, steps):
        """A layer over time. Inputs that come over time are split into steps; a constant input stays as it is."""
        values = [x.unflatten(0, (steps, -1)) if a in self.plan.spiking else x for a, x in inputs.items()]
        call = None if self.execution.fixed is None else functools.partial(self.execution.in_fixed_shapes, node, self.B)
        moment, state = Moment(self.t - steps, self.first, self.arena.take, call), self.sums.get(node)
        y, new = self.gm.get_submodule(node.target).over_time(values, state, moment)
        if state is None:
            new = torch.utils._pytree.tree_map(lambda part: self.slabs.keep(part) if isinstance(part, torch.Tensor) else part, new)
        if new is not None:
            self.sums[node] = new
        return y.flatten(0, 1)

    def _fire(self, node, env, steps):
        """The spikes of one neuron layer for this chunk, merged [steps * B, ...], written to memory that layers and chunks reuse."""
        neuron, source = self.gm.get_submodule(node.target), node.all_input_nodes[0]
        constant = source not in self.plan.spiking
        current = self._image_current(source) if constant else env[source].unflatten(0, (steps, -1))
        like = current if constant else current[0]
        layout = layout_of(like)
        first = self.layouts.setdefault(node, layout)
        if layout.order != first.order:  # a library chose another layout for this length of a chunk; the state keeps the first layout
            current = first.unrows(first.rows(current.unsqueeze(0) if constant else current).contiguous())
            current, layout = current[0] if constant else current, first
        if not layout.dense:  # the kernels take rows
            current = self.arena.take(current.numel(), like.dtype).view(current.shape).copy_(current)
        dtype = torch.int8 if node in self.whole else like.dtype
        s = layout.unrows(self.arena.take(steps * layout.N, dtype).view(steps, layout.N))
        ends = [*self.marks, steps]
        for begin, end in zip([0, *ends], ends):
            self._advance(node, neuron, current if constant else current[begin:end], end - begin if constant else None, s[begin:end])
            if end < steps:
                self.on_mark(self, end, node)
        if self.clock.differential:
            self.fired.append(s[-1].any())
        if self.observe:
            self.observe(node, current.expand(steps, *current.shape) if constant else current, s)
        return s.flatten(0, 1)

    def _advance(self, node, neuron, current, T, out):
        """Advances a neuron layer and its state over the steps of `current` [t, B, ...], or over T steps of a constant `current` [B, ...]."""
        # From the second call on the state is updated in place: a run allocates nothing that outlives a chunk, so that its memory stays flat.
        state, options = self.states.get(node), self.options[node] | ({"spikes": "int8"} if out.dtype == torch.int8 else {})
        if state is None:
            options = options | self.method.start(neuron, current, T is not None)
        self.watch(node, neuron, current, T is not None)
        s, new = neuron.fire(current, T=T, state=state, out=out, state_out=state, **options)
        self.states[node] = new if state is not None else type(new)(*map(self.slabs.keep, new))
        if self.counting and not neuron.is_counted():
            self.signed[node] = self.signed.get(node, 0) + nonzeros(s)

    def _image_current(self, source):
        """The current, at every step of this chunk, of a neuron layer that has no other neuron layer in front."""
        share = self.part[0]
        value = self.fixed[source]
        return value if share == 1 else value * share if share else torch.zeros_like(value)  # 0 x inf is NaN, so nothing is scaled by 0

    @torch.no_grad()
    def watch(self, node, neuron, current, constant):
        """Counts neurons with an infinite current at some step, if their potential may not show it: a hard reset forgets, a neuron of one's
        own may. Does not wait."""
        if neuron.forgets():
            many = torch.isposinf(current if constant else current.amax(0)).sum()
            self.infinite[node] = torch.maximum(self.infinite.get(node, many), many)

    def not_finite(self):
        """{layer: how many of its neurons have a potential that is not finite} for layers with such neurons: their current was NaN or infinite at
        some step. For neurons that forget, the larger of this number and the most that had an infinite current in a chunk. Waits for the device."""
        counts = collections.Counter()
        for node, state in self.states.items():
            counts[node.target] += max(checks.count_not_finite(state.v), int(self.infinite.get(node, 0)))
        return {layer: many for layer, many in counts.items() if many}

    def is_idle(self):
        """Whether nothing more will come out of a differential run: its image is in, and in the last step no neuron fired. Waits for the device."""
        return self.clock.part(self.t)[0] == 0 and self.fired and not any(bool(s) for s in self.fired)

    def not_idle(self):
        """(how many neurons would fire again without further input, how many neurons there are). Waits for the device."""
        busy = total = 0
        if self.clock.part(self.t)[0]:  # the image is not complete yet: no neuron is idle
            total = sum(state.v.numel() for state in self.states.values())
            return total, total
        for node, state in self.states.items():
            busy, total = busy + self.gm.get_submodule(node.target).not_idle(state), total + state.v.numel()
        return int(busy), total

"""A spiking network run chunk by chunk in time, so that its memory does not grow with T."""

import math

import torch
from torch import fx

from snnfast import heap, nn, poisson
from snnfast.ops import checks
from snnfast.ops.layout import layout_of
from snnfast.pooling import Pool
from snnfast.rates import called

# Neuron-steps of the first layer in flight: near the cache on a CPU, enough to fill a GPU.
CHUNK_ELEMENTS = {"cpu": 1 << 21, "cuda": 1 << 26}


class SpikingNetwork(torch.nn.Module):
    """What `snnfast.convert` returns.

    The image is a constant current. Nodes of the graph that no spike reaches (the first convolution) are computed once per batch; the others
    once per chunk of time, on time and batch merged [chunk * B, ...], with each neuron's state carried from chunk to chunk. State and buffers
    belong to the run, not to the network: runs may be interleaved, abandoned or threaded.

    Attributes:
        gm: the graph, a torch.fx.GraphModule.
        levels: quantisation levels of the activation that each neuron stands for, by its name.
        method: the `snnfast.methods.Method` it runs by.
    """

    def __init__(self, gm, levels, method):
        super().__init__()
        self.gm, self.levels, self.method = gm, dict(levels), method
        output = next(n for n in gm.graph.nodes if n.op == "output").args[0]
        if not isinstance(output, fx.Node):
            raise ValueError("net must return one tensor, the logits")
        if output not in self.plan().spiking:
            raise ValueError("net's output does not depend on any quantised activation, so no spike would reach it")

    def plan(self):
        return Plan(self.gm, self.method.amplitude is not None)

    def neurons(self):
        """(name, IF) of every neuron layer, in the order of the graph."""
        return [(n.target, self.gm.get_submodule(n.target)) for n in self.plan().firing]

    def chunks(self, x, T, chunk=None, first=0, statistics=None):
        """Yields the logits of successive chunks of time, [t, B, classes] each, T steps in all.

        Args:
            x: images [B, ...]; the same current at every step.
            T: number of steps; those of SRP's first phase come before them, and are not given out.
            chunk: steps per chunk; by default as many as keep the first layer near the cache (CPU) or fill the device (GPU),
                whatever T is. The neurons' spikes do not depend on it.
            first: number of the first image in its data set, which the random numbers of Poisson input depend on.
            statistics: a `snnfast.statistics.Statistics` that collects from this run.
        """
        return (y for y, _ in self.run(x, T, chunk, first, statistics))

    def run(self, x, T, chunk=None, first=0, statistics=None):
        """As `chunks`, but yields (logits, states): the `IAFState` of every neuron, by its node's name, as it is until the next chunk runs."""
        checks.tensor("x", x)
        checks.integer("T", T)
        self.method.check_T(T)
        if chunk is not None:
            checks.integer("chunk", chunk)
        if x.dim() < 1 or x.size(0) == 0:
            raise ValueError(f"x must be a batch of images [B, ...] with B >= 1, got shape {tuple(x.shape)}")
        checks.integer("first", first, 0)
        if statistics is not None and statistics.gm is not self.gm:
            raise ValueError("statistics are of another network: make them of this one")
        return self._run(x, T, chunk, first, statistics)

    @torch.no_grad()
    def _run(self, x, T, chunk, first, statistics):
        run = Run(self.gm, x, self.method, first)
        chunk, done = chunk or run.default_chunk(), 0
        run.first_phase(chunk)
        if statistics:
            statistics.begin(run)
            run.counting = True
        while done < T:
            steps = min(T - done, chunk if done else max(chunk, self.method.rho))
            y = run.chunk(steps)
            done += steps
            if statistics:
                statistics.chunk(run, steps)
                if done == T:
                    statistics.end(run, T)
            yield y, {n.name: s for n, s in run.states.items()}
            if x.device.type == "cpu":
                heap.release()

    def logits(self, x, T, at=None, chunk=None):
        """Logits over time.

        Args:
            x, T, chunk: as in `chunks`.
            at: None, or increasing steps in 1..T.

        Returns:
            at=None: the output of each step, [T, B, classes], without a softmax at its end. Otherwise the mean output of the first t steps for
            each asked t, [len(at), B, classes]: what the network answers when it is read at t. Summed in fp64, step by step, so that it does not
            depend on `chunk`.
        """
        if at is None:
            return torch.cat(list(self.chunks(x, T, chunk)))
        checks.integer("T", T)
        return torch.stack([mean for _, mean in self.means(x, T, check_at(at, T), chunk)])

    def means(self, x, T, at, chunk=None, first=0, statistics=None):
        """Yields (t, mean logits of the first t steps [B, classes]) for each t of `at`, in memory that does not grow with T."""
        asked, total, t = set(at), None, 0
        for y in self.chunks(x, T, chunk, first, statistics):
            for step in y:
                t += 1
                total = step.to(torch.float64, copy=True) if total is None else total.add_(step)
                if t in asked:
                    yield t, self._read((total / t).to(y.dtype))

    def _read(self, mean):
        if self.method.readout is None:
            return mean
        name, dim = self.method.readout
        return getattr(torch, name)(mean, dim)

    def forward(self, x, T=32, chunk=None):
        """Mean logits of T steps, [B, classes]."""
        return self.logits(x, T, [T], chunk)[0]


class Plan:
    """Which nodes of a graph fire, which pool over time, which a spike reaches, and which follow from the image alone.

    poisson: the image itself comes as spikes.
    """

    def __init__(self, gm, poisson=False):
        self.firing, self.pooling, self.spiking, self.from_image = [], [], set(), set()
        for node in gm.graph.nodes:
            if node.op == "call_module" and isinstance(gm.get_submodule(node.target), Pool):
                self.pooling.append(node)
            fires = node.op == "call_module" and isinstance(gm.get_submodule(node.target), nn.IF)
            if fires:
                self.firing.append(node)
            if fires or (poisson and node.op == "placeholder") or any(a in self.spiking for a in node.all_input_nodes):
                self.spiking.add(node)
            elif node.op == "placeholder" or any(a in self.from_image for a in node.all_input_nodes):
                self.from_image.add(node)


class Run:
    """One batch on its way through time: the fixed values of the graph, the state of every neuron, the buffers for its spikes."""

    def __init__(self, gm, x, method, first=0):
        self.gm, self.plan, self.B, self.method = gm, Plan(gm, method.amplitude is not None), x.size(0), method
        self.image, self.first, self.t = x, first, 0  # Poisson input is made of these
        self.image_spikes, self.counting = 0, False  # of the chunk at hand, where statistics ask for them
        self.pools, self.layouts = {}, {}  # running sums of max pooling; the layout of each neuron's step
        self.options = {n: {} for n in self.plan.firing}  # of each neuron, beside its own
        self.interpreter = fx.Interpreter(gm, garbage_collect_values=False)
        self.states, self.buffers, self.fixed = {}, {}, {}  # of every neuron; for their spikes; what no spike reaches
        self.interpreter.args_iter = iter([x])
        for node in gm.graph.nodes:
            if node not in self.plan.spiking and node.op != "output":
                self.fixed[node] = self._evaluate(node, self.fixed)
        self.last_use = {}
        last = {a: node for node in gm.graph.nodes for a in node.all_input_nodes if a in self.plan.spiking}
        for value, node in last.items():
            self.last_use.setdefault(node, []).append(value)

    def _evaluate(self, node, env):
        self.interpreter.env = env
        return self.interpreter.run_node(node)

    def default_chunk(self):
        currents = [self.fixed[c].numel() for c in (n.all_input_nodes[0] for n in self.plan.firing) if c in self.fixed]
        neurons = max(currents, default=self.image.numel())
        return max(1, CHUNK_ELEMENTS.get(self.image.device.type, CHUNK_ELEMENTS["cpu"]) // neurons)

    def first_phase(self, chunk):
        """SRP's: tau steps of the plain neuron, whose output is thrown away, a mask from each neuron's potential, and a new start."""
        if not self.method.tau:
            return
        self.options = dict.fromkeys(self.plan.firing, self.method.first())
        for done in range(0, self.method.tau, chunk):
            self.chunk(min(chunk, self.method.tau - done))
        self.pools = {}
        for node in self.plan.firing:
            v = self.states.pop(node).v
            # Poisson input goes on: the second phase sees new spikes.
            self.options[node] = {"mask": self.method.kept(v, self.gm.get_submodule(node.target).theta_for(v))}

    def chunk(self, steps):
        """One chunk: values that spikes reach are [steps * B, ...]; a fixed value of the image beside one is repeated over the steps."""
        env = {}
        self.t += steps
        for node in self.gm.graph.nodes:
            if node.op == "output":
                y = env[node.args[0]].unflatten(0, (steps, self.B))
                # A network that ends in a neuron answers in that neuron's buffer, which the next chunk reuses.
                return (
                    y.clone() if any(y.untyped_storage().data_ptr() == b.untyped_storage().data_ptr() for b in self.buffers.values()) else y
                )
            if node not in self.plan.spiking:
                continue
            if node.op == "placeholder":
                env[node] = self._image_spikes(steps)
            elif node in self.plan.firing:
                env[node] = self._fire(node, env, steps)
            elif node in self.plan.pooling:
                env[node] = self._pool(node, env, steps)
            else:
                env[node] = self._evaluate(node, {a: self._over_time(a, env, steps) for a in node.all_input_nodes})
                if isinstance(env[node], torch.Tensor):
                    self._check_images(node, env[node], steps * self.B)
            for dead in self.last_use.get(node, ()):
                env.pop(dead, None)

    def _over_time(self, node, env, steps):
        if node in self.plan.spiking:
            return env[node]
        value = self.fixed[node]
        if node not in self.plan.from_image or not isinstance(value, torch.Tensor):
            return value  # a parameter, or a number
        self._check_images(node, value, self.B)
        return value if steps == 1 else torch.cat([value] * steps)  # which keeps its layout

    def _check_images(self, node, value, many):
        if value.dim() == 0 or value.size(0) != many:
            raise ValueError(
                f"{called(node, self.gm)} does not give a value per image: shape {tuple(value.shape)} where time and batch are {many}; images, "
                "and with them time steps, would be mixed"
            )

    def _image_spikes(self, steps):
        method = self.method
        s = poisson.spikes(self.image, method.amplitude, method.seed, self.t - steps, steps, self.first).flatten(0, 1)
        self.image_spikes = int(torch.count_nonzero(s)) if self.counting else 0
        return s

    def _pool(self, node, env, steps):
        x = env[node.all_input_nodes[0]].unflatten(0, (steps, self.B))
        y, self.pools[node] = self.gm.get_submodule(node.target).over_time(x, self.pools.get(node))
        return y.flatten(0, 1)

    def _fire(self, node, env, steps):
        """The spikes of one neuron layer for this chunk, merged [steps * B, ...], written to a buffer that every chunk reuses."""
        neuron, source = self.gm.get_submodule(node.target), node.all_input_nodes[0]
        constant = source not in self.plan.spiking
        current = self.fixed[source] if constant else env[source].unflatten(0, (steps, self.B))
        like = current if constant else current[0]
        out, layout = self.buffers.get(node), layout_of(like)
        first = self.layouts.setdefault(node, layout)
        if layout.order != first.order:  # a library changed its layout with the length of a chunk; the state keeps the first
            current = first.unrows(first.rows(current.unsqueeze(0) if constant else current).contiguous())
            current, layout = current[0] if constant else current, first
        if out is None or out.size(0) < steps:
            out = like.new_empty((steps, layout.N))
            self.buffers[node] = out = layout.unrows(out)
        # From the second chunk on the state is updated in place: a run allocates nothing that outlives a chunk, so that its memory stays flat.
        state, options, T = self.states.get(node), self.options[node], steps if constant else None
        if self.method.rho and state is None:
            options = {"v0": self._calibrated(neuron, current, constant)}
        s, self.states[node] = neuron.fire(current, T=T, state=state, out=out[:steps], state_out=state, **options)
        return s.flatten(0, 1)

    def _calibrated(self, neuron, current, constant):
        """COS: this layer's start voltages, from its first rho inputs; the layers below have theirs already."""
        rho = self.method.rho
        return neuron.calibrate(current if constant else current[:rho], rho if constant else None, self.method.max_shift)


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

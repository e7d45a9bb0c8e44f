"""A spiking network run chunk by chunk in time, so that its memory does not grow with T."""

import math

import torch
from torch import fx

from snnfast import nn
from snnfast.ops import checks

CHUNK_ELEMENTS = {"cpu": 1 << 21, "cuda": 1 << 26}  # neuron-steps of the largest layer in flight: reused cache-near buffers; a full GPU


class SpikingNetwork(torch.nn.Module):
    """What `snnfast.convert` returns.

    The image is a constant current. Nodes of the graph that no spike reaches (the first convolution) are computed once per batch; the others
    once per chunk of time, on time and batch merged [chunk * B, ...], with each neuron's state carried from chunk to chunk.

    Attributes:
        levels: quantisation levels of the activation that each neuron stands for, by its name.
    """

    def __init__(self, gm, levels):
        super().__init__()
        self.gm, self.levels = gm, dict(levels)
        self.buffers_ = {}
        self.firing = []  # nodes of the neurons, in order
        spiking, self.static = set(), set()
        for node in gm.graph.nodes:
            is_neuron = node.op == "call_module" and isinstance(gm.get_submodule(node.target), nn.IF)
            if is_neuron:
                self.firing.append(node)
            if is_neuron or any(a in spiking for a in node.all_input_nodes):
                spiking.add(node)
            else:
                self.static.add(node)
        out = next(n for n in gm.graph.nodes if n.op == "output")
        if not isinstance(out.args[0], fx.Node):
            raise ValueError("net must return one tensor, the logits")

    def neurons(self):
        """(name, IF) of every neuron layer, in the order of the graph."""
        return [(n.target, self.gm.get_submodule(n.target)) for n in self.firing]

    def reset(self):
        """Forgets every neuron's state and the buffers of the last run."""
        for _, m in self.neurons():
            m.reset()
        self.buffers_.clear()

    def chunks(self, x, T, chunk=None):
        """Yields the logits of successive chunks of time, [t, B, classes] each, T steps in all.

        Args:
            x: images [B, ...]; the same current at every step.
            T: number of steps.
            chunk: steps per chunk; by default as many as keep the largest layer near the cache (CPU) or fill the device (GPU),
                whatever T is. The neurons' spikes do not depend on it.
        """
        checks.tensor("x", x)
        checks.integer("T", T)
        if chunk is not None:
            checks.integer("chunk", chunk)
        if x.dim() < 1 or x.size(0) == 0:
            raise ValueError(f"x must be a batch of images [B, ...] with B >= 1, got shape {tuple(x.shape)}")
        return self._chunks(x, T, chunk)

    @torch.no_grad()
    def _chunks(self, x, T, chunk):
        self.reset()
        try:
            run = fx.Interpreter(self.gm, garbage_collect_values=False)
            fixed = self._run_static(run, x)
            done = 0
            while done < T:
                steps = min(T - done, chunk or self._default_chunk(fixed, x))
                yield self._run_chunk(run, fixed, steps, x.size(0))
                done += steps
        finally:
            self.reset()

    def _default_chunk(self, fixed, x):
        largest = max((fixed[n.args[0]].numel() for n in self.firing if n.args[0] in fixed), default=x.numel())
        return max(1, CHUNK_ELEMENTS.get(x.device.type, 1 << 21) // largest)

    def _run_static(self, run, x):
        """The values that stay the same at every step."""
        fixed = {}
        run.env, run.args_iter = fixed, iter([x])
        for node in self.gm.graph.nodes:
            if node in self.static and node.op != "output":
                fixed[node] = run.run_node(node)
        return fixed

    def _run_chunk(self, run, fixed, steps, B):
        """One chunk: values of spiking nodes are [steps * B, ...]; a fixed value beside one is repeated over the steps."""
        env = dict(fixed)
        last_use = self._last_uses()
        for node in self.gm.graph.nodes:
            if node in self.static:
                continue
            if node.op == "output":
                return env[node.args[0]].unflatten(0, (steps, B))
            if node in self.firing:
                env[node] = self._fire(node, env[node.args[0]], node.args[0] in self.static, steps, B)
            else:
                run.env = {a: self._over_time(env[a], steps) if a in self.static else env[a] for a in node.all_input_nodes}
                env[node] = run.run_node(node)
            run.env = {}
            for dead in last_use.get(node, ()):
                env.pop(dead, None)

    @staticmethod
    def _over_time(value, steps):
        if not isinstance(value, torch.Tensor):
            return value
        return value.expand(steps, *value.shape).flatten(0, 1)

    def _last_uses(self):
        """For each spiking node, the spiking values that nothing after it reads."""
        last = {}
        for node in self.gm.graph.nodes:
            for a in node.all_input_nodes:
                if a not in self.static:
                    last[a] = node
        uses = {}
        for value, node in last.items():
            uses.setdefault(node, []).append(value)
        return uses

    def _fire(self, node, current, constant, steps, B):
        """The spikes of one neuron layer for this chunk, merged [steps * B, ...], written to a buffer that every chunk reuses."""
        neuron = self.gm.get_submodule(node.target)
        per_step = current.shape[1:]
        if constant:
            like, T = current, steps
        else:
            current = current.unflatten(0, (steps, B))
            like, T = current[0], None
        out = self.buffers_.get(node)
        if out is None or out.size(0) < steps or out.shape[2:] != per_step or out.dtype != like.dtype:
            out = torch.empty_strided((steps, *like.shape), (like.numel(), *_dense_strides(like)), dtype=like.dtype, device=like.device)
            self.buffers_[node] = out
        return neuron.run(current, T=T, out=out[:steps]).flatten(0, 1)

    def logits(self, x, T, at=None, chunk=None):
        """Logits over time.

        Args:
            x, T, chunk: as in `chunks`.
            at: None, or increasing steps in 1..T.

        Returns:
            at=None: the output of each step, [T, B, classes]. Otherwise the mean output of the first t steps for each asked t,
            [len(at), B, classes]: what the network answers when it is read at t. Summed in fp64, step by step, so that it does not depend on `chunk`.
        """
        if at is None:
            return torch.cat(list(self.chunks(x, T, chunk)))
        steps = check_at(at, T)
        return torch.stack([mean for _, mean in self.means(x, T, steps, chunk)])

    def means(self, x, T, at, chunk=None):
        """Yields (t, mean logits of the first t steps [B, classes]) for each t of `at`, in memory that does not grow with T."""
        asked, total, t = set(at), None, 0
        for y in self.chunks(x, T, chunk):
            for step in y:
                t += 1
                total = step.double() if total is None else total.add_(step)
                if t in asked:
                    yield t, (total / t).to(y.dtype)

    def forward(self, x, T=32, chunk=None):
        """Mean logits of T steps, [B, classes]."""
        return self.logits(x, T, [T], chunk)[0]


def check_at(at, T):
    """The asked steps as a list: increasing whole numbers in 1..T."""
    at = list(at)
    for t in at:
        checks.integer("at", t)
    if not at or at != sorted(set(at)) or at[-1] > T:
        raise ValueError(f"at must be increasing steps between 1 and T = {T}, got {at}")
    return at


def powers_of_two(T):
    """1, 2, 4, ..., T: the steps at which a report is read by default."""
    return sorted({2**i for i in range(math.floor(math.log2(T)) + 1)} | {T})


def _dense_strides(t):
    """The strides of t if it is dense, else those of a contiguous tensor of its shape."""
    return torch.empty_like(t, device="meta").stride()

"""How much memory a run takes, from a dry run of one image and one step, and which batch and chunk keep it within a budget.

What is counted, for a batch of B images and c steps at a time (rows = c B; bytes of one row are read off the dry run):

    images and what no spike reaches    B          states of the neurons (v, count)         B
    spikes and sparse products, in the  c B        other values alive at the same time      c B
    memory that layers share
    a product's own working memory      c B        levels of the quantised network          B, with statistics

The peak is the largest of three: the layers before the first neuron, one pass of the quantised network, one chunk.
"""

import dataclasses

import torch
from torch import fx

from snnfast import checks
from snnfast.graph.outputs import outputs_of
from snnfast.graph.vocabulary import is_product
from snnfast.ops.layout import layout_of
from snnfast.runtime import inputs
from snnfast.runtime.arena import Slabs, choose
from snnfast.runtime.run import default_chunk
from snnfast.system import memory

IDLE = {"cpu": 64 << 20, "cuda": 64 << 20}  # heap that is freed and not given back; library handles and workspaces
SCRATCH = 5 << 19  # bytes that a sparse product takes for each thread: csrc/engines/cpu/blocks.h
STEPS = 8  # wanted in a chunk, if none is given: states are loaded and stored once per chunk
LARGEST_BATCH = 256
COPIES_OF_FRAMES = 4  # of a batch of frames, at most: one by one from the loader, stacked, and the batch before; measured


@dataclasses.dataclass(frozen=True)
class MemoryPlan:
    """batch, chunk; bytes: estimated peak of the process; budget: the bytes to stay below, or None; parts: {purpose: bytes}; unlimited: whether cuDNN
    chooses how much it takes to work in, as it does on a GPU without a budget (`snnfast.system.memory.within`)."""

    batch: int
    chunk: int
    bytes: int
    budget: int | None
    parts: dict
    unlimited: bool = False

    def __str__(self):
        parts = ", ".join(f"{name} {memory.told(size)}" for name, size in self.parts.items() if size)
        limit = "" if self.budget is None else f" of {memory.told(self.budget)}"
        beside = " beside what cuDNN works in" if self.unlimited else ""
        return f"batch {self.batch}, {self.chunk} steps at a time, about {memory.told(self.bytes)}{limit} at most{beside} ({parts})"


class Dry:
    """The sizes of a network's values, per row, from one image and one step. shape: of an image."""

    def __init__(self, snn, shape, execution, device):
        self.gm, self.plan, self.method, self.clock, self.device = snn.gm, snn.plan(), snn.method, snn.clock, torch.device(device)
        self.nodes, self.size, self.values, self.owner, self.neurons, self.elements = [], {}, {}, {}, {}, {}
        # Bytes per row: of inputs that sparse products and neurons copy; of sums and values of functions over time.
        self.sparse, self.passing, self.copied, self.sums = {}, {}, {}, {}
        # Nodes whose values lie in memory that layers share, and of them those that are computed step by step.
        self.taken, self.stepwise, self.whole = set(), set(), execution.whole()
        dtype = next((p.dtype for p in self.gm.parameters() if p.is_floating_point()), torch.float32)
        if execution.half and dtype != torch.float32:
            raise ValueError(f"dtype {execution.dtype!r} is for networks in float32, and this one is in {checks.dtype_name(dtype)}")
        self.dtype = dtype
        whole = torch.zeros(1, dtype=dtype, device=device).expand(1, *shape)
        inputs.check_samples(self.gm, self.clock, whole, "images")
        image = self.clock.at_a_step(whole).clone()
        interpreter = fx.Interpreter(self.gm, garbage_collect_values=False)
        interpreter.args_iter, env = iter([image]), {}
        with torch.no_grad():
            for node in self.gm.graph.nodes:
                if node.op == "output":
                    self._outputs(env[node.args[0]])
                    break
                env[node] = self._value(node, env, interpreter, execution)
                self._note(node, env)
        self.at = {node: i for i, node in enumerate(self.gm.graph.nodes)}
        self.dies = dict.fromkeys(self.nodes, -1)  # place of the last node that uses a value or a view of it
        for node in self.nodes:
            self.dies[self.owner[node]] = max([self.dies[self.owner[node]], *(self.at[user] for user in node.users)])
        copies = COPIES_OF_FRAMES if self.clock.frames else 1
        self.image, self.wide = copies * whole.nbytes, dtype == torch.float64
        self.kept = [a for a in self.nodes if a not in self.plan.spiking and any(u in self.plan.spiking for u in a.users)]
        self.least_rows = 3 * max(execution.fixed.rows.values()) if execution.fixed else 0  # rows of the probe of each layer
        self.weights = sum(p.nbytes for p in self.gm.parameters()) // 2 if execution.half else 0  # copies in 16 bits

    def _outputs(self, y):
        several = outputs_of(self.gm)
        if several is not None and len(several.names) > 1:
            raise ValueError(
                f"an accuracy needs one output, and net gives {', '.join(several.names)}: convert it with read= (--read) one of them"
            )
        if y.dim() != 2:
            raise ValueError(f"an accuracy needs outputs that are logits [B, classes]; those of one image have shape {list(y.shape)}")
        self.classes = y.size(1)

    def _value(self, node, env, interpreter, execution):
        x = env[node.all_input_nodes[0]] if node.all_input_nodes else None
        if node in self.plan.firing:
            self.neurons[node] = x.numel()
            self.copied[node] = 0 if layout_of(x).dense else x.nbytes
            self.taken.add(node)
            return torch.zeros_like(x, dtype=torch.int8 if node in self.whole else None)
        if product := execution.product(node):
            copied = x.dim() == 4 and not x.is_contiguous(memory_format=torch.channels_last)
            self.sparse[node] = (x.nbytes if copied else 0) + product.scratch(x)
            values = x.to(self.dtype)  # as in a pass of the quantised network
            self.passing[node] = (values.nbytes if copied else 0) + product.scratch(values)

        def take(numel, dtype):
            self.taken.add(node)
            return torch.empty(numel, dtype=dtype, device=self.device)

        if node in self.plan.over_time or node in execution.unspiking:
            self.taken.add(node)
            self.stepwise.add(node)
        return execution.node(interpreter, node, env, self.plan.per_row, 1, take)

    def _note(self, node, env):
        """Notes the bytes of a node's value; 0 for a view of another value, whose memory then lives as long as the view."""
        value = env[node]
        tensors = [t for t in (value if isinstance(value, (tuple, list)) else [value]) if isinstance(t, torch.Tensor)]
        parameter = node.op == "get_attr"
        shared = {env[a].untyped_storage().data_ptr(): a for a in node.all_input_nodes if isinstance(env[a], torch.Tensor)}
        source = next((shared[t.untyped_storage().data_ptr()] for t in tensors if t.untyped_storage().data_ptr() in shared), None)
        self.nodes.append(node)
        self.owner[node] = node if source is None else self.owner[source]
        self.elements[node] = sum(t.numel() for t in tensors)
        self.size[node] = 0 if parameter or source is not None else sum(t.nbytes for t in tensors)
        whole = any(t.dtype == torch.int8 for t in tensors)  # in a pass of the quantised network, values
        self.values[node] = self.size[node] * (self.dtype.itemsize if whole else 1)
        if node in self.plan.over_time:
            over = [a for a in node.all_input_nodes if a in self.plan.spiking]
            each = self.gm.get_submodule(node.target).bytes_per_element(tensors[0].dtype)
            self.sums[node] = each * (sum(self.elements[a] for a in over) + self.elements[node])

    def kind(self, node):
        if node in self.plan.firing:
            return "neuron"
        return "product" if is_product(node, self.gm) else "other"

    def bytes_of(self, node, B, c):
        """What a node holds: its values, and a neuron's state."""
        rows = B * c if node in self.plan.spiking else B
        return rows * self.size[node] + (12 if self.wide else 8) * B * self.neurons.get(node, 0)

    # ---- the three peaks, in bytes

    def _working(self, node, rows, library=False, sparse=None):
        """Bytes that a node takes beside input and output. A library takes copies of both in its own layout, and of the weights. sparse: what
        products take for a row, in a pass of the quantised network."""
        if node in self.plan.firing:  # its level, in a pass of the quantised network
            return 3 * rows * self.values[node]
        if node in self.plan.over_time:  # sums and values of every step
            return rows * self.sums[node]
        if node in self.sparse and not library:
            return rows * (sparse or self.sparse)[node] + SCRATCH * (torch.get_num_threads() if self.device.type == "cpu" else 0)
        if not is_product(node, self.gm):
            return 0
        weights = self.gm.get_submodule(node.target).weight.nbytes if node.op == "call_module" else 0
        return weights + max(rows, self.least_rows) * (self.values[self.owner[node.all_input_nodes[0]]] + self.values[node])

    def one_pass(self, nodes, rows, kept=(), library=False):
        """Most bytes alive at the same time while `nodes` are computed in order; `kept` stay alive. library: torch computes every product."""
        alive, most = {}, 0
        for node in nodes:
            alive[self.owner[node]] = rows * self.values[self.owner[node]]
            most = max(most, sum(alive.values()) + self._working(node, rows, library, self.passing))
            alive = {v: size for v, size in alive.items() if self.dies[v] > self.at[node] or v in kept}
        return most

    def states(self, B):
        """v and count of every neuron, fp32 (or fp64) and int32; running sums and values of functions over time."""
        each = (12 if self.wide else 8) + self.method.bytes_per_neuron
        own = B * each * sum(self.neurons.values())
        return own + sum(B * self.sums[node] for node in self.plan.over_time)

    def chunk(self, B, c):
        """(memory that layers share for spikes, other values and working memory) of one chunk, as `Run.chunk` goes through it."""
        rows, alive, shared, free, most = B * c, {}, {}, [], 0
        for node in self.nodes:
            if node not in self.plan.spiking:
                continue
            repeated = 0
            for value, size in ((f"input of {node}", self.copied.get(node, 0)), (node, self.size[node])):
                if node in self.taken and size:
                    at, fits = choose(free, rows * size)
                    given = free.pop(at) if at is not None else 0
                    shared[value] = given if fits else rows * size
            if node not in self.taken:
                alive[self.owner[node]] = rows * self.size[self.owner[node]] if self.owner[node] not in shared else 0
                repeated = sum(rows * self.size[a] for a in node.all_input_nodes if a in self.kept)
            working = 0 if node in self.plan.firing else self._working(node, B if node in self.stepwise else rows)
            if node in self.plan.firing and self.method.parity:  # x/theta and s theta, where an author's program divides by a number
                working = 2 * rows * self.size[node]
            if node.op == "placeholder":  # the hash behind each random number
                working = rows * self.size[node] + 6 * 8 * B * self.elements[node]
            most = max(most, sum(alive.values()) + repeated + working)
            alive = {v: size for v, size in alive.items() if self.dies[v] > self.at[node]}
            free += [size for v, size in shared.items() if self.dies.get(v, -1) <= self.at[node]]
            shared = {v: size for v, size in shared.items() if self.dies.get(v, -1) > self.at[node]}
        return sum(free) + sum(shared.values()), most

    def parts(self, B, c, statistics, ann, reads=1):
        """{purpose: bytes} at the peak."""
        fixed = [n for n in self.nodes if n not in self.plan.spiking]
        kept = B * (self.image + sum(self.size[n] for n in self.kept))
        first = self.one_pass(fixed, B, self.kept)
        quantised = self.one_pass(self.nodes, B, library=ann) if statistics or ann else 0
        spikes, currents = self.chunk(B, max(c, self.method.least_T))
        levels = 4 * B * (sum(self.neurons.values()) + 4 * max(self.neurons.values())) if statistics else 0
        loop = dict(
            images=kept, states=self.states(B), spikes=spikes, currents=currents, levels=levels, outputs=8 * B * self.classes * (reads + 4)
        )
        left = spikes if self.method.rehearsal else 0
        whole = max(sum(loop.values()), first + B * self.image, kept + quantised + levels + left)
        return loop | {"first pass": max(0, whole - sum(loop.values())), "copies of weights": self.weights}


def plan(dry, T, *, images=None, batch=None, chunk=None, budget=None, statistics=False, ann=False, reads=1):
    """A `MemoryPlan`: the largest batch and chunk that keep the process below `budget` bytes (None: those that run fastest, whatever they take).

    dry: a `Dry` of the network. batch, chunk: kept if given, but no more than there are images and steps. images: the most images in a batch.
    reads: read-outs that are kept at the same time.

    Raises:
        ValueError: not even one image and one step fit; the message says what would be needed.
    """
    batch, chunk = (None if asked is None else min(asked, most or asked) for asked, most in ((batch, images), (chunk, T)))
    kind = "cuda" if dry.device.type == "cuda" else "cpu"
    first = [dry.elements[n.all_input_nodes[0]] for n in dry.plan.firing if n.all_input_nodes[0] in dry.kept]
    neurons = max(first, default=dry.elements[dry.nodes[0]])
    largest = batch or max(1, min(default_chunk(kind, neurons, dry.plan.linear) // STEPS, LARGEST_BATCH))
    largest = min(largest, images or largest)
    used = memory.used(dry.device)

    def of(B, c):
        reserve = IDLE[kind] + (Slabs.LEFT if dry.plan.over_time and kind == "cpu" else 0)
        parts = {"in use": used, "reserve": reserve} | dry.parts(B, c, statistics, ann, reads)
        return MemoryPlan(B, c, sum(parts.values()), budget, parts, kind == "cuda" and budget is None)

    options = []
    for B in [batch] if batch else _halves(largest):
        most = chunk or min(T, default_chunk(kind, neurons * B, dry.plan.linear, dry.clock.differential))
        for c in [chunk] if chunk else _halves(most):
            options.append((B, c))
    # Most rows first; with equal rows, at least STEPS steps first, then most images.
    options.sort(key=lambda bc: (bc[0] * bc[1], min(bc[1], STEPS), bc[0]), reverse=True)
    found = next((p for p in (of(B, c) for B, c in options) if budget is None or p.bytes <= budget), None)
    if found is None:
        least = of(*options[-1])
        raise ValueError(
            f"memory {memory.told(budget)} is too small: {least.batch} image{'s' if least.batch > 1 else ''} and {least.chunk} "
            f"step{'s' if least.chunk > 1 else ''} at a time need about {memory.told(least.bytes)} ({memory.told(used)} of it are in use before)"
        )
    return found


def _halves(n):
    found = []
    while n >= 1:
        found.append(n)
        n //= 2
    return found

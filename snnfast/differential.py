"""Functions that do not commute with rates, and their form over time.

    per_step       f of each step's values: biased, with an error that stays however large T is (MST; Wang et al., ICCV 2023)
    differential   out_t = f(X_t) - f(X_(t-1)), X_t = x_1 + ... + x_t: the outputs of t steps sum to f of the summed inputs (SpikeZIP; You et al.,
                   ICML 2024). A product of spikes and spikes is one of them: S_q(t) S_k(t)^T - S_q(t-1) S_k(t-1)^T, with S the running sums, one
                   matrix product per step.

A differential run gives the image, the biases and all other constants once: what is linear passes on the differences as it would pass on values, but
without its bias (`linear_part.py`). With ST-BIF neurons, which after draining have emitted clamp(floor(sum x/theta + 1/2), n_min, p_max) spikes net,
the summed output is then that of the quantised network.
"""

import operator

import torch
from torch.nn import functional as F

from snnfast import arena
from snnfast.ops.rows import DTYPES as FUSED_DTYPES
from snnfast.ops.rows import MOST_COLUMNS, layer_norm_over_time, softmax_over_time
from snnfast.trace import softmax_of

m = torch.nn
MODES = ("per_step", "differential")
# Functions of one image at a time, at least one of whose arguments is what spikes reach.
MODULES = (
    m.LayerNorm, m.RMSNorm, m.GroupNorm, m.Softmax, m.LogSoftmax, m.GELU, m.SiLU, m.Sigmoid, m.Tanh, m.ELU, m.LeakyReLU, m.Softplus, m.Hardswish,
    m.Hardsigmoid,
)  # fmt: skip
FUNCTIONS = {
    F.layer_norm, F.rms_norm, F.group_norm, F.softmax, torch.softmax, F.log_softmax, torch.log_softmax, F.gelu, F.silu, torch.sigmoid, F.sigmoid,
    torch.tanh, F.tanh, F.scaled_dot_product_attention, "softmax", "log_softmax", "sigmoid", "tanh",
}  # fmt: skip
PRODUCTS = {operator.matmul, torch.matmul, torch.bmm, operator.mul, torch.mul, "matmul", "bmm", "mul"}


def is_function(node, gm, spiking):
    """Whether a node that spikes reach is one of these; a softmax over the images is none. A product is, where both factors are in `spiking`."""
    softmax = softmax_of(gm, node)
    if softmax is not None and softmax[1] in (None, 0):
        return False
    if node.op == "call_module":
        return isinstance(gm.get_submodule(node.target), MODULES)
    if node.target in FUNCTIONS:
        return True
    return node.target in PRODUCTS and sum(a in spiking for a in node.args[:2] if isinstance(a, torch.fx.Node)) == 2


def is_silent(*values):
    """Whether nothing changes. Only a CPU is asked, which need not wait for the answer."""
    return all(x.device.type == "cpu" and not x[:1].any() and not x.any() for x in values)  # the first row mostly tells


class Differential(torch.nn.Module):
    """A function over time. forward(*inputs) is the function; `over_time` runs steps of it.

    function: of the inputs.  name: what it is, for people.  running: for each input, whether it comes over time; the others are constants.
    fused: the kernel that does the same, (x, state, out) -> (y, state), or None.
    """

    def __init__(self, function, name, running, fused=None):
        super().__init__()
        self.function, self.name, self.running, self.fused = function, name, tuple(running), fused

    def forward(self, *inputs):
        return self.function(*inputs)

    def over_time(self, inputs, state, take=None, call=None):
        """inputs: [t, B, ...] each, or a constant; state: (running sums, f of them), None at the start; the sums are updated in place.

        Returns ([t, B, ...], state). Sums are kept in the inputs' dtype, and the function is called for each step: nothing depends on how time is
        cut. take: gives memory for the result, (numel, dtype) -> a flat tensor. call: what calls the function, (function, running, inputs) -> its
        value, where there are no kernels that depend on their rows alone.
        """
        take = take or arena.new(inputs[0].device)
        if self.fused is not None and inputs[0].dtype in FUSED_DTYPES:
            (x,) = inputs
            return self.fused(x, state, take(x.numel(), x.dtype).view(x.shape))
        steps, out = next(len(x) for x, runs in zip(inputs, self.running) if runs), None
        y = None
        for t in range(steps):
            now = [x[t] if runs else x for x, runs in zip(inputs, self.running)]
            if out is not None and is_silent(*(x for x, runs in zip(now, self.running) if runs)):
                out[t].zero_()
                continue
            if state is None:
                state = [x.clone() if runs else x for x, runs in zip(now, self.running)], None
            else:
                for total, x, runs in zip(state[0], now, self.running):
                    if runs:
                        total.add_(x)
            last = state[1] if y is None else y
            y = self.function(*state[0]) if call is None else call(self.function, self.running, state[0])
            out = take(steps * y.numel(), y.dtype).view(steps, *y.shape) if out is None else out
            out[t].copy_(y) if last is None else torch.sub(y, last, out=out[t])
        if y is not None:
            state = state[0], y if state[1] is None else state[1].copy_(y)
        return out, state

    def extra_repr(self):
        return self.name


class Call(torch.nn.Module):
    """What a node of a graph computes, as a function of its inputs in the order of `all_input_nodes`."""

    def __init__(self, gm, node):
        super().__init__()
        self.module = gm.get_submodule(node.target) if node.op == "call_module" else None
        places = {a: i for i, a in enumerate(node.all_input_nodes)}
        self.op, self.target = node.op, node.target
        self.args, self.kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: _Place(places[n]))

    def forward(self, *inputs):
        args, kwargs = torch.fx.node.map_aggregate((self.args, self.kwargs), lambda a: inputs[a.index] if isinstance(a, _Place) else a)
        if self.op == "call_module":
            return self.module(*args, **kwargs)
        if self.op == "call_method":
            return getattr(args[0], self.target)(*args[1:], **kwargs)
        return self.target(*args, **kwargs)


class _Place:
    """Where an input goes in a node's arguments."""

    def __init__(self, index):
        self.index = index

    def __repr__(self):  # which a network's identity is made of
        return f"input {self.index}"


class FusedSoftmax:
    def __call__(self, x, state, out):
        return softmax_over_time(x, state, out=out)


class FusedLayerNorm:
    """layer: a torch.nn.LayerNorm over the last dimension."""

    def __init__(self, layer):
        self.layer = layer

    def __call__(self, x, state, out):
        return layer_norm_over_time(x, self.layer.weight, self.layer.bias, self.layer.eps, state, out=out)


def _fused(gm, node):
    """The kernel of a function of rows, or None. It has its own order of sums, so the result differs from torch's in the last places."""
    layer = gm.get_submodule(node.target) if node.op == "call_module" else None
    if layer is not None and (layer._forward_hooks or layer._forward_pre_hooks):
        return None
    if type(layer) is m.LayerNorm and len(layer.normalized_shape) == 1 and layer.normalized_shape[0] <= MOST_COLUMNS:
        return FusedLayerNorm(layer)
    plain = layer is not None or (set(node.kwargs) <= {"dim"} and len(node.args) <= 2)  # without a dtype of its own
    return FusedSoftmax() if softmax_of(gm, node) == ("softmax", -1) and plain else None


def not_idle_note(busy, neurons):
    """What a run that was too short has to say."""
    return f"T is too small: {busy} of {neurons} neurons are not idle yet, so the outputs are not those of the quantised network"


def put(gm, plan):
    """Puts a `Differential` in place of every function that spikes reach."""
    for node in list(gm.graph.nodes):
        if node not in plan.spiking or not is_function(node, gm, plan.spiking):
            continue
        inputs = node.all_input_nodes
        if any(a in plan.without_values[0] for a in inputs):
            raise ValueError(f"{node.name} uses a size of values that come over time: write the number in its place")
        image = next((a for a in inputs if a in plan.from_image and a not in plan.spiking), None)
        if image is not None:
            raise ValueError(
                f"{node.name} is a function of spikes and of {image.name}, which no spike reaches: it has no differential form"
            )
        name = type(gm.get_submodule(node.target)).__name__ if node.op == "call_module" else getattr(node.target, "__name__", node.target)
        name = f"product ({name})" if node.target in PRODUCTS else name
        target = f"{node.name}_over_time"
        gm.add_submodule(target, Differential(Call(gm, node), name, [a in plan.spiking for a in inputs], _fused(gm, node)))
        with gm.graph.inserting_before(node):
            new = gm.graph.call_module(target, tuple(inputs))
        plan.spiking.add(new)
        node.replace_all_uses_with(new)
        gm.graph.erase_node(node)

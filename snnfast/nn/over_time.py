"""Layers that compute steps of time from what earlier steps left: the base of all, a function of running sums, and max pooling.

out_t = f(X_t) - f(X_(t-1)), X_t = x_1 + ... + x_t: the outputs of t steps sum to f of the summed inputs
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from snnfast.ops.layout import layout_of
from snnfast.ops.rows import DTYPES as FUSED_DTYPES
from snnfast.ops.rows import layer_norm_over_time, softmax_over_time


def fresh(device):
    """Memory that nobody shares: (numel, dtype) -> a flat tensor."""
    return lambda numel, dtype: torch.empty(numel, dtype=dtype, device=device)


def is_silent(*values):
    """Whether nothing changes. Only a CPU is asked, which need not wait for the answer."""
    return all(x.device.type == "cpu" and not x[:1].any() and not x.any() for x in values)  # the first row mostly tells


@dataclass(frozen=True)
class Moment:
    """Where a run stands, and what it lends to a layer.

    t: number of the first of these steps.  first: number of the first image, or of each image, int [B].  take: gives memory for the result,
    (numel, dtype) -> a flat tensor; None: the layer's own.  call: calls a layer's function, (function, by_image, inputs) -> its value, where no
    kernel depends on its rows alone; None: a plain call.
    """

    t: int = 0
    first: int | torch.Tensor = 0
    take: Callable | None = None
    call: Callable | None = None


START = Moment()


class OverTime(torch.nn.Module):
    """A layer of a converted network that is not the same function at every step.

    forward(*inputs) is the layer on values, once. A run calls `over_time`, step after step in whatever chunks; the result does not depend on how
    time is cut.
    """

    changes = ""  # why no recorded launch can repeat a chunk, for people

    def bytes_per_element(self, dtype: torch.dtype) -> int:
        """What the state takes for each element of the inputs that come over time, and of the result."""
        return 0

    def over_time(self, inputs, state, moment: Moment = START):
        """inputs: [t, B, ...] each, or a constant; state: None at the start. Returns ([t, B, ...], state); the state may be updated in place."""
        raise TypeError(f"{type(self).__name__} has no over_time")

    def differentiable(self, inputs, state, moment: Moment = START):
        """As `over_time`, but nothing is computed in place, so that gradients go through it."""
        return self.over_time(inputs, state, moment)

    def of_images(self, state, of):
        """The state of some images. of: a tensor with rows of images -> those of the images."""
        return state


class Differential(OverTime):
    """A function over time. forward(*inputs) is the function; `over_time` runs steps of it.

    function: of the inputs.  name: what it is, for people.  running: for each input, whether it comes over time; the others are constants.
    fused: the kernel that does the same, (x, state, out) -> (y, state), or None.  by_image: for each input, whether it has a row for each image;
    by default those that come over time.  infinite: whether the function may put in infinities, as a mask does: what stays infinite does not change.
    """

    changes = "functions over time keep sums that change"

    def __init__(self, function, name, running, fused=None, by_image=None, infinite=False):
        super().__init__()
        self.function, self.name, self.running, self.fused = function, name, tuple(running), fused
        self.by_image, self.infinite = tuple(running if by_image is None else by_image), infinite

    @property
    def is_product(self):
        """Whether the function is a product of two values, and nothing else."""
        return self.name.startswith("product")

    @property
    def passes_spikes(self):
        """Whether spikes come out where spikes go in: a mask, or a maximum, which is a pooling. Other functions give real values."""
        return self.infinite or self.name.startswith("maximum")

    def forward(self, *inputs):
        return self.function(*inputs)

    def bytes_per_element(self, dtype: torch.dtype) -> int:
        return dtype.itemsize

    def over_time(self, inputs, state, moment: Moment = START):
        """state: (running sums, f of them), the sums in the inputs' dtype. The function is called for each step."""
        take, call = moment.take or fresh(inputs[0].device), moment.call
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
            y = self.function(*state[0]) if call is None else call(self.function, self.by_image, state[0])
            out = take(steps * y.numel(), y.dtype).view(steps, *y.shape) if out is None else out
            out[t].copy_(y) if last is None else torch.sub(y, last, out=out[t])
            if self.infinite and last is not None:
                out[t].masked_fill_(y == last, 0)
        if y is not None:
            state = state[0], y if state[1] is None else state[1].copy_(y)
        return out, state

    def of_images(self, state, of):
        if self.fused is not None and not isinstance(state[0], list):
            return type(state)(*map(of, state))
        return [of(x) if rows else x for x, rows in zip(state[0], self.by_image)], of(state[1])

    def differentiable(self, inputs, state, moment: Moment = START):
        (total, last), kernel = (None, None) if state is None else state[0], None if state is None else state[1]
        steps, out = next(len(x) for x, runs in zip(inputs, self.running) if runs), []
        for t in range(steps):
            now = [x[t] if runs else x for x, runs in zip(inputs, self.running)]
            if total is None:
                total = [x.clone() if runs else x for x, runs in zip(now, self.running)]
            else:
                total = [s + x if runs else x for s, x, runs in zip(total, now, self.running)]
            before, last = last, self.function(*total)
            change = last if before is None else last - before
            out.append(change.masked_fill(last == before, 0) if self.infinite and before is not None else change)
        y = torch.stack(out)
        if self.fused is not None and inputs[0].dtype in FUSED_DTYPES:  # the kernel's value with the function's gradient
            with torch.no_grad():
                value, kernel = self.fused(
                    inputs[0].detach().contiguous(), kernel, torch.empty_like(y, memory_format=torch.contiguous_format)
                )
            y = _Value.apply(y, value)
        return y, ((total, last), kernel)

    def extra_repr(self):
        return self.name


class _Value(torch.autograd.Function):
    """A value of one computation with the gradient of another."""

    @staticmethod
    def forward(ctx, differentiable, value):
        return value.view_as(value)

    @staticmethod
    def backward(ctx, dy):
        return dy, None


class Call(torch.nn.Module):
    """What a node of a graph computes, as a function of its inputs in the order of `all_input_nodes`."""

    def __init__(self, gm, node):
        super().__init__()
        self.module = gm.get_submodule(node.target) if node.op == "call_module" else None
        places = {a: i for i, a in enumerate(node.all_input_nodes)}
        self.op, self.target = node.op, node.target
        self.args, self.kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: _Place(places[n]))

    def times(self, place):
        """How often an input stands among the arguments."""
        found = []
        torch.fx.node.map_aggregate((self.args, self.kwargs), found.append)
        return sum(isinstance(a, _Place) and a.index == place for a in found)

    def forward(self, *inputs):
        args, kwargs = torch.fx.node.map_aggregate((self.args, self.kwargs), lambda a: inputs[a.index] if isinstance(a, _Place) else a)
        if self.op == "call_module":
            return self.module(*args, **kwargs)
        if self.op == "call_method":
            return getattr(args[0], self.target)(*args[1:], **kwargs)
        return self.target(*args, **kwargs)


class RowsFirst(torch.nn.Module):
    """A function of values whose images lie along other dimensions, of such that have them first.

    axes: of each input.  to: of the result.
    """

    def __init__(self, function, axes, to):
        super().__init__()
        self.function, self.axes, self.to = function, tuple(axes), to

    def forward(self, *inputs):
        y = self.function(*(x.movedim(0, axis) if axis else x for x, axis in zip(inputs, self.axes)))
        return y.movedim(self.to, 0) if self.to else y


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


class Pool(OverTime):
    """A max pooling over time. Sums are kept in fp64, step by step, so that the result does not depend on how time is cut.

    dims: of the window, 1 to 3.  form: "difference" passes on how much the maximum of the sums grew, any other the spikes of the input with the
    largest sum.
    """

    changes = "functions over time keep sums that change"

    def __init__(self, dims, form, kernel_size, stride, padding, dilation, ceil_mode):
        super().__init__()
        self.dims, self.form = dims, form
        self.window = dict(kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil_mode)

    def _max(self, x, **options):
        return (F.max_pool1d, F.max_pool2d, F.max_pool3d)[self.dims - 1](x, **self.window, **options)

    def forward(self, x):
        """Of values: the maximum."""
        return self._max(x)

    def bytes_per_element(self, dtype: torch.dtype) -> int:
        return 16  # a sum and a maximum in fp64

    def over_time(self, inputs, state, moment: Moment = START):
        (x,) = inputs
        take = moment.take or fresh(x.device)
        total, last = (torch.zeros_like(x[0], dtype=torch.float64), None) if state is None else state
        out = now = None
        for t, step in enumerate(x):
            total.add_(step)
            if self.form == "difference":
                before, now = last if now is None else now, self._max(total)
                y = now if before is None else now - before
            else:
                _, winner = self._max(total, return_indices=True)
                y = step.flatten(-self.dims).gather(-1, winner.flatten(-self.dims)).view(winner.shape)
            if out is None:  # as y lies, so that the next layer need not copy it
                layout = layout_of(y)
                out = layout.unrows(take(len(x) * layout.N, x.dtype).view(len(x), layout.N))
            out[t].copy_(y)
        if now is not None:
            last = now if last is None else last.copy_(now)
        return out, (total, last)

    def of_images(self, state, of):
        return of(state[0]), None if state[1] is None else of(state[1])

    def differentiable(self, inputs, state, moment: Moment = START):
        (x,) = inputs
        total, last = (torch.zeros_like(x[0], dtype=torch.float64), None) if state is None else state
        out = []
        for step in x:
            total = total + step
            if self.form == "difference":
                before, last = last, self._max(total)
                out.append(last if before is None else last - before)
            else:
                _, winner = self._max(total.detach(), return_indices=True)
                out.append(step.flatten(-self.dims).gather(-1, winner.flatten(-self.dims)).view(winner.shape))
        return torch.stack(out).to(x.dtype), (total, last)

    def extra_repr(self):
        return ", ".join([self.form, *(f"{k}={v}" for k, v in self.window.items())])

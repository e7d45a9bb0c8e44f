"""The canonical form in which tensors reach the kernels: rows of one step each, in the memory order of x.

Any dense layout (channels_last, a transposed feature map) is taken as it lies: the dimensions of a step are permuted, as a view, into the
order of their strides, and flattened. Only a step with gaps is copied. Thresholds become (outer, C, inner): neuron i of the flattened
step has theta[(i // inner) % C].
"""

import functools
import math

import torch

from snnfast import checks
from snnfast.engines.reference.multistep import spread

SMALLEST, LARGEST = 2.0**-149, torch.finfo(torch.float32).max  # of fp32


class Layout:
    """The order of the dimensions of one step in memory, read off x (`step`: x without its time axis, if it has one)."""

    def __init__(self, shape, strides, plain=False):
        """plain: it is known to lie as its shape says."""
        self.shape = tuple(shape)
        self.N = math.prod(self.shape)
        if plain:
            self.dense = self.identity = True
            self.order = list(range(len(self.shape)))
            return
        large = [d for d, n in enumerate(self.shape) if n != 1]
        in_memory = _by_stride(large, strides)
        self.dense = _is_dense([self.shape[d] for d in in_memory], [strides[d] for d in in_memory])
        self.identity = in_memory == large or not self.dense
        small = [d for d, n in enumerate(self.shape) if n == 1]
        self.order = list(range(len(self.shape))) if self.identity else small + in_memory

    def rows(self, x):
        """[T, *step] -> [T, N] with contiguous rows: a view where x is dense in this layout, else a copy."""
        if self.dense and len(self.shape) == 1:
            return x
        if not self.dense:
            x = x.contiguous()
        if not self.identity:
            x = x.permute(0, *(d + 1 for d in self.order))
        return x.reshape(x.size(0), self.N)

    def unrows(self, s):
        """[T, N] -> [T, *step], a view in the layout of x."""
        if len(self.shape) == 1:
            return s
        if self.identity:
            return s.view(s.size(0), *self.shape)
        s = s.view(s.size(0), *(self.shape[d] for d in self.order))
        back = sorted(range(len(self.order)), key=lambda i: self.order[i])
        return s.permute(0, *(i + 1 for i in back))

    def _is_of_step(self, t):
        """Whether t has a value for each neuron. The ranks come first: where a size is open, for torch.export, no other one is compared with it."""
        return t.dim() == len(self.shape) and tuple(t.shape) == self.shape

    def vector(self, t):
        """[*step] or anything that broadcasts over it -> [N]."""
        if self.identity and self._is_of_step(t) and t.is_contiguous():
            return t.view(self.N)
        return self.rows(t.expand(self.shape).unsqueeze(0)).view(self.N).contiguous()

    def unvector(self, t):
        """[N] -> [*step]."""
        if len(self.shape) == 1:
            return t
        return t.view(self.shape) if self.identity else self.unrows(t.unsqueeze(0)).squeeze(0)

    def pattern(self, name, theta):
        """A threshold that broadcasts over one step -> (theta [C], inner)."""
        checks.broadcasts(name, theta.shape, self.shape)
        if self.N == 0:  # no neuron reads it: one number that still depends on theta
            return torch.cat([theta.reshape(-1), theta.new_ones(1)])[:1], 1
        if theta.numel() == 1:
            return theta.reshape(1), 1
        if self.identity and self._is_of_step(theta):
            return theta.reshape(self.N), 1
        t = theta.reshape((1,) * (len(self.shape) - theta.dim()) + tuple(theta.shape))
        if not self.identity:
            t = t.permute(self.order)
        sizes = [self.shape[d] for d in self.order]
        varies = [i for i in range(len(sizes)) if t.size(i) > 1]
        first, last = varies[0], varies[-1]
        if any(t.size(i) != sizes[i] for i in range(first, last + 1)):
            return t.expand(sizes).reshape(self.N), 1
        return t.reshape(math.prod(sizes[first : last + 1])), math.prod(sizes[last + 1 :])


def _by_stride(dims, strides):
    """dims by falling stride, equal ones in their order. Plain comparisons, which torch.compile can guard where sorted() cannot."""
    order = []
    for d in dims:
        at = len(order)
        while at and strides[order[at - 1]] < strides[d]:
            at -= 1
        order.insert(at, d)
    return order


def _is_dense(shape, strides):
    expected = 1
    for n, s in zip(reversed(shape), reversed(strides)):
        if s != expected:
            return math.prod(shape) == 0
        expected *= n
    return True


def layout_of(t, skip=0, plain=False):
    """The layout of t without its first `skip` axes. plain: nothing traces it, so that its sizes are numbers."""
    as_shaped = t.is_contiguous()
    if plain and as_shaped:
        return _as_shaped(t.shape[skip:])
    return Layout(t.shape[skip:], t.stride()[skip:], as_shaped)


@functools.lru_cache(256)
def _as_shaped(shape):
    """The layout of what lies as its shape says, made once."""
    return Layout(shape, (), True)


def accumulator(dtype):
    """The dtype of state and thresholds: fp32, or fp64 for fp64 input."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def threshold(name, theta, x, layout, plain=False):
    """A number, or a tensor that broadcasts over one step -> (theta [C] in the state's dtype on x's device, inner). plain: nothing traces it."""
    if isinstance(theta, torch.Tensor):
        checks.tensor(name, theta, device=x.device)
        t, inner = layout.pattern(name, theta)
        return t.to(accumulator(x.dtype)).contiguous(), inner
    value = checks.number(name, theta, positive=True)
    if plain and not SMALLEST <= value <= LARGEST and x.dtype != torch.float64:
        raise ValueError(f"{name} must be a number of fp32, {SMALLEST:.2g} to {LARGEST:.2g}, got {value}")
    if plain and x.is_cpu and not torch.is_inference_mode_enabled():
        return _number(value, accumulator(x.dtype)), 1
    return torch.full((1,), value, dtype=accumulator(x.dtype), device=x.device), 1


@functools.lru_cache(256)
def _number(value, dtype):
    """[1] on the CPU, made once: nothing writes a threshold. (A GPU's would belong to a stream, or to a captured graph.)"""
    return torch.full((1,), value, dtype=dtype, device="cpu")


def together(parameters, x, layout):
    """A neuron's parameters by name, each a number or a tensor that broadcasts over one step -> ([C], or [K, C] where there are K; inner)."""
    found = [threshold(name, value, x, layout) for name, value in parameters.items()]
    if len(found) == 1:
        return found[0]
    of_all = {(t.size(0), inner) for t, inner in found if t.size(0) > 1}
    if len(of_all) <= 1:  # one pattern, and numbers
        C, inner = of_all.pop() if of_all else (1, 1)
        return torch.stack([t.expand(C) for t, _ in found]), inner
    # Different patterns: a number for each neuron.
    return torch.stack([spread(t, inner, layout.N) for t, inner in found]), 1

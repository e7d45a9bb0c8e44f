"""Layers of torch that `accelerate(fuse=True)` puts a class over: batch norms that wait for the neuron behind them, to run with it in one pass
(`snnfast.norm_neuron`), and max poolings.

A batch norm with the class `WaitingNorm` over its own returns a `Deferred`, a tensor that nobody has computed yet. A neuron takes what it is made of,
`fire`; whatever else touches it gets what the batch norm's own code gives. Changes of shape that leave the channels and all dimensions behind them as
they are wait too.
"""

import math

import torch
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from snnfast.checks import resolved as computed
from snnfast.ops import carried
from snnfast.ops.iaf import iaf
from snnfast.ops.lif import lif
from snnfast.ops.norm_neuron import affine, normed_neuron, statistics, update
from snnfast.ops.plif import plif
from snnfast.ops.pool import MOST_WINDOW, max_pool2d

SMALL = 1 << 17  # in training, numbers below which two passes take less than the fixed costs of one

_T = torch.Tensor
_RESHAPES = {_T.view, _T.reshape, _T.flatten, _T.unflatten, _T.unsqueeze, _T.expand}
_RESHAPES |= {torch.flatten, torch.unflatten, torch.reshape, torch.unsqueeze}
# What is asked of a shape, a dtype or a device alone.
_ASKS = {
    getattr(_T, name).__get__ for name in ("shape", "ndim", "dtype", "device", "is_cuda", "layout", "is_sparse", "is_nested", "is_meta")
}
_ASKS |= {_T.size, _T.dim, _T.numel, _T.stride, _T.is_contiguous, _T.is_floating_point, _T.__len__, _T.new_zeros, _T.new_full, _T.new_empty}
_ASKS |= {torch.zeros_like, torch.ones_like, torch.full_like, torch.empty_like}


class Pending:
    """What a batch norm was asked for: its input [N, C, ...], and what it had then. `behind`: dimensions behind the channels.

    In training the statistics are taken at once, and the running ones brought up to date.
    """

    def __init__(self, norm, x, behind):
        self.norm, self.x, self.behind, self.eps, self.by_batch = norm, x, behind, norm.eps, _by_batch(norm)
        self.weight, self.bias = norm.weight, norm.bias
        self.running = (None, None) if self.by_batch else (norm.running_mean, norm.running_var)
        self.has_gradient = torch.is_grad_enabled() and _learns(norm, x)
        self.value = self.taken = None
        if self.by_batch:
            *self.taken, mean, var = statistics(self._flat().unsqueeze(0), self.weight, self.bias, self.eps)
            _count(norm, mean, var, x.numel() // mean.numel())
        of = (x, self.weight, self.bias, *self.running)
        self.seen = [(t, t._version) for t in of if t is not None and not t.is_inference()]

    def _flat(self):
        return self.x.flatten(0, -2 - self.behind)

    def _check(self):
        if any(t._version != version for t, version in self.seen):
            raise RuntimeError(
                "the input, or a parameter, of a batch norm that waits for its neuron was changed before the neuron came: call undo() of what "
                "accelerate(model, fuse=True) returned, or leave fuse out"
            )

    def computed(self):
        """What the batch norm's own code gives."""
        if self.value is None:
            self._check()
            with torch.set_grad_enabled(self.has_gradient):
                value = F.batch_norm(self._flat(), *self.running, self.weight, self.bias, self.by_batch, 0.0, self.eps)
                self.value = value.view_as(self.x)
        return self.value

    def parts(self):
        """(x, scale [C], shift [C]) with the gradient of what flows through the statistics."""
        self._check()
        if self.taken is None:
            with torch.set_grad_enabled(self.has_gradient):
                mean, var = (t.double() for t in self.running)
                self.taken = self.x, *affine(mean, (var + self.eps).rsqrt(), self.weight, self.bias)
        return self.taken[0].view_as(self.x), *self.taken[1:]


def _learns(norm, x):
    return any(t is not None and t.requires_grad for t in (x, norm.weight, norm.bias))


def _by_batch(norm):
    """Whether it normalises with the statistics of what it is given."""
    return norm.training or norm.running_mean is None or norm.running_var is None


def _count(norm, mean, var, n):
    """Brings the running statistics up to date, as torch.nn.BatchNorm does."""
    if not norm.training or not norm.track_running_stats or norm.running_mean is None:
        return
    momentum = 0.0 if norm.momentum is None else norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None:
            momentum = 1.0 / float(norm.num_batches_tracked)
    update(norm.running_mean, norm.running_var, mean, var, n, momentum)


def _refuse(what):
    raise RuntimeError(
        "the result of a batch norm that waits for its neuron went to code that is not torch's, such as a torch.autograd.Function: call undo() "
        "of what accelerate(model, fuse=True) returned, or leave fuse out"
    )


class Deferred(torch.Tensor):
    """The output of a batch norm that was not computed yet. It has no memory of its own."""

    pending: Pending
    changes: tuple  # of shape since then

    @staticmethod
    def __new__(cls, pending, like, changes=()):
        how = dict(dtype=like.dtype, device=like.device, strides=like.stride(), requires_grad=pending.has_gradient)
        with torch._C.DisableTorchFunctionSubclass():
            made = torch.Tensor._make_wrapper_subclass(cls, like.shape, **how)
            made.pending, made.like, made.changes = pending, like.detach(), changes
            if pending.has_gradient:  # which would end here: only what goes round torch's functions brings one
                made.register_hook(_refuse)
        return made

    def lost(self):
        """Whether its gradient would not go back: it was made without one, and a function that is not torch's gave it another."""
        with torch._C.DisableTorchFunctionSubclass():
            return self.requires_grad and not self.pending.has_gradient

    def resolve(self):
        """Its value."""
        if self.lost():
            _refuse(None)
        return self.changed(self.pending.computed())

    def changed(self, x):
        """x, the input or output of the batch norm, in this tensor's shape."""
        for change, args, kwargs in self.changes:
            x = change(x, *args, **kwargs)
        return x

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            this = args[0] if args else None
            if type(this) is Deferred and not any(type(a) is Deferred for a in args[1:]):
                if func == _T.requires_grad.__get__:  # another object each time
                    return this.pending.has_gradient
                if func in _ASKS:
                    return func(this.like, *args[1:], **kwargs)
                if func in _RESHAPES and not this.lost():
                    like, kept = func(this.like, *args[1:], **kwargs), this.pending.behind + 1
                    if like.dim() > kept and like.shape[-kept:] == this.like.shape[-kept:]:
                        return Deferred(this.pending, like, (*this.changes, (func, args[1:], kwargs)))
            return func(*tree_map(computed, args), **tree_map(computed, kwargs))

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        _refuse(func)


def likeness(x):
    """A tensor of x's shape, dtype and device, for whoever asks no more of it: x itself, or of what was not computed yet the batch norm's input."""
    return x.like if type(x) is Deferred else x


def fire(x, theta, *, v0=0.0, tau=None, w=None, **options):
    """`snnfast.iaf`, `lif` (tau) or `plif` (w) of x [T, ...], in one pass with the batch norm that x waits for."""
    other = any(options.get(name) for name in ("negative", "caps", "memory", "offset")) or options.get("unit", "volts") != "volts"
    if type(x) is Deferred and x.dim() > x.pending.behind + 1 and not other:
        if x.pending.value is None and not x.lost():
            current, scale, shift = x.pending.parts()
            return normed_neuron(x.changed(current), scale, shift, x.dim() - 1 - x.pending.behind, theta, v0, tau=tau, w=w, **options)
    x = computed(x)
    if w is not None:
        return plif(x, theta, w, v0, **options)
    return iaf(x, theta, v0, **options) if tau is None else lif(x, theta, tau, v0, **options)


class WaitingNorm:
    """Over the class of a batch norm: its forward waits."""

    kind = "batch norm that waits for its neuron"

    def forward(self, x):
        x = computed(x)
        behind = _behind(self, x)
        if behind is None or not self._waits(x, behind):
            return super().forward(x)
        return Deferred(Pending(self, x, behind), x)

    def _waits(self, x, behind):
        """Whether nothing would tell the difference but the last bits."""
        by_batch, own = _by_batch(self), (torch.Tensor, torch.nn.Parameter)
        fits = type(x) in own and x.is_floating_point() and x.size(-1 - behind) == self.num_features
        # As torch takes them: halves go with fp32 parameters.
        fits = fits and (self.weight is None or self.weight.dtype in (x.dtype, torch.float32 if x.dtype.itemsize == 2 else x.dtype))
        as_made = x.is_contiguous() or (x.dim() == 4 and behind == 2 and x.is_contiguous(memory_format=torch.channels_last))
        traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
        watched = self._forward_hooks or self._backward_hooks or self._backward_pre_hooks
        # A checkpoint's first run has no gradient, and gives its results one; a chunk of time's first run does not.
        hidden = not torch.is_grad_enabled() and self.training and _learns(self, x) and carried.active() is None
        small = by_batch and x.numel() < max(2 * self.num_features, SMALL if self.training else 0)
        return fits and as_made and not (traced or watched or hidden or small)


def _behind(norm, x):
    """How many dimensions stand behind the channels of x, or None where its shape is not one that the batch norm takes."""
    steps = getattr(norm, "step_mode", "s") == "m"  # SpikingJelly's: [T, N, C, ...]
    behind = x.dim() - 2 - steps if isinstance(x, torch.Tensor) else -1
    allowed = {torch.nn.BatchNorm1d: (0, 1), torch.nn.BatchNorm2d: (2,), torch.nn.BatchNorm3d: (3,)}
    return behind if any(isinstance(norm, cls) and behind in dims for cls, dims in allowed.items()) else None


class BytePool:
    """Over the class of a max pooling: its backward keeps a byte for each window."""

    kind = "max pooling that keeps a byte for each window"

    def forward(self, x):
        x = computed(x)
        if torch.jit.is_tracing() or not self.fits(self) or x.dim() < 3 or not x.is_floating_point():
            return super().forward(x)
        return max_pool2d(x, self.kernel_size, self.stride, self.padding)

    @staticmethod
    def fits(pool):
        plain = pool.dilation in (1, (1, 1)) and not pool.ceil_mode and not pool.return_indices
        numbers = [n if isinstance(n, tuple) else (n, n) for n in (pool.kernel_size, pool.stride, pool.padding)]
        whole = all(len(n) == 2 and all(type(i) is int for i in n) for n in numbers)
        return plain and whole and math.prod(numbers[0]) <= MOST_WINDOW


def leave(module, args, output):
    """The hook of a whole model: what it gives out does not wait any more."""
    return tree_map(computed, output)


def apart(model):
    """The model with its layers' own classes again, in place."""
    for module in model.modules():
        if isinstance(module, (WaitingNorm, BytePool)):
            module.__class__ = module.fused_over
        for key in [key for key, hook in module._forward_hooks.items() if hook is leave]:
            del module._forward_hooks[key]
    return model

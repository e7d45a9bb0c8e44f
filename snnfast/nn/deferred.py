"""Layers of torch that `accelerate(fuse=True)` puts a class over: batch norms that wait for the neuron behind them, to run with it in one pass
(`snnfast.norm_neuron`), and max poolings.

A batch norm with the class `WaitingNorm` over its own returns a `Deferred`, a tensor that nobody has computed yet. A neuron takes what it is made of,
`fire`; whatever else touches it gets what the batch norm's own code gives. Changes of shape that leave the channels and all dimensions behind them as
they are wait too.
"""

import torch
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from snnfast.ops.iaf import iaf
from snnfast.ops.lif import lif
from snnfast.ops.norm_neuron import Statistics, affine, normed_neuron, update
from snnfast.ops.plif import plif
from snnfast.ops.pool import max_pool2d

SMALL = 1 << 17  # in training, numbers below which two passes take less than the fixed costs of one

_T = torch.Tensor
_RESHAPES = {
    _T.view,
    _T.reshape,
    _T.flatten,
    _T.unflatten,
    _T.unsqueeze,
    _T.expand,
    torch.flatten,
    torch.unflatten,
    torch.reshape,
    torch.unsqueeze,
}
# What is asked of a shape, a dtype or a device alone.
_ASKS = {
    getattr(_T, name).__get__ for name in ("shape", "ndim", "dtype", "device", "is_cuda", "layout", "is_sparse", "is_nested", "is_meta")
}
_ASKS |= {_T.size, _T.dim, _T.numel, _T.stride, _T.is_contiguous, _T.is_floating_point, _T.__len__, _T.new_zeros, _T.new_full, _T.new_empty}
_ASKS |= {torch.zeros_like, torch.ones_like, torch.full_like, torch.empty_like}


class Pending:
    """What a batch norm was asked for: its input [N, C, ...] and its own code. `behind`: dimensions behind the channels."""

    def __init__(self, norm, x, behind, own):
        self.norm, self.x, self.behind, self.own = norm, x, behind, own
        self.value = self.taken = None
        learns = any(t is not None and t.requires_grad for t in (x, norm.weight, norm.bias))
        self.has_gradient = torch.is_grad_enabled() and learns

    def computed(self):
        """What the batch norm's own code gives. Running statistics are brought up to date once, here or in `parts`."""
        if self.value is None:
            with torch.set_grad_enabled(self.has_gradient):
                self.value = self.own(self.x) if self.taken is None else self._again()
        return self.value

    def _again(self):
        n, flat = self.norm, self.x.flatten(0, -2 - self.behind)
        running = (None, None) if _by_batch(n) else (n.running_mean, n.running_var)
        return F.batch_norm(flat, *running, n.weight, n.bias, _by_batch(n), 0.0, n.eps).view_as(self.x)

    def parts(self):
        """(x, scale [C], shift [C]) with the gradient of what flows through the statistics; None where the value is there already."""
        if self.value is None and self.taken is None:
            with torch.set_grad_enabled(self.has_gradient):
                self.taken = self._parts()
        return self.taken if self.value is None else None

    def _parts(self):
        n, x = self.norm, self.x.flatten(0, -2 - self.behind).unsqueeze(0)
        if _by_batch(n):
            x, scale, shift, mean, var = Statistics.apply(x, n.weight, n.bias, n.eps)
            _count(n, mean, var, x.numel() // mean.numel())
        else:
            scale, shift = affine(n.running_mean.double(), (n.running_var.double() + n.eps).rsqrt(), n.weight, n.bias)
        return x.view_as(self.x), scale, shift


def _by_batch(norm):
    """Whether it normalises with the statistics of what it is given."""
    return norm.training or norm.running_mean is None or norm.running_var is None


def _count(norm, mean, var, n):
    """Brings the running statistics up to date, as torch.nn.BatchNorm does."""
    if not norm.training or not norm.track_running_stats or norm.running_mean is None:
        return
    norm.num_batches_tracked.add_(1)
    momentum = 1.0 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
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
                if func is _T.requires_grad.__get__:
                    return this.pending.has_gradient
                if func in _ASKS:
                    return func(this.like, *args[1:], **kwargs)
                if func in _RESHAPES:
                    like, kept = func(this.like, *args[1:], **kwargs), this.pending.behind + 1
                    if like.dim() > kept and like.shape[-kept:] == this.like.shape[-kept:]:
                        return Deferred(this.pending, like, (*this.changes, (func, args[1:], kwargs)))
            return func(*tree_map(computed, args), **tree_map(computed, kwargs))

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        _refuse(func)


def computed(value):
    """A Deferred's value; anything else as it is."""
    return value.changed(value.pending.computed()) if type(value) is Deferred else value


def likeness(x):
    """A tensor of x's shape, dtype and device, for whoever asks no more of it: x itself, or of what was not computed yet the batch norm's input."""
    return x.like if type(x) is Deferred else x


def fire(x, theta, *, v0=0.0, tau=None, w=None, **options):
    """`snnfast.iaf`, `lif` (tau) or `plif` (w) of x [T, ...], in one pass with the batch norm that x waits for."""
    other = any(options.get(name) for name in ("negative", "caps", "memory", "offset")) or options.get("unit", "volts") != "volts"
    if type(x) is Deferred and x.dim() > x.pending.behind + 1 and not other:
        parts = x.pending.parts()
        if parts is not None:
            options = {k: v for k, v in options.items() if k not in ("negative", "caps", "memory", "offset", "unit")}
            return normed_neuron(x.changed(parts[0]), *parts[1:], x.dim() - 1 - x.pending.behind, theta, v0, tau=tau, w=w, **options)
    x = computed(x)
    if w is not None:
        return plif(x, theta, w, v0, **options)
    return iaf(x, theta, v0, **options) if tau is None else lif(x, theta, tau, v0, **options)


class WaitingNorm:
    """Over the class of a batch norm: its forward waits."""

    kind = "batch norm that waits for its neuron"
    behind: int | None = None  # dimensions behind the channels; None where one or none may be

    def forward(self, x):
        behind = _behind(self, x)
        sized = isinstance(x, torch.Tensor) and type(x) in (torch.Tensor, torch.nn.Parameter) and behind is not None
        if not sized or torch.compiler.is_compiling() or torch.jit.is_tracing() or x.size(-1 - behind) != self.num_features:
            return super().forward(computed(x))
        if not x.is_floating_point() or (_by_batch(self) and x.numel() < max(2 * self.num_features, SMALL if self.training else 0)):
            return super().forward(x)
        return Deferred(Pending(self, x, behind, super().forward), x)


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
        return pool.dilation in (1, (1, 1)) and not pool.ceil_mode and not pool.return_indices

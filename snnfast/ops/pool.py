"""Max pooling that keeps a byte for each window: its op, and the public function `max_pool2d`."""

import math

import torch
from torch import Tensor

from snnfast import checks
from snnfast.engines import reference
from snnfast.engines.reference import pool
from snnfast.equations.functions.max_pool import Rule
from snnfast.ops import library

MOST_WINDOW = 255  # numbers of a window: `at` is a byte


def _fwd(x, rule):
    return pool.fwd(reference.max_pool, x, Rule(*rule))


def _bwd(dy, at, H, W, rule):
    return pool.bwd(dy, at, H, W, Rule(*rule))


pool_fwd = library.define("pool_fwd(Tensor x, int[] rule) -> (Tensor y, Tensor at)", _fwd)
pool_bwd = library.define("pool_bwd(Tensor dy, Tensor at, int H, int W, int[] rule) -> Tensor", _bwd)


def _fake_fwd(x, rule):
    shape = (x.size(0), *pool.spec(x.size(1), x.size(2), Rule(*rule)), x.size(3))
    return x.new_empty(shape), x.new_empty(shape, dtype=torch.uint8)


library.fake("pool_fwd", _fake_fwd)
library.fake("pool_bwd", lambda dy, at, H, W, rule: dy.new_empty((dy.size(0), H, W, dy.size(3))))


def _setup(ctx, inputs, output):
    x, ctx.rule = inputs
    ctx.size = x.shape[1:3]
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, dy, dat):
    (at,) = ctx.saved_tensors
    return _call_bwd(dy.contiguous(), at.view(-1), *ctx.size, ctx.rule), None


_call_fwd = library.autograd("pool_fwd", _backward, _setup)
_call_bwd = library.once_differentiable("pool_bwd")


def max_pool2d(
    x: Tensor, kernel_size: int | tuple[int, int], stride: int | tuple[int, int] | None = None, padding: int | tuple[int, int] = 0
) -> Tensor:
    """Max pooling, as torch.nn.functional.max_pool2d to the last bit, on any number of leading dimensions; of spikes, their OR.

    The backward keeps a byte for each window, where torch keeps x and eight. Of equal numbers of a window the first gets the gradient.

    Args:
        x: [..., C, H, W] such as [T, B, C, H, W]; fp16, bf16, fp32 or fp64. Contiguous and channels_last images are taken as they lie.
        kernel_size: rows and columns of a window, or one number for both; at most 255 numbers to a window.
        stride: from window to window; None for kernel_size.
        padding: rows and columns added at each border, at most half of kernel_size.

    Returns:
        [..., C, Ho, Wo], of x's dtype. The gradient of x, in half precision, is summed in fp32.

    Raises:
        ValueError, TypeError: naming the argument, what was given and what is allowed.

    >>> snnfast.max_pool2d(torch.tensor([[[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]]), 2).tolist()
    [[[1.0, 0.0]]]
    """
    x = checks.resolved(x)
    checks.tensor("x", x)
    if x.dim() < 3:
        raise ValueError(f"x must be [..., C, H, W], got shape {tuple(x.shape)}")
    (ky, kx), (py, px) = _pair("kernel_size", kernel_size), _pair("padding", padding, 0)
    sy, sx = (ky, kx) if stride is None else _pair("stride", stride)
    C, H, W = x.shape[-3:]
    if ky * kx > MOST_WINDOW:
        raise ValueError(f"kernel_size must hold at most {MOST_WINDOW} numbers, got {kernel_size}")
    if 2 * py > ky or 2 * px > kx:
        raise ValueError(f"padding must be at most half of kernel_size {kernel_size}, got {padding}")
    if H + 2 * py < ky or W + 2 * px < kx:
        raise ValueError(f"x must be images of at least kernel_size {kernel_size} with their padding {padding}, got {H} x {W}")
    images, rule = x.reshape(math.prod(x.shape[:-3]), C, H, W), [ky, kx, sy, sx, py, px]
    beside = C > 1 and not images.is_contiguous() and images.is_contiguous(memory_format=torch.channels_last)
    y, _ = _call_fwd(images.permute(0, 2, 3, 1) if beside else images.contiguous().view(-1, H, W, 1), rule)
    y = y.permute(0, 3, 1, 2) if beside else y.view(images.size(0), C, y.size(1), y.size(2))
    return y.reshape(*x.shape[:-3], *y.shape[1:])


def _pair(name, value, least=1):
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(f"{name} must be an int or two of them, got {value!r}")
        return tuple(checks.integer(name, v, least) for v in value)
    return (checks.integer(name, value, least),) * 2

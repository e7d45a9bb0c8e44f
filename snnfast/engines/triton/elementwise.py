"""The element-wise engine in Triton: `fwd` and `bwd` are the equation's, bound by `snnfast.engines.triton.kernel`.

Three facts of a launch are compile-time constants, because they decide how indices are computed and how wide memory is read:
one (a single threshold), small (every index is below 2^31; a division costs a third of one in 64 bits) and aligned (the runs of one
threshold, and N, are multiples of 16 elements).
"""

import triton
import triton.language as tl

RUN_TIME = ["N", "C", "inner", "outer"]


@triton.jit
def _program(small: tl.constexpr):
    """The program's index, in as many bits as the indices need."""
    if small:
        return tl.program_id(0)
    else:
        return tl.program_id(0).to(tl.int64)


@triton.jit
def _size(n, small: tl.constexpr, aligned: tl.constexpr):
    """A size in as many bits as the indices need, written so that the compiler sees that it is a multiple of 16 where it is."""
    if small:
        n = tl.cast(n, tl.int32)
    else:
        n = tl.cast(n, tl.int64)
    if aligned:
        n = n // 16 * 16
    return n


def fwd_kernel(
    x, theta, y, N, C, inner,
    k: tl.constexpr, one: tl.constexpr, small: tl.constexpr, aligned: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """x, y: [N]; element i has theta[(i // inner) % C]."""
    at = _program(small) * BLOCK + tl.arange(0, BLOCK)
    inside = at < _size(N, small, aligned)
    # x is loaded before the place of theta is computed, so that both loads are in flight together.
    xi = tl.load(x + at, inside, other=0.0, eviction_policy="evict_first")
    if one:
        th = tl.load(theta) + tl.zeros((BLOCK,), theta.dtype.element_ty)
    else:
        th = tl.load(theta + (at // _size(inner, small, aligned)) % _size(C, small, False), inside, other=1.0)
    y_at = fwd(xi.to(th.dtype), th, k)
    tl.store(y + at, y_at.to(y.dtype.element_ty), inside, eviction_policy="evict_first")


def bwd_kernel(
    dy, x, theta, dx, partial, N, C, inner, outer,
    k: tl.constexpr, one: tl.constexpr, small: tl.constexpr, aligned: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """x viewed as [outer, C, inner]. Program p C + c takes TILE of the outer * inner elements of threshold c, writes their dx, and
    their sum to partial[p, c]: stage one of dtheta, in a fixed order. C = 1 has outer = 1, inner = N."""
    C, inner = _size(C, small, False), _size(inner, small, aligned)
    c, p = _program(small) % C, _program(small) // C
    th = tl.load(theta + c)
    sums = tl.zeros((BLOCK,), th.dtype)
    stop = tl.minimum(_size(outer, small, False) * inner, (p + 1) * TILE)
    for j in range(0, tl.minimum(TILE, stop - p * TILE), BLOCK):
        e = p * TILE + j + tl.arange(0, BLOCK)
        inside = e < stop
        if one:
            at = e
        else:
            at = ((e // inner) * C + c) * inner + e % inner
        xi = tl.load(x + at, inside, other=0.0, eviction_policy="evict_first")
        dyi = tl.load(dy + at, inside, other=0.0, eviction_policy="evict_first").to(th.dtype)
        xi = xi.to(th.dtype)
        dxi, g = bwd(dyi, xi, th + tl.zeros_like(xi), k)
        tl.store(dx + at, dxi.to(dx.dtype.element_ty), inside, eviction_policy="evict_first")
        sums += tl.where(inside, g, 0.0)
    tl.store(partial + tl.program_id(0), tl.sum(sums, axis=0))

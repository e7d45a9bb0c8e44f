"""The element-wise engine in Triton: `fwd` and `bwd` are the equation's, bound by `snnfast.triton.kernel`."""

import triton.language as tl

RUN_TIME = ["N", "C", "inner", "outer", "rows"]


def fwd_kernel(x, theta, y, N, C, inner, k: tl.constexpr, BLOCK: tl.constexpr):
    """x, y: [N]; element i has theta[(i // inner) % C]."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < N
    th = tl.load(theta + (at // inner) % C, inside, other=1.0)
    y_at = fwd(tl.load(x + at, inside, other=0.0).to(th.dtype), th, k)
    tl.store(y + at, y_at.to(y.dtype.element_ty), inside)


def bwd_kernel(dy, x, theta, dx, partial, N, C, inner, outer, rows, k: tl.constexpr, BLOCK: tl.constexpr):
    """x viewed as [outer, C, inner]. Program (c, p) takes `rows` of the outer * inner elements of threshold c, writes their dx, and
    their sum to partial[p, c]: stage one of dtheta, in a fixed order. C = 1 has outer = 1, inner = N."""
    c = tl.program_id(0).to(tl.int64)
    p = tl.program_id(1).to(tl.int64)
    th = tl.load(theta + c)
    sums = tl.zeros((BLOCK,), th.dtype)
    many = tl.cast(outer, tl.int64) * inner
    stop = tl.minimum(many, (p + 1) * rows)
    for j in range(p * rows, stop, BLOCK):
        e = j + tl.arange(0, BLOCK).to(tl.int64)
        inside = e < stop
        at = ((e // inner) * C + c) * inner + e % inner
        xi = tl.load(x + at, inside, other=0.0).to(th.dtype)
        dxi, g = bwd(tl.load(dy + at, inside, other=0.0).to(th.dtype), xi, th + tl.zeros_like(xi), k)
        tl.store(dx + at, dxi.to(dx.dtype.element_ty), inside)
        sums += tl.where(inside, g, 0.0)
    tl.store(partial + p * C + c, tl.sum(sums, axis=0))

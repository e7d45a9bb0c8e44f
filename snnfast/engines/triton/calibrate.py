"""The calibrating loop in Triton: `start`, `unwatched`, `watch`, `shifted` are the equation's, bound by `snnfast.engines.triton.kernel`."""

import triton.language as tl

RUN_TIME = ["x_stride", "T", "N", "C", "inner"]


def fwd_kernel(x, theta, v0_out, x_stride, T, N, C, inner, v0: tl.constexpr, k: tl.constexpr, BLOCK: tl.constexpr):
    """x: [T, N] at x_stride (0 for a constant current); v0_out: [N]. A program takes a block of neurons through all T steps."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < N
    th = tl.load(theta + (at // inner) % C, inside, other=1.0)
    v = start(v0, th, k)
    n = tl.zeros_like(th)
    low, high = unwatched(th, k)
    row = x + at
    for _ in range(0, T):
        v, n, low, high = watch(v, n, low, high, tl.load(row, inside, other=0.0).to(th.dtype), th, k)
        row += tl.cast(x_stride, tl.int64)
    tl.store(v0_out + at, shifted(v, n, low, high, th, k), inside)

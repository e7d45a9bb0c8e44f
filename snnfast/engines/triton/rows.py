"""Functions of rows over time in Triton: out_t = f(X_t) - f(X_(t-1)); `apply` is the equation's, bound by `snnfast.engines.triton.kernel`."""

import triton.language as tl

RUN_TIME = ["T", "R", "C"]


def run_kernel(
    x, before, last, out, w, b, T, R, C, k: tl.constexpr, has_w: tl.constexpr, has_b: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr
):  # fmt: skip
    """x, out: [T, R, C]; before, last: [R, C]. A program takes ROWS rows of WIDE >= C columns, a power of two; state stays in registers."""
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    c = tl.arange(0, WIDE)
    inside = (r[:, None] < R) & (c[None, :] < C)
    at = r[:, None] * C + c[None, :]
    sums = tl.load(before + at, inside, other=0.0)
    shown = tl.load(last + at, inside, other=0.0)
    n = tl.zeros((ROWS, 1), sums.dtype) + C
    weight = sums * 0 + 1
    shift = sums * 0
    if has_w:
        weight = tl.load(w + c, c < C, other=0.0)[None, :] + shift
    if has_b:
        shift = tl.load(b + c, c < C, other=0.0)[None, :] + shift
    step = tl.cast(R, tl.int64) * C
    for t in range(0, T):
        sums = sums + tl.load(x + t * step + at, inside, other=0.0)
        y = apply(sums, c[None, :] + tl.zeros((ROWS, WIDE), tl.int32) < C, weight, shift, n, k)
        tl.store(out + t * step + at, y - shown, inside)
        shown = y
    tl.store(before + at, sums, inside)
    tl.store(last + at, shown, inside)

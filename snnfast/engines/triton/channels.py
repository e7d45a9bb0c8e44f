"""Channels in Triton: `add` and `corrected` are the equation's, bound by `snnfast.engines.triton.kernel`. x is seen as [outer, C, inner]."""

import triton.language as tl

RUN_TIME = ["N", "C", "inner", "outer"]


def sums_kernel(x, pivot, partial, C, inner, outer, TILE: tl.constexpr, BLOCK: tl.constexpr):
    """Program p C + c adds TILE of the outer * inner numbers of channel c, in fp64, and writes partial[p, :, c]: stage one, in a fixed order."""
    C, inner = tl.cast(C, tl.int64), tl.cast(inner, tl.int64)
    c, p = tl.program_id(0).to(tl.int64) % C, tl.program_id(0).to(tl.int64) // C
    from_ = tl.load(pivot + c)
    total, squares = tl.zeros((BLOCK,), tl.float64), tl.zeros((BLOCK,), tl.float64)
    stop = tl.minimum(tl.cast(outer, tl.int64) * inner, (p + 1) * TILE)
    for j in range(0, TILE, BLOCK):
        e = p * TILE + j + tl.arange(0, BLOCK)
        inside = e < stop
        xi = tl.load(x + ((e // inner) * C + c) * inner + e % inner, inside, other=0.0, eviction_policy="evict_first").to(tl.float64)
        total, squares = add(total, squares, tl.where(inside, xi, from_), from_)
    to = partial + p * 2 * C + c
    tl.store(to, tl.sum(total, axis=0))
    tl.store(to + C, tl.sum(squares, axis=0))


def add_kernel(y, x, line, N, C, inner, BLOCK: tl.constexpr):
    """y [N], in place; line: [2, C]."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < N
    of = (at // tl.cast(inner, tl.int64)) % tl.cast(C, tl.int64)
    q, p = tl.load(line + of, inside, other=0.0), tl.load(line + C + of, inside, other=0.0)
    xi, before = tl.load(x + at, inside, other=0.0).to(q.dtype), tl.load(y + at, inside, other=0.0).to(q.dtype)
    tl.store(y + at, corrected(before, xi, q, p).to(y.dtype.element_ty), inside)

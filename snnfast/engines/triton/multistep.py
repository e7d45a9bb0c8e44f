"""The time loop in Triton. One program takes a block of neurons through all T steps, its state in registers.

The canonical form is that of `snnfast.engines.reference.multistep`. T, N, C, inner and the row strides are run-time values: nothing is
compiled or tuned per shape. `step`, `start`, `step_bwd`, `start_bwd` are the equation's, bound by `snnfast.engines.triton.kernel`.
"""

import triton
import triton.language as tl

RUN_TIME = ["x_stride", "ds_stride", "T", "N", "W", "C", "inner"]


@triton.jit
def _pack(on, BLOCK: tl.constexpr):
    """[BLOCK] bool -> [BLOCK / 32] int32, neuron 32 w + j at bit j of word w."""
    bits = tl.reshape(on.to(tl.int32), (BLOCK // 32, 32)) << tl.arange(0, 32)[None, :]
    return tl.sum(bits, axis=1)


@triton.jit
def _emit(s, e, t, T, at, word, th, inside, N, W, kind: tl.constexpr, signed: tl.constexpr, BLOCK: tl.constexpr):
    """Writes the masked spikes e of step t. at: offsets of the block's neurons; word: offsets of its words."""
    t = tl.cast(t, tl.int64)
    if kind == "scaled":
        tl.store(s + t * N + at, (e * th).to(s.dtype.element_ty), inside, eviction_policy="evict_first")
    elif kind == "unit":
        tl.store(s + t * N + at, e.to(s.dtype.element_ty), inside, eviction_policy="evict_first")
    elif kind == "int8":
        tl.store(s + t * N + at, e.to(tl.int8), inside, eviction_policy="evict_first")
    elif kind == "bits":
        tl.store(s + t * W + word, _pack((e > 0) & inside, BLOCK), word < W)
        if signed:
            tl.store(s + (tl.cast(T, tl.int64) + t) * W + word, _pack((e < 0) & inside, BLOCK), word < W)


@triton.jit
def _keep(kept, v, n, t, at, inside, N, every: tl.constexpr, gates: tl.constexpr):
    """Stores the state before step t, where t is a multiple of `every`."""
    if every > 0:
        if t % every == 0:
            to = kept + tl.cast(t // every, tl.int64) * N * (2 if gates else 1) + at
            tl.store(to, v, inside)
            if gates:
                tl.store(to + N, n, inside)


@triton.jit
def _own(theta, at, inside, C, inner, many: tl.constexpr):
    """What the equation takes for theta, of the neurons `at`: a block, or a tuple of `many` where theta is [many, C]."""
    of = (at // inner) % C
    th = tl.load(theta + of, inside, other=1.0)
    if many == 1:
        return th
    else:
        own = (th,)
        for q in tl.static_range(1, many):
            own = own + (tl.load(theta + q * tl.cast(C, tl.int64) + of, inside, other=1.0),)
        return own


@triton.jit
def _first(own, many: tl.constexpr):
    """theta: `own` itself, or the first of its parameters."""
    if many == 1:
        return own
    else:
        return own[0]


@triton.jit
def _zeros(th, asked: tl.constexpr):
    """A tuple of `asked` blocks of zeros."""
    zeros = ()
    for _ in tl.static_range(asked):
        zeros = zeros + (tl.zeros_like(th),)
    return zeros


@triton.jit
def _added(shares, share, live, many: tl.constexpr, asked: tl.constexpr):
    """`shares` with a step's share of each of the last `asked` parameters added where the step is live."""
    if many == 1:
        return (tl.where(live, shares[0] + share, shares[0]),)
    else:
        added = ()
        for q in tl.static_range(asked):
            added = added + (tl.where(live, shares[q] + share[many - asked + q], shares[q]),)
        return added


def fwd_kernel(
    x, theta, v_in, count_in, mask, s, v_end, count_end, kept,
    x_stride, T, N, W, C, inner,
    v0: tl.constexpr, k: tl.constexpr, many: tl.constexpr, kind: tl.constexpr, has_v: tl.constexpr, has_count: tl.constexpr, has_mask: tl.constexpr,
    signed: tl.constexpr, gates: tl.constexpr, every: tl.constexpr, aligned: tl.constexpr,
    STEPS: tl.constexpr, STAGES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """x: [T, N] at x_stride (0 for a constant current); kept: [ceil(T/every), 1 or 2, N]; see `params.h` for the rest.

    aligned: N and x_stride are multiples of 16, so that every row lies on whole words of 16 bytes.
    """
    if aligned:  # written so that the compiler sees it
        x_stride = x_stride // 16 * 16
        N = N // 16 * 16
    pid = tl.program_id(0).to(tl.int64)
    at = pid * BLOCK + tl.arange(0, BLOCK)
    word = pid * (BLOCK // 32) + tl.arange(0, BLOCK // 32)
    inside = at < N
    acc: tl.constexpr = theta.dtype.element_ty
    own = _own(theta, at, inside, C, inner, many)
    th = _first(own, many)
    if has_v:
        v = tl.load(v_in + at, inside, other=0.0)
    else:
        v = start(v0, own, k)
    n = tl.zeros_like(th)
    if has_count:
        n = tl.load(count_in + at, inside, other=0).to(acc)
    first = n
    on = inside
    if has_mask:
        on = tl.load(mask + at, inside, other=0) != 0
    stride = tl.cast(x_stride, tl.int64)
    row = x + at
    whole = T - T % STEPS
    # The loads of STEPS rows are in flight before the first row is used; with STAGES > 1, also those of the next STAGES - 1 turns, to shared memory.
    for t in tl.range(0, whole, STEPS, num_stages=STAGES):
        xs = ()
        for i in tl.static_range(STEPS):
            xs = xs + (tl.load(row + i * stride, inside, other=0.0, eviction_policy="evict_first").to(acc),)
        row += STEPS * stride
        _keep(kept, v, n, t, at, inside, N, every, gates)
        for i in tl.static_range(STEPS):
            v, n, e = step(v, n, xs[i], own, k)
            if has_mask:
                e = tl.where(on, e, 0.0)
            _emit(s, e, t + i, T, at, word, th, inside, N, W, kind, signed, BLOCK)
    for t in range(whole, T):
        _keep(kept, v, n, t, at, inside, N, every, gates)
        v, n, e = step(v, n, tl.load(row, inside, other=0.0).to(acc), own, k)
        row += stride
        if has_mask:
            e = tl.where(on, e, 0.0)
        _emit(s, e, t, T, at, word, th, inside, N, W, kind, signed, BLOCK)
    tl.store(v_end + at, v, inside)
    tl.store(count_end + at, n.to(count_end.dtype.element_ty), inside)
    if kind == "count":
        tl.store(s + at, tl.where(on, n - first, 0.0).to(tl.int32), inside)


def bwd_kernel(
    ds, dv, x, theta, v_in, count_in, mask, kept, dx, dv_start, dtheta,
    ds_stride, x_stride, T, N, C, inner,
    v0: tl.constexpr, k: tl.constexpr, many: tl.constexpr, has_ds: tl.constexpr, has_dv: tl.constexpr, has_v: tl.constexpr, has_count: tl.constexpr,
    has_mask: tl.constexpr, gates: tl.constexpr, constant: tl.constexpr, every: tl.constexpr, asked: tl.constexpr,
    aligned: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Segment by segment of `every` steps from the last: forward from the kept state, then the adjoint, all in registers.

    aligned: N and both strides are multiples of 16.
    """
    if aligned:  # written so that the compiler sees it
        x_stride = x_stride // 16 * 16
        ds_stride = ds_stride // 16 * 16
        N = N // 16 * 16
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < N
    acc: tl.constexpr = theta.dtype.element_ty
    own = _own(theta, at, inside, C, inner, many)
    th = _first(own, many)
    on = inside
    if has_mask:
        on = tl.load(mask + at, inside, other=0) != 0
    c = tl.zeros_like(th)
    if has_dv:
        c = tl.load(dv + at, inside, other=0.0)
    shares = _zeros(th, asked)
    total = tl.zeros_like(th)
    stride, dstride = tl.cast(x_stride, tl.int64), tl.cast(ds_stride, tl.int64)
    segments = (T + every - 1) // every
    for j in range(0, segments):
        r = segments - 1 - j
        first = tl.cast(r * every, tl.int64)
        left = T - first + at * 0  # one value per lane, as masks are
        from_ = kept + tl.cast(r, tl.int64) * N * (2 if gates else 1) + at
        v = tl.load(from_, inside, other=0.0)
        n = tl.zeros_like(th)
        if gates:
            n = tl.load(from_ + N, inside, other=0.0)
        # The loads of the segment's x and ds are in flight before the first is used: a load behind a store of dx would wait for the store. In fp64
        # these values would not fit the registers, so ds is loaded when it is used.
        xs, dys = (), ()
        for i in tl.static_range(every):
            xs = xs + (tl.load(x + (first + i) * stride + at, inside & (i < left), other=0.0, eviction_policy="evict_first"),)
        for i in tl.static_range(every):
            if has_ds and acc != tl.float64:
                dyi = tl.load(ds + (first + i) * dstride + at, on & (i < left), other=0.0, eviction_policy="evict_first")
                dys = dys + (dyi,)
        vs, ns = (), ()
        for i in tl.static_range(every):
            vs, ns = vs + (v,), ns + (n,)
            v, n, _ = step(v, n, xs[i].to(acc), own, k)
        for i in tl.static_range(every - 1, -1, -1):
            live = inside & (i < left)
            dy = tl.zeros_like(th)
            if has_ds:
                if acc == tl.float64:
                    dy = tl.load(ds + (first + i) * dstride + at, on & live, other=0.0, eviction_policy="evict_first")
                else:
                    dy = dys[i].to(acc)
            before, dxi, share = step_bwd(c, dy, vs[i], ns[i], xs[i].to(acc), own, k)
            c = tl.where(live, before, c)
            shares = _added(shares, share, live, many, asked)
            if constant:
                total = tl.where(live, total + dxi, total)
            else:
                tl.store(dx + (first + i) * N + at, dxi.to(dx.dtype.element_ty), live, eviction_policy="evict_first")
    if constant:
        tl.store(dx + at, total.to(dx.dtype.element_ty), inside)
    tl.store(dv_start + at, c, inside)
    first_share = shares[0]
    if asked == many and not has_v:  # theta's share: the start voltage depends on theta too
        first_share = first_share + start_bwd(c, v0, own, k)
    tl.store(dtheta + at, first_share, inside)
    for q in tl.static_range(1, asked):
        tl.store(dtheta + q * tl.cast(N, tl.int64) + at, shares[q], inside)

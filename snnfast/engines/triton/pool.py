"""Max pooling in Triton: `better` is the equation's. Forward, a lane is a window; backward, a number, which asks the windows around it."""

import triton.language as tl

RUN_TIME = ["N", "H", "W", "C", "Ho", "Wo"]


def fwd_kernel(
    x, y, at, N, H, W, C, Ho, Wo,
    KY: tl.constexpr, KX: tl.constexpr, SY: tl.constexpr, SX: tl.constexpr, PY: tl.constexpr, PX: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """N: windows, [P, Ho, Wo, C] of them."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    real = i < N
    c, place = i % C, i // C
    ox, oy, image = place % Wo, place // Wo % Ho, place // Wo // Ho
    top, left = oy * SY - PY, ox * SX - PX
    wide = tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32
    largest = tl.full((BLOCK,), float("-inf"), wide)
    which = tl.maximum(-top, 0) * KX + tl.maximum(-left, 0)
    for ky in tl.static_range(KY):
        for kx in tl.static_range(KX):
            inside = real & (top + ky >= 0) & (top + ky < H) & (left + kx >= 0) & (left + kx < W)
            v = tl.load(x + ((image * H + top + ky) * W + left + kx) * C + c, inside, other=float("-inf")).to(wide)
            takes = better(v, largest)
            largest, which = tl.where(takes, v, largest), tl.where(takes, ky * KX + kx, which)
    tl.store(y + i, largest.to(y.dtype.element_ty), real)
    tl.store(at + i, which.to(tl.uint8), real)


def bwd_kernel(
    dy, at, dx, N, H, W, C, Ho, Wo,
    KY: tl.constexpr, KX: tl.constexpr, SY: tl.constexpr, SX: tl.constexpr, PY: tl.constexpr, PX: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """N: numbers of the images, [P, H, W, C]."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    real = i < N
    c, place = i % C, i // C
    w, h, image = place % W, place // W % H, place // W // H
    y, x = h + PY, w + PX
    wide = tl.float64 if dy.dtype.element_ty == tl.float64 else tl.float32
    total = tl.zeros((BLOCK,), wide)
    for back_y in tl.static_range((KY - 1) // SY, -1, -1):  # the windows in their order
        for back_x in tl.static_range((KX - 1) // SX, -1, -1):
            oy, ox = y // SY - back_y, x // SX - back_x
            ky, kx = y - oy * SY, x - ox * SX
            inside = real & (oy >= 0) & (oy < Ho) & (ox >= 0) & (ox < Wo) & (ky < KY) & (kx < KX)
            from_ = ((image * Ho + oy) * Wo + ox) * C + c
            mine = tl.load(at + from_, inside, other=255).to(tl.int64) == ky * KX + kx
            total += tl.load(dy + from_, inside & mine, other=0.0).to(wide)
    tl.store(dx + i, total.to(dx.dtype.element_ty), real)

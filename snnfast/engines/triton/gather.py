"""The gathering loop in Triton: `add` is the equation's, bound by `snnfast.engines.triton.kernel`. Zeros add nothing, but take their time."""

import triton.language as tl

RULE = ["stride_y", "stride_x", "padding_y", "padding_x", "dilation_y", "dilation_x"]
RUN_TIME = ["R", "H", "W", "C", "KY", "KX", "O", "Ho", "Wo", *RULE, "groups"]


def fwd_kernel(
    x, w, bias, y, R, H, W, C, KY, KX, O, Ho, Wo, stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,  # noqa: E741
    groups, has_bias: tl.constexpr, grouped: tl.constexpr, PLACES: tl.constexpr, PANEL: tl.constexpr,
):  # fmt: skip
    """x: [R, H, W, groups C]; w: [KY, KX, C, O]; bias: [O]; y: [R, Ho, Wo, O]. A program takes some places and a panel of output channels.

    grouped: whether there are several groups.
    """
    program = tl.program_id(0).to(tl.int64)
    panels = (O + PANEL - 1) // PANEL
    place = program // panels * PLACES + tl.arange(0, PLACES)
    o = program % panels * PANEL + tl.arange(0, PANEL)
    row, i, j = place // Wo // Ho, place // Wo % Ho, place % Wo
    first = o // (O // groups) * C  # the channels of an output's group
    there = place < tl.cast(R, tl.int64) * Ho * Wo
    if has_bias:
        total = tl.broadcast_to(tl.load(bias + o, o < O, other=0.0)[None, :], [PLACES, PANEL])  # a sum with 0 would lose the sign of -0
    else:
        total = tl.zeros([PLACES, PANEL], x.dtype.element_ty)
    for ky in range(0, KY):
        for kx in range(0, KX):
            at_y, at_x = i * stride_y + ky * dilation_y - padding_y, j * stride_x + kx * dilation_x - padding_x
            inside = there & (at_y >= 0) & (at_y < H) & (at_x >= 0) & (at_x < W)
            inputs = x + ((row * H + at_y) * W + at_x) * C * groups
            weights = w + (tl.cast(ky, tl.int64) * KX + kx) * C * O + o
            for c in range(0, C):
                if grouped:
                    one = tl.load(inputs[:, None] + (first + c)[None, :], inside[:, None] & (o < O)[None, :], other=0.0)
                else:
                    one = tl.load(inputs + c, inside, other=0.0)[:, None]
                weight = tl.load(weights + tl.cast(c, tl.int64) * O, o < O, other=0.0)[None, :]
                total = tl.where(one != 0.0, add(total, one, weight), total)
    tl.store(y + place[:, None] * O + o[None, :], total, there[:, None] & (o < O)[None, :])

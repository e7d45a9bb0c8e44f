"""The exact product in Triton: three int8 products on tensor cores, whose int32 sums are joined.

A program makes `PLACES` places of `PANEL` outputs of a group. A block of inputs is read once for the three limbs of the weights. Groups of few
channels, depthwise ones among them, are added up tap by tap instead, each output by itself.
"""

import triton.language as tl

from snnfast.engines.triton.gather import RULE

RUN_TIME = ["R", "H", "W", "Ho", "Wo", "groups", *RULE]


def fwd_kernel(
    s, w, bias, scale, y, R, H, W, Ho, Wo, O, C, groups, stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,  # noqa: E741
    KY: tl.constexpr, KX: tl.constexpr, whole: tl.constexpr, PLACES: tl.constexpr, PANEL: tl.constexpr, DEEP: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """s: [R, H, W, groups C] int8; w: [3, O, KY, KX, C] int8; bias: [O] int32; scale: [O] fp32; y: [R, Ho, Wo, O] fp32.

    whole: whether C is a multiple of `DEEP` and a group's outputs of `PANEL`, so that no block is cut.
    """
    program = tl.program_id(0).to(tl.int64)
    outputs = O // groups
    panels = (outputs + PANEL - 1) // PANEL
    place = program // (panels * groups) * PLACES + tl.arange(0, PLACES)
    group = (program // panels % groups).to(tl.int32)
    inside_group = (program % panels).to(tl.int32) * PANEL + tl.arange(0, PANEL)
    o = group * outputs + inside_group
    deep = tl.arange(0, DEEP)
    there, wanted = place < tl.cast(R, tl.int64) * Ho * Wo, inside_group < outputs
    inside_row = (place % (tl.cast(Ho, tl.int64) * Wo)).to(tl.int32)
    row = s + place // (tl.cast(Ho, tl.int64) * Wo) * H * W * C * groups + group * C
    at_y, at_x = inside_row // Wo * stride_y - padding_y, inside_row % Wo * stride_x - padding_x
    taps = KY * KX
    slabs = (C + DEEP - 1) // DEEP
    weights = w + tl.cast(o, tl.int64)[None, :] * taps * C + deep[:, None]
    limb = tl.cast(O, tl.int64) * taps * C
    low = tl.zeros([PLACES, PANEL], tl.int32)
    middle = tl.zeros([PLACES, PANEL], tl.int32)
    high = tl.zeros([PLACES, PANEL], tl.int32)
    for turn in tl.range(0, taps * slabs, num_stages=STAGES):
        tap, c = turn // slabs, turn % slabs * DEEP
        i, j = at_y + tap // KX * dilation_y, at_x + tap % KX * dilation_x
        good = there & (i >= 0) & (i < H) & (j >= 0) & (j < W)
        inputs = row[:, None] + ((i * W + j) * C * groups + c)[:, None] + deep[None, :]
        from_w = weights + (tap * C + c)
        if whole:
            a = tl.load(inputs, good[:, None], other=0)
            low = tl.dot(a, tl.load(from_w), low, out_dtype=tl.int32)
            middle = tl.dot(a, tl.load(from_w + limb), middle, out_dtype=tl.int32)
            high = tl.dot(a, tl.load(from_w + 2 * limb), high, out_dtype=tl.int32)
        else:
            left = deep < C - c
            a = tl.load(inputs, good[:, None] & left[None, :], other=0)
            kept = left[:, None] & wanted[None, :]
            low = tl.dot(a, tl.load(from_w, kept, other=0), low, out_dtype=tl.int32)
            middle = tl.dot(a, tl.load(from_w + limb, kept, other=0), middle, out_dtype=tl.int32)
            high = tl.dot(a, tl.load(from_w + 2 * limb, kept, other=0), high, out_dtype=tl.int32)
    total = low + (middle << 8) + (high << 16) + tl.load(bias + o, wanted, other=0)[None, :]
    current = total.to(tl.float32) * tl.load(scale + o, wanted, other=0.0)[None, :]
    tl.store(y + place[:, None] * O + o[None, :], current, there[:, None] & wanted[None, :])


def few_kernel(
    s, w, bias, scale, y, R, H, W, Ho, Wo, O, C, groups, stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,  # noqa: E741
    KY: tl.constexpr, KX: tl.constexpr, PLACES: tl.constexpr, PANEL: tl.constexpr,
):  # fmt: skip
    """As `fwd_kernel`, for groups of few channels."""
    program = tl.program_id(0).to(tl.int64)
    panels = (O + PANEL - 1) // PANEL
    place = program // panels * PLACES + tl.arange(0, PLACES)
    o = (program % panels).to(tl.int32) * PANEL + tl.arange(0, PANEL)
    there, wanted = place < tl.cast(R, tl.int64) * Ho * Wo, o < O
    inside_row = (place % (tl.cast(Ho, tl.int64) * Wo)).to(tl.int32)
    row = s + place // (tl.cast(Ho, tl.int64) * Wo) * H * W * C * groups
    at_y, at_x = inside_row // Wo * stride_y - padding_y, inside_row % Wo * stride_x - padding_x
    taps = KY * KX
    first = o // (O // groups) * C  # the channels of an output's group
    weights = w + tl.cast(o, tl.int64) * taps * C
    limb = tl.cast(O, tl.int64) * taps * C
    total = tl.zeros([PLACES, PANEL], tl.int32) + tl.load(bias + o, wanted, other=0)[None, :]
    for tap in range(0, taps):
        i, j = at_y + tap // KX * dilation_y, at_x + tap % KX * dilation_x
        good = there & (i >= 0) & (i < H) & (j >= 0) & (j < W)
        inputs = row[:, None] + ((i * W + j) * C * groups)[:, None] + first[None, :]
        for c in range(0, C):
            one = tl.load(inputs + c, good[:, None] & wanted[None, :], other=0).to(tl.int32)
            at = weights + (tap * C + c)
            low = tl.load(at, wanted, other=0).to(tl.int32)
            middle = tl.load(at + limb, wanted, other=0).to(tl.int32)
            high = tl.load(at + 2 * limb, wanted, other=0).to(tl.int32)
            total += one * (low + (middle << 8) + (high << 16))[None, :]
    current = total.to(tl.float32) * tl.load(scale + o, wanted, other=0.0)[None, :]
    tl.store(y + place[:, None] * O + o[None, :], current, there[:, None] & wanted[None, :])

"""Exact products in plain torch: sums of integers below 2^53 are exact in fp64 in any order, so the convolution over spikes computes them in fp64.

s is [R, H, W, G C] (rows are images times steps, G groups), int8, or fp32 in which per_unit [1] or [G C] values are one; bias int32 [O], scale
fp32 [O]; y is fp32 [R, Ho, Wo, O]. The integers of the weights lie as their engine reads them: int8 [limbs, O, KY, KX, C] for tensor cores, else
int32 [KY, KX, C, O].
"""

import torch

from snnfast.engines.reference.gather import places

BLOCK = 1 << 20  # values in fp64 at a time


def sizes_of(w):
    """(KY, KX, C, O)"""
    return tuple(w.shape) if w.dtype == torch.int32 else (*w.shape[2:], w.size(1))


def spec(s, w, k):
    """The shape of y."""
    KY, KX, _, O = sizes_of(w)  # noqa: E741
    return s.size(0), *places(s, (KY, KX), k), O


def units(eq, s, per_unit):
    """s as whole numbers, int8."""
    return eq.units(s, per_unit).to(torch.int8) if s.dtype == torch.float32 else s


def fwd(eq, convolution, s, per_unit, w, bias, scale, out, k):
    """convolution: (x [R, H, W, C], w [KY, KX, C, O], bias, *k) -> y, all fp64; called on few rows at a time, so that the fp64 values stay small."""
    weight = w.double() if w.dtype == torch.int32 else eq.whole(w).permute(1, 2, 3, 0).contiguous()
    bias = bias.double()
    many = max(1, BLOCK // max(1, s[:1].numel(), out[:1].numel()))
    for x, y in zip(s.split(many), out.split(many)):
        y.copy_(eq.current(convolution(units(eq, x, per_unit).double(), weight, bias, *k), scale))
    return out

"""The start voltage that COS calibrates: the definition.

Over the first rho inputs, integrate-and-fire from v0 = 1/2 is watched (u before reset, v after, n spikes, J the threshold in the unit of v):

    low  = least u of the steps that fired           high = greatest u of the steps that did not (-1000 J if all fired)

and then the start voltage that shifts the spike train by one spike, in units of theta:

    v < 0 and n > 0:  v0 = 1/2 - max(1, low/J - 0.999)        one spike too many: begin lower
    v >= J:           v0 = 1/2 + max(1, 1.001 - high/J)       one too few: begin higher, by at most max_shift
    else:             v0 = 1/2

(Hao et al., "Bridging the gap between ANNs and SNNs by calibrating offset spikes", ICLR 2023, theorem 1 and its authors' program.) The result is
what `snnfast.iaf` takes as v0 for all T steps. C++ twin: `csrc/equations/neurons/cos.h`.
"""

from typing import NamedTuple

from snnfast.equations.neurons.iaf import charge, jump, start  # noqa: F401  (start: the engine calls it)


class Rule(NamedTuple):
    """The numbers of one launch."""

    normalised: bool = False
    max_shift: float = float("inf")


def watch(v, n, low, high, x, theta, k):
    """One time step: (v, n, low, high) after it."""
    j = jump(theta, k)
    u = charge(v, x, theta, k)
    up = u >= j
    low = where(up & (u < low), u, low)
    high = where((u < j) & (u > high), u, high)
    s = where(up, 1.0, 0.0)
    return u - s * j, n + s, low, high


def unwatched(theta, k):
    """(low, high) before the first step."""
    j = jump(theta, k)
    return j * 1000, j * -1000


def shifted(v, n, low, high, theta, k):
    """The calibrated v0."""
    j = jump(theta, k)
    half, one = splat(theta, 0.5), splat(theta, 1.0)
    down = div(low, j) - 0.999
    down = where(down > 1, down, one)
    rise = 1.001 - div(high, j)
    rise = where(rise > 1, rise, one)
    rise = where(rise > k.max_shift, splat(theta, k.max_shift), rise)
    # A membrane that is NaN shows.
    return where(v == v, where((v < 0) & (n > 0), half - down, where(v >= j, half + rise, half)), v)

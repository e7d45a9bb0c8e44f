"""Integrate-and-fire that may send several quanta in one step: the definition. theta is the quantum, s a whole number, y = s theta.

    u = v + x,  z = u/theta          volts            u = v + x/theta,  z = u          normalised
    0 <= s <= hi = m                 negative "none"
    lo <= s <= hi                    "stbif", with lo = max(-m, n_min - n), hi = min(m, p_max - n), the room that the count leaves; lo <= 0 <= hi

    ladder "uniform"    s = min(floor z, hi) where z >= 1 ;  max(floor z, lo) where z < 0 ;  else 0
    ladder "power"      |s| = 2^j, the largest with 0.75 2^j <= |z| and 2^j <= m, hi or -lo, where there is one ;  else 0

    v = u - s theta (volts), u - s (normalised) ;  n = n + s

before the first step v = v0 theta (volts) or v0 (normalised). m = 1 on the uniform ladder is the neuron of `iaf.py`, with "stbif" too. `power(a)`
is the power of two 2^j with 0.75 2^j <= a < 1.5 2^j, and 0 of 0. What others call it:

    group neuron     uniform, m members with theta/m (Lv et al., "Optimal ANN-SNN conversion with group neurons", ICASSP 2024, eq. 8)
    burst spikes     uniform, theta the threshold (Wang et al., "Adaptive calibration", AAAI 2025)
    ST-BIF           uniform, "stbif", m = 1 (You et al., "SpikeZIP-TF", ICML 2024)
    multi-threshold  power, m = 2^(thresholds - 1), theta the least of them (Huang et al., "Differential coding", ICML 2025)

The derivative of s. Uniform: h(z - r) at the rung r nearest to z among those in reach, lo < r <= hi. Power: h((t - 0.75 A)/A) at the amplitude A in
reach that t is nearest to, t = |z|, or z where s is never below 0. 0 where none is in reach. h is the surrogate of `iaf.py`, in units of theta.
C++ twin: `csrc/equations/neurons/quanta.h`.
"""

from typing import Literal, NamedTuple

from snnfast.equations.neurons.iaf import charge, height, jump, start, start_bwd

__all__ = ["Rule", "gates", "start", "start_bwd", "step", "step_bwd"]


class Rule(NamedTuple):
    """The numbers of one launch."""

    m: int = 1
    ladder: Literal["uniform", "power"] = "uniform"
    normalised: bool = True
    negative: Literal["none", "stbif"] = "none"
    n_min: float = 0.0
    p_max: float = float("inf")
    surrogate: Literal["zif", "triangle", "rectangle", "atan", "sigmoid", "box"] = "zif"
    gamma: float = 1.0
    detach_reset: bool = False


def gates(k):
    """Whether the count decides anything: it is what limits negative spikes."""
    return k.negative != "none"


def units(u, theta, k):
    """z, the potential in quanta."""
    if k.normalised:
        return u
    else:
        return div(u, theta)


def reach(n, k):
    """(lo, hi): what s may be after n quanta."""
    zero = splat(n, 0.0)
    most = splat(n, k.m)
    if k.negative == "none":
        return zero, most
    else:
        hi = k.p_max - n
        hi = where(hi < most, hi, most)
        lo = k.n_min - n
        lo = where(lo > -most, lo, -most)
        return where(lo < 0, lo, zero), where(hi > 0, hi, zero)


def amplitude(t, k):
    """The power of two that t >= 0 is nearest to, of numbers that are not beyond the ladder."""
    most = splat(t, 2.0 * k.m)
    return power(where(t < most, t, most))


def fire(z, lo, hi, k):
    zero = splat(z, 0.0)
    if k.ladder == "uniform":
        f = floor(z)
        up = where(z >= 1, where(f < hi, f, hi), zero)
        if k.negative == "none":
            return up
        else:
            return where(z < 0, where(f > lo, f, lo), up)
    else:
        a = amplitude(where(z < 0, -z, z), k)
        most = power(hi * 0.75)
        up = where(z >= 0.75, where(a < most, a, most), zero)
        if k.negative == "none":
            return up
        else:
            most = power(lo * -0.75)
            return where(z <= -0.75, 0.0 - where(a < most, a, most), up)


def step(v, n, x, theta, k):
    u = charge(v, x, theta, k)
    lo, hi = reach(n, k)
    s = fire(units(u, theta, k), lo, hi, k)
    return u - s * jump(theta, k), n + s, s


def slope(z, lo, hi, k):
    """ds/dz."""
    one = splat(z, 1.0)
    zero = splat(z, 0.0)
    if k.ladder == "uniform":
        r = floor(z + 0.5)
        r = where(r < hi, r, hi)
        r = where(r > lo + 1, r, lo + 1)
        return where(lo < hi, height(z - r, one, k), zero)
    else:
        most = power(hi * 0.75)
        t = z
        if k.negative != "none":
            most = where(z < 0, power(lo * -0.75), most)
            t = where(z < 0, -z, z)
        a = amplitude(where(t < 0.75, one, t), k)
        a = where(a < most, a, most)
        a = where(a > 1, a, one)
        return where(most > 0, height(div(t - a * 0.75, a), one, k), zero)


def step_bwd(c, dy, v, n, x, theta, k):
    """One step of the adjoint, as in `iaf.py`; lo and hi are constants."""
    z = units(charge(v, x, theta, k), theta, k)
    lo, hi = reach(n, k)
    s = fire(z, lo, hi, k)
    h = slope(z, lo, hi, k)
    if k.normalised:
        g = dy * theta
        if not k.detach_reset:
            g = g - c
        du = c + g * h
        dx = div(du, theta)
        return du, dx, dy * s - dx * div(x, theta)
    else:
        # ds/du = h/theta, ds/dtheta = -h z/theta
        g = dy
        if not k.detach_reset:
            g = dy - c
        g = g * h
        du = c + g
        return du, du, (dy - c) * s - g * z

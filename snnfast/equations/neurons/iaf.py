"""Integrate-and-fire with reset, negative spikes and caps: the definition.

One time step, for one neuron (u before reset, v after, n the net spike count, s the spike):

    u  = v + x                 volts            u = v + x/theta       normalised      `snnfast/equations/neurons/lif.py` with a leak (tau)
    s  = +1 if u >= J and n < p_max             J = theta (volts) or 1 (normalised); u > J if strict; u + offset J in place of u if offset
         -1 if u <  0  and n > n_min            negative "stbif"  (ST-BIF, SpikeZIP-TF, You et al. 2024)
         -1 if u <= -J and n > n_min            negative "snm"    (signed neuron with memory, Wang et al. 2022)
          0 otherwise
    v  = u - s J               soft reset       v = v_reset where s != 0, else u      hard reset
    n  = n + s ;   y = s theta mask             n = n + s theta in floating point if memory: what SNM's authors gate with

and before the first step v = v0 theta (volts) or v0 (normalised). With v0 = 1/2 the rate of T spikes is the QCFS activation
(Bu et al., "Optimal ANN-SNN conversion for high-accuracy and ultra-low-latency spiking neural networks", ICLR 2022, eq. 6-8).

The functions are written in bare operators and the names `where`, `div`, `exp`, `splat` (a number on every lane), which every engine binds to its own
(torch's for the reference, Triton's for the GPU); `csrc/equations/neurons/iaf.h` is the same ten lines in C++.
Shapes: every lane argument has the shape of a block of neurons; `k` is one `Rule` for the launch.
"""

from typing import Literal, NamedTuple

from snnfast.equations.neurons.lif import leak, leak_bwd


class Rule(NamedTuple):
    """The numbers of one launch. All are compile-time constants for Triton, plain numbers elsewhere."""

    normalised: bool = False
    strict: bool = False
    hard: bool = False
    v_reset: float = 0.0
    negative: Literal["none", "stbif", "snm"] = "none"
    n_min: float = 0.0
    p_max: float = float("inf")
    surrogate: Literal["zif", "triangle", "rectangle", "atan", "sigmoid", "box"] = "zif"
    gamma: float = 1.0
    detach_reset: bool = False
    memory: bool = False
    offset: float = 0.0
    tau: float = 0.0
    decay_input: bool = True
    product: bool = True


def gates(k):
    """Whether the count decides anything, so that the backward needs it: only negative spikes have caps."""
    return k.negative != "none"


def start(v0, theta, k):
    if k.normalised:
        return splat(theta, v0)
    else:
        return v0 * theta


def charge(v, x, theta, k):
    if k.normalised:
        return v + div(x, theta)
    else:
        return v + x


def drive(v, x, theta, k):
    """u, the potential before the reset."""
    if k.tau != 0:
        return leak(v, x, theta, k)
    else:
        return charge(v, x, theta, k)


def lift(u, j, k):
    """What is compared with the upper threshold."""
    if k.offset != 0:
        return u + j * k.offset
    else:
        return u


def jump(theta, k):
    if k.normalised:
        return splat(theta, 1.0)
    else:
        return theta


def fire(u, n, theta, k):
    j = jump(theta, k)
    if k.strict:
        up = lift(u, j, k) > j
    else:
        up = lift(u, j, k) >= j
    if k.negative == "none":
        return where(up, 1.0, 0.0)
    else:
        if k.negative == "stbif":
            down = u < 0
        else:
            down = u <= -j
        s = where(up & (n < k.p_max), 1.0, 0.0)
        return where(down & (n > k.n_min), -1.0, s)


def step(v, n, x, theta, k):
    return discharge(drive(v, x, theta, k), n, theta, k)


def discharge(u, n, theta, k):
    """(v, n, s) after the potential u: the spike and the reset."""
    s = fire(u, n, theta, k)
    if k.hard:
        v = where(s == 0, u, splat(theta, k.v_reset))
    else:
        v = u - s * jump(theta, k)
    if k.memory:
        n = n + s * theta
    else:
        n = n + s
    return v, n, s


def height(a, theta, k):
    """h = ds/du at a = u - threshold: what stands for the derivative of a spike."""
    zero = splat(theta, 0.0)
    m = where(a < 0, -a, a)
    if k.surrogate == "zif":
        m = k.gamma - m
        return where(m > 0, m, zero) * (1.0 / (k.gamma * k.gamma))
    elif k.surrogate == "triangle":
        j = jump(theta, k)
        m = j - m
        return div(div(where(m > 0, m, zero), j), j)
    elif k.surrogate == "rectangle":
        return where(m <= k.gamma, zero + 0.5 / k.gamma, zero)
    elif k.surrogate == "box":
        return where(m < k.gamma, zero + 0.5 / k.gamma, zero)
    elif k.surrogate == "atan":
        w = a * (1.5707963267948966 * k.gamma)
        return div(zero + 0.5 * k.gamma, w * w + 1)
    else:
        g = div(zero + 1, exp(a * (-k.gamma)) + 1)
        return g * (1 - g) * k.gamma


def step_bwd(c, dy, v, n, x, theta, k):
    """One step of the adjoint, run from the last step to the first.

    c: gradient of v after the step; dy: gradient of y, already masked; v, n: the state before the step.
    Returns c for the step before, dx, and this step's share of dtheta.
    """
    u = drive(v, x, theta, k)
    du, s, share = discharge_bwd(c, dy, u, n, theta, k)
    if k.normalised:
        # The threshold stands in z = x/theta and y = s theta alone.
        dx = div(du, theta)
        return du, dx, dy * s - dx * div(x, theta)
    elif k.tau != 0:
        before, dx = leak_bwd(du, theta, k)
        return before, dx, share
    else:
        return du, du, share


def discharge_bwd(c, dy, u, n, theta, k):
    """(gradient of the potential u, the spike, share of dtheta in volts) from c, the gradient of v after the step, and dy."""
    s = fire(u, n, theta, k)
    j = jump(theta, k)
    zero = splat(theta, 0.0)
    # s = [u >= j] - [u < down]: each threshold brings its own h; the gates of the count are constants.
    h_up = height(lift(u, j, k) - j, theta, k)
    h_down = zero
    d_down = zero
    rise = 1.0 - k.offset  # d(threshold of u)/d(theta)
    if k.negative != "none":
        h_up = where(n < k.p_max, h_up, zero)
        if k.negative == "snm":
            h_down = where(n > k.n_min, height(u + j, theta, k), zero)
            d_down = h_down
        else:
            h_down = where(n > k.n_min, height(u, theta, k), zero)
    g = dy * theta
    if k.hard:
        du = where(s == 0, c, zero)
        direct = dy * s
        r = zero
        if not k.detach_reset:
            r = c * (k.v_reset - u)
        du = du + g * (h_up + h_down) + r * (h_up - h_down)
        through = g * (d_down - rise * h_up) - r * (rise * h_up + d_down)
    else:
        direct = (dy - c) * s
        if not k.detach_reset:
            if k.normalised:
                g = g - c
            else:
                g = (dy - c) * theta
        du = c + g * (h_up + h_down)
        through = g * (d_down - rise * h_up)
    return du, s, direct + through


def start_bwd(c, v0, theta, k):
    """dtheta's share of the start v0 theta, from c, the gradient of v before the first step."""
    if k.normalised:
        return splat(theta, 0.0)
    else:
        return c * v0

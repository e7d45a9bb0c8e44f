"""Batch norm and the neuron behind it in one step: the definition.

The current is normalised on its way in. With scale and shift of the neuron's channel,

    y = x scale + shift         scale = weight / sqrt(var + eps), shift = bias - mean scale

and y is the current of the neuron: of `iaf.py` in volts, of `lif.py` with a leak (tau), or with `learnt` of `plif.py`, whose rho = 1/tau is learnt.
From dy, the gradient of y:

    dx = dy scale ;   dscale = dy x ;   dshift = dy

mean and var are constants here. In training they depend on x: `snnfast/ops/norm_neuron.py` adds what flows through them (Ioffe and Szegedy,
"Batch normalization", ICML 2015). C++ twin: `csrc/equations/neurons/norm_neuron.h`.
"""

from typing import Literal, NamedTuple

from snnfast.equations.neurons.iaf import discharge, discharge_bwd, drive
from snnfast.equations.neurons.lif import leak_bwd
from snnfast.equations.neurons.plif import above, drive_learnt

parameters = ("theta", "rho", "scale", "shift")


class Rule(NamedTuple):
    """The numbers of one launch: those of `iaf.py` in their order, a learnt leak, and how many of the last parameters have a gradient."""

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
    learnt: bool = False
    asked: int = 4


def gates(k):
    """The count decides nothing: there are no negative spikes."""
    return False


def asked(k):
    """scale and shift alone where theta and rho are numbers."""
    return k.asked


def start(v0, own, k):
    theta, rho, scale, shift = own
    return v0 * theta


def charged(v, y, theta, rho, k):
    """u, the potential before the reset."""
    if k.learnt:
        return drive_learnt(v, y, rho, k)
    else:
        return drive(v, y, theta, k)


def step(v, n, x, own, k):
    theta, rho, scale, shift = own
    return discharge(charged(v, x * scale + shift, theta, rho, k), n, theta, k)


def step_bwd(c, dy, v, n, x, own, k):
    """One step of the adjoint, as in `iaf.py`; the share is (dtheta, drho, dscale, dshift)."""
    theta, rho, scale, shift = own
    y = x * scale + shift
    du, _, dtheta = discharge_bwd(c, dy, charged(v, y, theta, rho, k), n, theta, k)
    drho = splat(theta, 0.0)
    if k.learnt:
        before = du * (1.0 - rho)
        if k.decay_input:
            current = du * rho
            drho = du * (y - above(v, k))
        else:
            current = du
            drho = du * -above(v, k)
    elif k.tau != 0:
        before, current = leak_bwd(du, theta, k)
    else:
        before, current = du, du
    return before, current * scale, (dtheta, drho, current * x, current)


def start_bwd(c, v0, own, k):
    """theta's share of the start v0 theta; the others have none."""
    return c * v0

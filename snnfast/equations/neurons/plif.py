"""Parametric leaky integrate-and-fire: the definition. Beside theta a neuron has rho = 1/tau, and both are learnt.

With r = v_reset for a hard reset, 0 for a soft one, the potential before the reset is, in this order of operations,

    u = v + (x - (v - r)) rho       decay_input
    u = v (1 - rho) + x             not decay_input, product (and r = 0)
    u = v - (v - r) rho + x         not decay_input, otherwise

(Fang et al., "Incorporating learnable membrane time constant to enhance learning of spiking neural networks", ICCV 2021, eq. 6-7; rho = sigmoid(w).)
It is a product with rho, where `lif.py` divides by tau. Spike and reset are those of `iaf.py` in volts.

From du, the gradient of u:

    dv = du (1 - rho) ;   dx = du rho, drho = du (x - (v - r))      decay_input
                          dx = du,     drho = du (r - v)            otherwise

`parameters` says that `theta` is a tuple of so many per-neuron numbers; so is the share of their gradient. C++ twin: `csrc/equations/neurons/plif.h`.
"""

from snnfast.equations.neurons.iaf import Rule, discharge, discharge_bwd

__all__ = ["Rule", "gates", "parameters", "start", "start_bwd", "step", "step_bwd"]

parameters = ("theta", "rho")


def gates(k):
    """The count decides nothing: there are no negative spikes."""
    return False


def start(v0, own, k):
    theta, rho = own
    return v0 * theta


def above(v, k):
    """v - r, the potential above the one that it decays to."""
    if k.hard:
        return v - k.v_reset
    else:
        return v


def drive_learnt(v, x, rho, k):
    """u, the potential before the reset."""
    if k.decay_input:
        return v + (x - above(v, k)) * rho
    elif k.product:
        return v * (1.0 - rho) + x
    else:
        return v - above(v, k) * rho + x


def step(v, n, x, own, k):
    theta, rho = own
    return discharge(drive_learnt(v, x, rho, k), n, theta, k)


def step_bwd(c, dy, v, n, x, own, k):
    """One step of the adjoint, as in `iaf.py`; the share is (dtheta, drho)."""
    theta, rho = own
    du, _, dtheta = discharge_bwd(c, dy, drive_learnt(v, x, rho, k), n, theta, k)
    if k.decay_input:
        dx = du * rho
        drho = du * (x - above(v, k))
    else:
        dx = du
        drho = du * -above(v, k)
    return du * (1.0 - rho), dx, (dtheta, drho)


def start_bwd(c, v0, own, k):
    """theta's share of the start v0 theta; rho has none."""
    return c * v0

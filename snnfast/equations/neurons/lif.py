"""The leak of a leaky integrate-and-fire neuron: the definition. All else of the neuron is `snnfast/equations/neurons/iaf.py`, in volts.

With r = v_reset for a hard reset, 0 for a soft one, the potential before the reset is, in this order of operations,

    u = v + (x - (v - r))/tau       decay_input
    u = v (1 - 1/tau) + x           not decay_input, product (and r = 0)
    u = v - (v - r)/tau + x         not decay_input, otherwise

The last two are the same function but for rounding: SpikingJelly computed the first until its version 0.0.0.0.14 and the second in 2.0.
du/dv = 1 - 1/tau; du/dx = 1/tau with decay_input, else 1. C++ twin: `csrc/equations/neurons/lif.h`.
"""


def leak(v, x, theta, k):
    if k.hard:
        r = splat(theta, k.v_reset)
    else:
        r = splat(theta, 0.0)
    tau = splat(theta, k.tau)
    if k.decay_input:
        return v + div(x - (v - r), tau)
    elif k.product:
        return v * (1.0 - 1.0 / k.tau) + x
    else:
        return v - div(v - r, tau) + x


def leak_bwd(du, theta, k):
    """(gradient of v before the step, gradient of x) from that of u."""
    before = du * (1.0 - 1.0 / k.tau)
    if k.decay_input:
        return before, div(du, splat(theta, k.tau))
    else:
        return before, du

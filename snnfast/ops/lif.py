"""The leaky integrate-and-fire neuron: the public function `lif`. Its op is `iaf`'s, with a leak."""

from snnfast.ops.iaf import OPS, rule_of


def lif(
    x, theta=1.0, tau=2.0, v0=0.0, *, decay_input=True, product=True, T=None, reset="soft", v_reset=0.0, spikes="scaled", mask=None, state=None,
    surrogate="zif", gamma=None, detach_reset=False, out=None, state_out=None,
):  # fmt: skip
    """Leaky integrate-and-fire over all T steps in one launch.

    Equivalent to (soft reset; `snnfast/equations/neurons/lif.py` has every form)::

        v = v0 * theta
        for t in range(T):
            v = v + (x[t] - v) / tau  # decay_input; else v * (1 - 1/tau) + x[t]
            s = (v >= theta).to(v.dtype)
            v = v - s * theta
            y[t] = s * theta

    Args:
        x, theta, v0, T, reset, v_reset, spikes, mask, state, surrogate, gamma, detach_reset, out, state_out: as in `snnfast.iaf`. A neuron with a
            hard reset decays towards v_reset.
        tau: time constant in steps, >= 1.
        decay_input: whether the leak divides the input too.
        product: without decay_input and with v_reset = 0, v (1 - 1/tau) + x (True; SpikingJelly until 0.0.0.0.14) or v - v/tau + x (SpikingJelly
            2.0).

    Returns:
        (s, state), as `snnfast.iaf`. Gradients reach x, theta, v0 (as a tensor) and state.v.

    Raises:
        ValueError, TypeError: naming the argument, what was given and what is allowed.
    """
    rule = rule_of(
        reset, v_reset, surrogate=surrogate, gamma=gamma, detach_reset=detach_reset, tau=tau, decay_input=decay_input, product=product
    )
    return OPS(x, theta, v0, rule, T=T, spikes=spikes, mask=mask, state=state, out=out, state_out=state_out)

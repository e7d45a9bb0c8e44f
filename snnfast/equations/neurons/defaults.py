"""What a neuron's equation may leave out: a start at v0 theta, and its derivative.

v = v0 theta          dtheta += c v0, with c the gradient of v before the first step
"""


def start(v0, theta, k):
    return v0 * theta


def start_bwd(c, v0, theta, k):
    return c * v0

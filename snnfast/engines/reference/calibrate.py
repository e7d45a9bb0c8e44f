"""The calibrating loop in plain torch: watches a neuron over T steps and gives the start voltage of each, [N].

x is [T, N], or [1, N] for a constant current; theta is [C] and neuron i has theta[(i // inner) % C].
"""

import torch

from snnfast.engines.reference.multistep import row, spread


def fwd(eq, x, theta, T, inner, v0, k):
    th = spread(theta, inner, x.size(1))
    low, high = eq.unwatched(th, k)
    v, n = eq.start(v0, th, k), torch.zeros_like(th)
    for t in range(T):
        v, n, low, high = eq.watch(v, n, low, high, row(x, t, th.dtype), th, k)
    return eq.shifted(v, n, low, high, th, k).contiguous()

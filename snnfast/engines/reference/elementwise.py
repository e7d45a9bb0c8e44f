"""The element-wise engine in plain torch: the semantics of every activation op.

x is [N] in memory order; theta is [C] in fp32 (fp64 for fp64 input) and element i has theta[(i // inner) % C].
"""

from snnfast.engines.reference.multistep import spread


def fwd(eq, x, theta, inner, k):
    th = spread(theta, inner, x.numel())
    return eq.fwd(x.to(th.dtype), th, k).to(x.dtype)


def bwd(eq, dy, x, theta, inner, k):
    """dx, and dtheta [C] summed over the elements that share a threshold."""
    th = spread(theta, inner, x.numel())
    dx, dtheta = eq.bwd(dy.to(th.dtype), x.to(th.dtype), th, k)
    C = theta.numel()
    shape = (1, 1, x.numel()) if C == 1 else (x.numel() // (C * inner), C, inner)
    return dx.to(x.dtype), dtheta.view(shape).sum((0, 2))

"""QCFS, the quantised clip-floor-shift activation: the definition.

    q(x) = theta * floor(L clamp(x/theta, 0, 1) + 1/2) / L

(Bu et al., ICLR 2022, eq. 12; L = `levels`.) Computed in this order: z = x/theta, floor(z L + 1/2) of the clamped z,
divided by L, times theta. The derivative of floor is taken as that of its argument; where that is done before or after the clamp
is the knob `grad`, with z = x/theta and k = floor(L z + 1/2):

    grad      dx = dy, dtheta = dy (q/theta - z)      dtheta = dy         else 0
    "qcfs"    0 <= z <= 1                             z > 1               (QCFS authors' program)
    "srp"     0 <= k <= L                             k > L               (SRP authors' program)
    "paper"   0 <= k <= L - 1                         k >= L              (as the papers print it)

Written in bare operators and `where`, `div`, `floor`, which every engine binds to its own; C++ twin: `csrc/equations/activations/qcfs.h`.
"""

from typing import Literal, NamedTuple


class Rule(NamedTuple):
    """The numbers of one launch."""

    levels: int = 4
    grad: Literal["qcfs", "srp", "paper"] = "qcfs"


def quantise(z, theta, k):
    """floor(L clamp(z, 0, 1) + 1/2) / L; NaN passes, as through torch.clamp."""
    z = where(z < 0, splat(theta, 0.0), z)
    z = where(z > 1, splat(theta, 1.0), z)
    return div(floor(z * k.levels + 0.5), splat(theta, k.levels))


def fwd(x, theta, k):
    return quantise(div(x, theta), theta, k) * theta


def bwd(dy, x, theta, k):
    """Returns dx and this element's share of dtheta."""
    z = div(x, theta)
    f = floor(z * k.levels + 0.5)
    if k.grad == "qcfs":
        inside = (z >= 0) & (z <= 1)
        above = z > 1
    elif k.grad == "srp":
        inside = (f >= 0) & (f <= k.levels)
        above = f > k.levels
    else:
        inside = (f >= 0) & (f < k.levels)
        above = f >= k.levels
    # Outside, 0; a quotient that is NaN shows.
    outside = where(z == z, splat(theta, 0.0), z)
    dtheta = where(above, dy, outside)
    return where(inside, dy, outside), where(inside, dy * (quantise(z, theta, k) - z), dtheta)

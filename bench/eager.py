"""What the QCFS authors' users write: the loop over time, and the activation with a straight-through floor."""

import torch


def loop(x, theta):
    """Integrate-and-fire as the QCFS authors' users write it."""
    v, out = 0.5 * theta, []
    for t in range(x.size(0)):
        v = v + x[t]
        s = (v >= theta).to(x.dtype) * theta
        v = v - s
        out.append(s)
    return torch.stack(out)


def qcfs_eager(x, theta, L=4):
    """The eager formula with a straight-through floor, as the QCFS authors' users write it."""
    z = torch.clamp(x / theta, 0, 1) * L + 0.5
    return (z + (torch.floor(z) - z).detach()) / L * theta

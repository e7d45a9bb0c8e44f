"""The neurons' loops as the users of each method run them: one line of torch after another, over all steps. Written from the definitions.

x: currents [T, N]; theta: a number. Each returns s theta, [T, N] (COS and SRP: of the T steps that count). What is timed as a peer also checks ours.
"""

import torch
from eager import loop


def if_loop(x, theta):
    return loop(x, theta)


def lif_loop(x, theta, tau=2.0, decay_input=True):
    """Soft reset, v + (x - v)/tau, or v (1 - 1/tau) + x."""
    v, out = torch.zeros_like(x[0]), []
    for t in range(x.size(0)):
        v = v + (x[t] - v) / tau if decay_input else v * (1 - 1 / tau) + x[t]
        s = (v >= theta).to(x.dtype)
        v = v - s * theta
        out.append(s * theta)
    return torch.stack(out)


def snm_loop(x, theta):
    """Signed neuron with memory, with whole counts: from theta/2 and -theta on (Wang et al., IJCAI 2022)."""
    v, n, out = torch.full_like(x[0], 0.5 * theta), torch.zeros_like(x[0]), []
    for t in range(x.size(0)):
        v = v + x[t]
        s = (v >= theta).to(x.dtype) - ((v <= -theta) & (n > 0)).to(x.dtype)
        v, n = v - s * theta, n + s
        out.append(s * theta)
    return torch.stack(out)


def stbif_loop(x, theta, levels=15):
    """Signed bipolar neuron with a spike tracer: n, the spikes so far, stays within 0 and `levels` (SpikeZIP-TF, ICML 2024)."""
    v, n, z, out = torch.full_like(x[0], 0.5), torch.zeros_like(x[0]), x / theta, []
    for t in range(x.size(0)):
        v = v + z[t]
        s = ((v >= 1) & (n < levels)).to(x.dtype) - ((v < 0) & (n > 0)).to(x.dtype)
        v, n = v - s, n + s
        out.append(s * theta)
    return torch.stack(out)


def quanta_loop(x, theta, m, signed):
    """Up to m quanta of theta a step, and with `signed` negative ones while the count is above 0."""
    v, n, z, out = torch.full_like(x[0], 0.5), torch.zeros_like(x[0]), x / theta, []
    for t in range(x.size(0)):
        v = v + z[t]
        s = torch.where(
            v >= 1, v.floor().clamp(max=m), torch.where(v < 0, torch.maximum(v.floor(), -n.clamp(max=m)), 0 * v) if signed else 0 * v
        )
        v, n = v - s, n + s
        out.append(s * theta)
    return torch.stack(out)


def srp_loop(x, theta, tau=4):
    """tau steps first, whose residual potentials say who may emit; then all steps of x, the first tau of which those were (Hao et al., AAAI 2023)."""
    v, z, out = torch.full_like(x[0], 0.5), x / theta, []
    for t in range(tau):
        v = v + z[t]
        v = v - (v >= 1).to(x.dtype)
    mask = (v > 1e-3).to(x.dtype)
    v = torch.full_like(x[0], 0.5)
    for t in range(x.size(0)):
        v = v + z[t]
        s = (v >= 1).to(x.dtype)
        v = v - s
        out.append(s * mask * theta)
    return torch.stack(out)


def cos_loop(x, theta, rho=4):
    """rho steps whose potentials calibrate the start voltages, then all steps (Hao et al., ICLR 2023)."""
    z = x / theta
    v, n = torch.full_like(x[0], 0.5), torch.zeros_like(x[0])
    least, most = torch.full_like(x[0], 1000.0), torch.full_like(x[0], -1000.0)
    for t in range(rho):
        v = v + z[t]
        s = (v >= 1).to(x.dtype)
        least = torch.where(s > 0, torch.minimum(least, v), least)
        most = torch.where(s > 0, most, torch.maximum(most, v))
        v, n = v - s, n + s
    down, up = 0.5 - torch.clamp(least - 0.999, min=1), 0.5 + torch.clamp(1.001 - most, min=1)
    v = torch.where((v < 0) & (n > 0), down, torch.where(v >= 1, up, torch.full_like(v, 0.5)))
    out = []
    for t in range(x.size(0)):
        v = v + z[t]
        s = (v >= 1).to(x.dtype)
        v = v - s
        out.append(s * theta)
    return torch.stack(out)

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


class _Spike(torch.autograd.Function):
    """[a >= 0], as the QCFS authors' program calls it."""

    @staticmethod
    def forward(ctx, a, gama):
        ctx.save_for_backward(a)
        return (a >= 0).to(a.dtype)  # float() in fp32

    @staticmethod
    def backward(ctx, g):
        (a,) = ctx.saved_tensors
        return g * (1 - a.abs()).clamp(min=0), None


def spike(a):
    """[a >= 0] with the gradient max(1 - |a|, 0)."""
    return _Spike.apply(a, 1.0)


def trained_loop(x, theta):
    """The loop with a gradient through its spikes, max(1 - |v - theta|, 0)."""
    v, out = 0.5 * theta, []
    for t in range(len(x)):
        v = v + x[t]
        s = spike(v - theta) * theta
        v = v - s
        out.append(s)
    return torch.stack(out)


def trained_lif_loop(x, theta, tau=2.0):
    """The same of a leaky neuron whose leak divides the input."""
    v, out = torch.zeros_like(x[0]), []
    for t in range(len(x)):
        v = v + (x[t] - v) / tau
        s = spike(v - theta) * theta
        v = v - s
        out.append(s)
    return torch.stack(out)


class AuthorsIF(torch.nn.Module):
    """A module with the attributes and arithmetic of the QCFS authors' neuron, written from its definition: [T*B, ...], a loop over time."""

    def __init__(self, T, L, thresh, gama=1.0):
        super().__init__()
        self.T, self.L, self.gama, self.act = T, L, gama, _Spike.apply
        self.thresh = torch.nn.Parameter(torch.tensor([thresh]))

    def forward(self, x):
        if self.T == 0:
            return qcfs_eager(x, self.thresh, self.L)
        x, theta, out = x.view(self.T, -1, *x.shape[1:]), self.thresh.data.to(x.dtype), []
        v = 0.5 * theta
        for t in range(self.T):
            v = v + x[t]
            s = self.act(v - theta, self.gama) * theta
            v = v - s
            out.append(s)
        return torch.stack(out).flatten(0, 1).contiguous()


def trained_plif_loop(x, theta):
    """The same of a leaky neuron whose time constant is a parameter, 1/tau = sigmoid(w), which gets a gradient too."""
    w = torch.zeros((), device=x.device, requires_grad=True)
    v, rho, out = torch.zeros_like(x[0]), torch.sigmoid(w), []
    for t in range(len(x)):
        v = v + (x[t] - v) * rho
        s = spike(v - theta) * theta
        v = v - s
        out.append(s)
    return torch.stack(out)

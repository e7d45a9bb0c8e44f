"""The work that others do, and how: the neurons' loops as the users of each method write them, and for `peers.py` who does which work.

A loop is one line of torch after another, written from its definition. x: currents [T, N]; theta: a number; each returns s theta, [T, N] (COS and
SRP: of the T steps that count). What is timed as a peer also checks ours.

A way is a name and a builder, (T, N, device) -> function of x [T, N] that gives s theta, or `Cannot`, with the reason. Works that are trained have
the triangular surrogate max(1 - |v - theta|, 0) and a gradient through the reset: the authors' loops, torch.compile of them, SpikingJelly, snnTorch,
norse, and snnfast.
"""

import functools
import importlib

import torch

import snnfast

# ---- loops without a gradient


def loop(x, theta):
    """Integrate-and-fire as the QCFS authors' users write it."""
    v, out = 0.5 * theta, []
    for t in range(x.size(0)):
        v = v + x[t]
        s = (v >= theta).to(x.dtype) * theta
        v = v - s
        out.append(s)
    return torch.stack(out)


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


# ---- activations and loops with one


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


THETA = 0.75
COMPILED = 64  # steps: `scaling.py` tells how long the compiler, which unrolls the loop, takes for more


class Cannot(Exception):
    """Why somebody does not do a row."""


def package(name):
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise Cannot(f"not installed: {error}") from None


# ---- the ways


def eager(loop, **rule):
    return lambda T, N, device: lambda x: loop(x, THETA, **rule)


def compiled(loop, **rule):
    def build(T, N, device):
        if T > COMPILED:
            raise Cannot(f"not tried beyond {COMPILED} steps: the compiler unrolls the loop")
        torch._dynamo.reset()
        f = torch.compile(functools.partial(loop, **rule))
        return lambda x: f(x, THETA)

    return build


def jelly_node(name, v0, **options):
    """A neuron of SpikingJelly in multi-step mode."""

    def build(T, N, device):
        surrogate = package("spikingjelly.activation_based.surrogate").PiecewiseQuadratic(alpha=1.0)
        node = getattr(package("spikingjelly.activation_based.neuron"), name)(
            v_threshold=THETA, v_reset=None, step_mode="m", surrogate_function=surrogate, **options
        )

        def run(x):
            node.reset()
            node.v = torch.full_like(x[0], v0 * THETA)
            return node(x) * THETA

        return run

    return build


def jelly_aware(T, N, device):
    neuron = package("spikingjelly.activation_based.neuron")
    theta = torch.full((N,), THETA, device=device)
    node = neuron.ActivationAwareIFNode(theta, 0.5 * theta, channel_dim=-1, v_reset=None, step_mode="m").to(device)

    def run(x):
        node.reset()
        return node(x) * THETA

    return run


def jelly_function(T, N, device):
    functional = package("spikingjelly.activation_based.functional")
    return lambda x: functional.if_multi_step(x, torch.full_like(x[0], 0.5 * THETA), THETA, None)[0] * THETA


def jelly_stbif(T, N, device):
    functional = package("spikingjelly.activation_based.functional")
    scalars = [torch.tensor(value, device=device) for value in (THETA, 15.0, 0.0)]
    return lambda x: functional.stbif_multi_step(x, torch.full_like(x[0], 0.5), torch.zeros_like(x[0]), *scalars)[0]


def snntorch(beta, v0, **options):
    def build(T, N, device):
        node = package("snntorch").Leaky(beta=beta, threshold=THETA, reset_mechanism="subtract", spike_grad=spike, **options).to(device)

        def run(x):
            mem, out = torch.full_like(x[0], v0 * THETA), []
            for step in x:
                spikes, mem = node(step, mem)
                out.append(spikes)
            return torch.stack(out) * THETA

        return run

    return build


def norse_lif(T, N, device):
    lif_box, reset = (package(f"norse.torch.functional.{name}") for name in ("lif_box", "reset"))
    p = lif_box.LIFBoxParameters(
        tau_mem_inv=torch.tensor(500.0, device=device), v_th=torch.tensor(THETA, device=device), method="triangle", alpha=1.0,
        reset_method=reset.reset_subtract,
    )  # fmt: skip

    def run(x):
        state, out = lif_box.LIFBoxFeedForwardState(v=torch.zeros_like(x[0])), []
        for step in x:
            spikes, state = lif_box.lif_box_feed_forward_step(step, state, p, dt=0.001)
            out.append(spikes)
        return torch.stack(out) * THETA

    return run


def cannot(why):
    def build(T, N, device):
        raise Cannot(why)

    return build


def srp(x):
    _, state = snnfast.iaf(x[:4], THETA, unit="normalised", spikes="count")
    return snnfast.iaf(x, THETA, unit="normalised", mask=state.v > 1e-3)[0]


def cos(x):
    return snnfast.iaf(x, THETA, v0=snnfast.cos_start(x[:4], THETA, unit="normalised"), unit="normalised")[0]


def plif(x):
    return snnfast.plif(x, THETA, torch.zeros((), device=x.device, requires_grad=True))[0]


NONE = {who: [(who, cannot("has no such neuron"))] for who in ("SpikingJelly", "snnTorch", "norse")}


def loop_of(loop, **rule):
    return {"authors' loop": [("loop", eager(loop, **rule))], "torch.compile": [("loop", compiled(loop, **rule))]}


# For each work: ours, then for each peer the ways it has (the fastest counts).
WORKS = {
    "IF": (lambda x: snnfast.iaf(x, THETA)[0], loop_of(loop) | {
        "SpikingJelly": [("IFNode", jelly_node("IFNode", 0.5)), ("if_multi_step", jelly_function), ("ActivationAwareIFNode", jelly_aware)],
        "snnTorch": [("Leaky", snntorch(1.0, 0.5))], "norse": [("IAF", cannot("its integrate-and-fire resets to a value, not by subtraction"))],
    }),
    "LIF, input divided": (lambda x: snnfast.lif(x, THETA, 2.0)[0], loop_of(lif_loop) | {
        "SpikingJelly": [("LIFNode", jelly_node("LIFNode", 0.0, tau=2.0, decay_input=True))],
        "snnTorch": [("Leaky", cannot("its leak does not divide the input"))], "norse": [("LIFBox", norse_lif)],
    }),
    "LIF": (lambda x: snnfast.lif(x, THETA, 2.0, decay_input=False)[0], loop_of(lif_loop, decay_input=False) | {
        "SpikingJelly": [("LIFNode", jelly_node("LIFNode", 0.0, tau=2.0, decay_input=False))],
        "snnTorch": [("Leaky", snntorch(0.5, 0.0, reset_delay=False))], "norse": [("LIFBox", cannot("its leak divides the input"))],
    }),
    "SRP, tau = 4": (srp, loop_of(srp_loop) | NONE),
    "COS, rho = 4": (cos, loop_of(cos_loop) | NONE),
    "SNM": (lambda x: snnfast.iaf(x, THETA, negative="snm")[0], loop_of(snm_loop) | NONE),
    "ST-BIF, 16 levels": (lambda x: snnfast.iaf(x, THETA, negative="stbif", caps=(0, 15), unit="normalised")[0],
        loop_of(stbif_loop) | NONE | {"SpikingJelly": [("stbif_multi_step", jelly_stbif)]}),
    "IF, forward + backward": (lambda x: snnfast.iaf(x, THETA)[0], loop_of(trained_loop) | {
        "SpikingJelly": [("IFNode", jelly_node("IFNode", 0.5))], "snnTorch": [("Leaky", snntorch(1.0, 0.5))],
        "norse": [("IAF", cannot("its integrate-and-fire resets to a value, not by subtraction"))],
    }),
    "LIF, input divided, forward + backward": (lambda x: snnfast.lif(x, THETA, 2.0)[0], loop_of(trained_lif_loop) | {
        "SpikingJelly": [("LIFNode", jelly_node("LIFNode", 0.0, tau=2.0, decay_input=True))],
        "snnTorch": [("Leaky", cannot("its leak does not divide the input"))], "norse": [("LIFBox", norse_lif)],
    }),
    "PLIF, forward + backward": (plif, loop_of(trained_plif_loop) | {
        "SpikingJelly": [("ParametricLIFNode", jelly_node("ParametricLIFNode", 0.0, init_tau=2.0, decay_input=True))],
        "snnTorch": [("Leaky", cannot("its leak does not divide the input"))],
        "norse": [("LIFBox", cannot("its time constant is no parameter"))],
    }),
}  # fmt: skip


def trained(work):
    """Whether the work is forward and backward."""
    return work.endswith("forward + backward")

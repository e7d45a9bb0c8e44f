"""Who does which work, for `peers.py`: the authors' loops, torch.compile of them, SpikingJelly, snnTorch, norse, and snnfast.

A way is a name and a builder, (T, N, device) -> function of x [T, N] that gives s theta, or `Cannot`, with the reason. Works that
are trained have the triangular surrogate max(1 - |v - theta|, 0) and a gradient through the reset.
"""

import functools
import importlib

import loops
import torch
from eager import spike, trained_lif_loop, trained_loop, trained_plif_loop

import snnfast

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
    "IF": (lambda x: snnfast.iaf(x, THETA)[0], loop_of(loops.if_loop) | {
        "SpikingJelly": [("IFNode", jelly_node("IFNode", 0.5)), ("if_multi_step", jelly_function), ("ActivationAwareIFNode", jelly_aware)],
        "snnTorch": [("Leaky", snntorch(1.0, 0.5))], "norse": [("IAF", cannot("its integrate-and-fire resets to a value, not by subtraction"))],
    }),
    "LIF, input divided": (lambda x: snnfast.lif(x, THETA, 2.0)[0], loop_of(loops.lif_loop) | {
        "SpikingJelly": [("LIFNode", jelly_node("LIFNode", 0.0, tau=2.0, decay_input=True))],
        "snnTorch": [("Leaky", cannot("its leak does not divide the input"))], "norse": [("LIFBox", norse_lif)],
    }),
    "LIF": (lambda x: snnfast.lif(x, THETA, 2.0, decay_input=False)[0], loop_of(loops.lif_loop, decay_input=False) | {
        "SpikingJelly": [("LIFNode", jelly_node("LIFNode", 0.0, tau=2.0, decay_input=False))],
        "snnTorch": [("Leaky", snntorch(0.5, 0.0, reset_delay=False))], "norse": [("LIFBox", cannot("its leak divides the input"))],
    }),
    "SRP, tau = 4": (srp, loop_of(loops.srp_loop) | NONE),
    "COS, rho = 4": (cos, loop_of(loops.cos_loop) | NONE),
    "SNM": (lambda x: snnfast.iaf(x, THETA, negative="snm")[0], loop_of(loops.snm_loop) | NONE),
    "ST-BIF, 16 levels": (lambda x: snnfast.iaf(x, THETA, negative="stbif", caps=(0, 15), unit="normalised")[0],
        loop_of(loops.stbif_loop) | NONE | {"SpikingJelly": [("stbif_multi_step", jelly_stbif)]}),
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

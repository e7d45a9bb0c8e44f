"""The pictures of docs/concepts.md: what a neuron's rate is of its current, what is left in its potential, and how the order of inputs matters.

python examples/concepts.py concepts.png
"""

import sys

import torch
from matplotlib.figure import Figure

import snnfast


def rates(axes):
    """A neuron's rate after T steps of a constant current z, beside the activation of L levels."""
    z = torch.linspace(-0.25, 1.4, 661)
    for T in (4, 16, 64):
        axes.plot(z, snnfast.iaf(z, 1.0, T=T)[0].mean(0), label=f"rate after T = {T}")
    axes.plot(z, snnfast.qcfs(z, torch.tensor([1.0]), 4), "k--", linewidth=1, label="QCFS, L = 4")
    axes.set(xlabel="current z", ylabel="of theta", title="rates are a staircase")
    axes.legend(fontsize=8)


def potential(axes):
    """The potential of one neuron, and its spikes."""
    x = torch.full((16, 1), 0.3)
    state, v, spikes = None, [0.5], []
    for step in x:
        s, state = snnfast.iaf(step[None], 1.0, state=state)
        v.append(float(state.v))
        spikes.append(float(s))
    axes.step(range(17), v, where="post", label="v after each step")
    fired = [t + 1 for t, s in enumerate(spikes) if s]
    axes.plot(fired, [1.0] * len(fired), "k|", markersize=12, label="a spike, of size theta")
    axes.axhline(1.0, color="0.7", linewidth=1)
    axes.set(xlabel="step", ylabel="of theta", title="what is left in v is not lost", ylim=(-0.05, 1.45))
    axes.legend(fontsize=8, loc="upper right")


def order(axes):
    """The same 8 spikes in, weights of both signs, in every other order: what comes out after 8 steps."""
    torch.manual_seed(0)
    weights = torch.tensor([1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0, 0.5])
    orders = torch.stack([weights[torch.randperm(8)] for _ in range(4000)], 1)
    out = snnfast.iaf(orders, 1.0)[0].sum(0)
    axes.hist(out.numpy(), bins=[k - 0.5 for k in range(6)], rwidth=0.8)
    axes.axvline(float(weights.sum()), color="k", linestyle="--", label="the sum of the inputs")
    axes.set(xlabel="spikes out", ylabel="orders of the same inputs", title="the order of the inputs matters")
    axes.legend(fontsize=8)


def main(path):
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    for draw, axes in zip((rates, potential, order), figure.subplots(1, 3)):
        draw(axes)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "concepts.png")

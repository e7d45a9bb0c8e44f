"""What spiking transformers share: spiking self attention, and convolutions and linear layers over tokens. Tokens are x [T, B, C, N].

q, k and v are spikes; with h heads of d = C/h channels, for each of them

    y = q k^T v / 8        a sum of whole numbers, whatever d is, in whichever order; a neuron with theta = 1/2 follows
"""

from collections.abc import Callable

import torch
from torch import nn

from snnfast import checks
from snnfast.models.direct import DirectNetwork, Spikes, each_step, over_time

SCALE = 0.125


def neuron(theta: float = 1.0) -> Spikes:
    """tau = 2, reset to 0, "sigmoid" with alpha = 4, no gradient through the reset."""
    return Spikes(theta, 2.0, reset="hard", surrogate="sigmoid", gamma=4.0, detach_reset=True)


@torch.fx.wrap  # one node of a graph, if it is called as spiking_attention.attention: fx replaces it in this file
def attention(q, k, v, heads):
    """q, k, v: spikes [T, B, C, N] -> y [T, B, C, N]. Sums are whole numbers, which half precision would round: they are taken in fp32 at least."""
    own, wide = q.dtype, torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        q, k, v = (x.to(wide).unflatten(-2, (heads, -1)) for x in (q, k, v))  # [T, B, h, d, N]
        d, N = q.shape[-2:]
        y = (v @ k.mT) @ q if N > d else v @ (k.mT @ q)  # the shorter way
        return (y.flatten(-3, -2) * SCALE).to(own)  # half precision rounds sums above 256 only, with which neurons fire in any case


class Projection(nn.Module):
    """The layers `<name>_conv`, or `<name>_linear`, and `<name>_bn`, which the authors' modules hold beside others: functions of x [T, B, C, N],
    or with a convolution in two dimensions of x [T, B, C, H, W]."""

    def _add(self, name, c_in, c_out, kind):
        """kind: "conv1d", "conv2d" or "linear", of tokens, or "maps", a convolution of maps; a bias, but for q, k and v of convolutions."""
        self.kinds = {**getattr(self, "kinds", {}), name: kind}
        if kind == "linear":
            self.add_module(f"{name}_linear", nn.Linear(c_in, c_out))
        else:
            layer = nn.Conv1d if kind == "conv1d" else nn.Conv2d
            self.add_module(f"{name}_conv", layer(c_in, c_out, 1, bias=name not in ("q", "k", "v")))
        self.add_module(f"{name}_bn", nn.BatchNorm2d(c_out) if kind in ("conv2d", "maps") else nn.BatchNorm1d(c_out))

    def _project(self, name, x):
        kind, norm = self.kinds[name], getattr(self, f"{name}_bn")
        layer = getattr(self, f"{name}_linear" if kind == "linear" else f"{name}_conv")
        if kind == "linear":
            return each_step(lambda z: norm(layer(z.mT).mT), x)
        if kind == "conv2d":
            return each_step(lambda z: norm(layer(z.unsqueeze(-1))).squeeze(-1), x)
        return each_step(lambda z: norm(layer(z)), x)


def hidden_of(dim: int, heads: int, mlp_ratio: float) -> int:
    """Hidden channels of a block's MLP, of sizes that fit."""
    if checks.integer("dim", dim) % checks.integer("heads", heads) or dim % 8:
        raise ValueError(f"dim must be a multiple of heads and of 8, got dim {dim} and heads {heads}")
    return int(dim * checks.number("mlp_ratio", mlp_ratio, positive=True))


class SpikingTransformer(DirectNetwork):
    """Tokens, blocks, and a last layer of the mean over tokens and steps. tokens: [T, B, C, H, W] -> [T, B, dim, N].

    block: makes one, of (dim, heads, hidden channels of its MLP).
    """

    def __init__(
        self, arch: str, tokens: Callable, block: Callable, depth: int, dim: int, heads: int, mlp_ratio: float, T: int, num_classes: int,
        in_channels: int,
    ):  # fmt: skip
        super().__init__(arch, T, num_classes, in_channels, depth=depth, dim=dim, heads=heads, mlp_ratio=mlp_ratio)
        hidden = hidden_of(dim, heads, mlp_ratio)
        self.patch_embed = tokens(in_channels, dim)
        self.block = nn.ModuleList(block(dim, heads, hidden) for _ in range(checks.integer("depth", depth)))
        self.head = nn.Linear(dim, num_classes)

    def features(self, x, T):
        x = self.patch_embed(over_time(x, T))
        for block in self.block:
            x = block(x)
        return x.mean(-1)

    def last(self, features):
        return self.head(features)

"""What the transformers share: normalisation over features, the multi-layer perceptron of a block, stochastic depth, first weights."""

import torch
from torch import nn

from snnfast import checks

NORMS = ("ln", "bn")


class TokenBatchNorm(nn.BatchNorm1d):
    """Batch norm over the last dimension, the features, of x [B, tokens, C]."""

    over_last = True

    def forward(self, x):
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


def norm_of(kind, features, eps):
    """Layer norm, or batch norm in its place."""
    checks.choice("norm", kind, NORMS)
    return nn.LayerNorm(features, eps) if kind == "ln" else TokenBatchNorm(features)


class DropPath(nn.Module):
    """Leaves out a branch for a random share of the images of a batch, in training (Huang et al., "Deep networks with stochastic depth", 2016)."""

    def __init__(self, share):
        super().__init__()
        self.share = share

    def forward(self, x):
        if not self.training or self.share == 0:
            return x
        kept = torch.rand(x.size(0), *[1] * (x.dim() - 1), device=x.device) >= self.share
        return x * kept / (1 - self.share)


class Mlp(nn.Module):
    """fc1, activation, fc2, activation: x [..., features] -> [..., features].

    act: makes an activation for a number of features, (features, signed).  batch_norm: one behind each layer, as MST's for ImageNet has.
    """

    def __init__(self, features, hidden, act, batch_norm=False):
        super().__init__()
        self.fc1 = nn.Linear(features, hidden)
        self.norm1 = TokenBatchNorm(hidden) if batch_norm else nn.Identity()
        self.act = act(hidden, False)
        self.fc2 = nn.Linear(hidden, features)
        self.norm2 = TokenBatchNorm(features) if batch_norm else nn.Identity()
        self.fc2_act = act(features, True)

    def forward(self, x):
        x = self.act(self.norm1(self.fc1(x)))
        return self.fc2_act(self.norm2(self.fc2(x)))


def places(name, size, by, what):
    """How many steps of `by` go into `size`, which must be a multiple of it."""
    if size % by:
        raise ValueError(f"{name} must be a multiple of {what}, {by}; got {size}")
    return size // by


def divided(dim, heads):
    """Features of one attention head."""
    if dim % heads:
        raise ValueError(f"heads must divide the features: {dim} features do not go into {heads} heads")
    return dim // heads


def first_weights(net):
    """Truncated normal weights of deviation 0.02 and biases of 0, as ViT and Swin start."""
    for m in net.modules():
        if isinstance(m, nn.Linear):
            nn.init.trunc_normal_(m.weight, std=0.02)
            if m.bias is not None:
                nn.init.zeros_(m.bias)

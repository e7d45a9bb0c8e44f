"""Networks trained directly, with surrogate gradients: what they share. An image is shown at T steps, the mean of the outputs is the answer."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from snnfast import checks
from snnfast.ops.iaf import iaf
from snnfast.ops.lif import lif

BY_NAME: dict[str, Callable] = {}  # name -> the function that builds it


def register(build):
    """Makes a function, under its name, known as one that builds a network which is trained directly."""
    BY_NAME[build.__name__] = build
    return build


class Spikes(nn.Module):
    """A neuron layer whose spikes are 0 or 1: x [T, ...] -> s [T, ...], from rest in every call. It has no entry in a state dict, as the authors'.

    theta: the threshold.  tau: its time constant in steps, None without a leak.  options: those of `snnfast.iaf`, or with tau of `snnfast.lif`.
    """

    def __init__(self, theta: float = 1.0, tau: float | None = None, **options: Any):
        super().__init__()
        self.theta, self.tau, self.options = checks.number("theta", theta, positive=True), tau, options
        if math.frexp(self.theta)[0] != 0.5:
            raise ValueError(f"theta must be a power of two, by which a spike is divided without rounding, got {theta}")

    def forward(self, x):
        if self.tau is None:
            s, _ = iaf(x, self.theta, v0=0.0, **self.options)
        else:
            s, _ = lif(x, self.theta, self.tau, **self.options)
        return s if self.theta == 1 else s / self.theta

    def extra_repr(self):
        told = dict(theta=self.theta, **({} if self.tau is None else dict(tau=self.tau)), **self.options)
        return ", ".join(f"{name}={value!r}" for name, value in told.items())


class EachStep(nn.Module):
    """Layers without a state, on all steps at once: x [T, B, ...] -> [T, B, ...]. Batch statistics are over time, images and places together."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.module = layers[0] if len(layers) == 1 else nn.Sequential(*layers)

    def forward(self, x):
        return each_step(self.module, x)


def each_step(function, x):
    """A function of images [T B, ...], of x [T, B, ...]."""
    return function(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def over_time(x, T):
    """x [B, ...] at each of T steps, [T, B, ...]."""
    return x.expand(T, *x.shape)


class DirectNetwork(nn.Module):
    """A network that is trained directly. `config` holds all its arguments.

    Attributes:
        T: for how many steps an image is shown; it may be set.
        fc: the last layer.
    """

    fc: nn.Module

    def __init__(self, arch: str, T: int, num_classes: int, in_channels: int, **own: Any):
        super().__init__()
        self.T = checks.integer("T", T)
        checks.integer("num_classes", num_classes)
        checks.integer("in_channels", in_channels)
        self.config = dict(arch=arch, T=T, num_classes=num_classes, in_channels=in_channels, **own)

    def features(self, x: torch.Tensor, T: int) -> torch.Tensor:
        """x [B, in_channels, H, W] -> what the last layer sees, [T, B, features]."""
        raise TypeError(f"{type(self).__name__} has no features(x, T): it gives what its last layer sees, [T, B, features]")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: images [B, in_channels, H, W] -> logits [B, num_classes]."""
        if x.dim() != 4 or x.size(1) != self.config["in_channels"] or not x.size(0):
            raise ValueError(f"x must be images [B, {self.config['in_channels']}, H, W], got shape {tuple(x.shape)}")
        return self.fc(self.features(x, checks.integer("T", self.T)).mean(0))

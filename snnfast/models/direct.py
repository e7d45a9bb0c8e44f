"""Networks trained directly, with surrogate gradients: what they share. An image is shown at T steps, the mean of the outputs is the answer."""

import contextvars
import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from snnfast import checks
from snnfast import nn as layers
from snnfast.nn.deferred import fire
from snnfast.ops.plif import first_w

BY_NAME: dict[str, Callable] = {}  # name -> the function that builds it


def register(build):
    """Makes a function, under its name, known as one that builds a network which is trained directly."""
    BY_NAME[build.__name__] = build
    return build


def power_of_two(theta: float) -> float:
    """A threshold by which spikes are divided without rounding."""
    if math.frexp(checks.number("theta", theta, positive=True))[0] != 0.5:
        raise ValueError(f"theta must be a power of two, by which a spike is divided without rounding, got {theta}")
    return float(theta)


class OnSteps(nn.Module):
    """A layer that takes [T, B, ...] itself; others are given all steps as one batch."""


class Spikes(OnSteps):
    """A neuron layer whose spikes are 0 or 1: x [T, ...] -> s [T, ...], from rest in every call. It has no entry in a state dict, as the authors'.

    theta: the threshold.  tau: its time constant in steps, None without a leak.  options: those of `snnfast.iaf`, or with tau of `snnfast.lif`.
    """

    def __init__(self, theta: float = 1.0, tau: float | None = None, **options: Any):
        super().__init__()
        self.theta, self.tau, self.options = power_of_two(theta), tau, options

    def forward(self, x):
        s, _ = fire(x, self.theta, tau=self.tau, **self.options)
        return s if self.theta == 1 else s / self.theta

    def layer(self) -> layers.IF:
        """The same neuron as a layer of `snnfast.nn`."""
        if self.tau is None:
            return layers.IF(theta=self.theta, v0=0.0, spikes="unit", **self.options)
        return layers.LIF(self.tau, self.theta, spikes="unit", **self.options)

    def extra_repr(self):
        told = dict(theta=self.theta, **({} if self.tau is None else dict(tau=self.tau)), **self.options)
        return ", ".join(f"{name}={value!r}" for name, value in told.items())


class LearntSpikes(OnSteps):
    """A leaky neuron layer whose time constant is learnt, with spikes of 0 or 1: x [T, ...] -> s [T, ...], from rest in every call.

    Its parameter `w`, 1/tau = sigmoid(w), is one number, in `shape`: [] or [1], as in a checkpoint.
    init_tau: time constant in steps before the first epoch, > 1.  theta: the threshold.  options: those of `snnfast.plif`.
    """

    def __init__(self, init_tau: float = 2.0, shape: tuple[int, ...] = (), theta: float = 1.0, **options: Any):
        super().__init__()
        self.w, self.theta, self.options = nn.Parameter(torch.full(shape, first_w(init_tau))), power_of_two(theta), options

    def forward(self, x):
        s, _ = fire(x, self.theta, w=self.w, **self.options)
        return s if self.theta == 1 else s / self.theta

    def layer(self) -> layers.PLIF:
        """The same neuron as a layer of `snnfast.nn`."""
        layer = layers.PLIF(2.0, self.theta, spikes="unit", **self.options)
        layer.w = nn.Parameter(self.w.detach().clone(), requires_grad=False)
        return layer

    def extra_repr(self):
        return ", ".join(f"{name}={value!r}" for name, value in dict(theta=self.theta, **self.options).items())


class EachStep(OnSteps):
    """Layers without a state, on all steps at once: x [T, B, ...] -> [T, B, ...]. Batch statistics are over time, images and places together."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.module = layers[0] if len(layers) == 1 else nn.Sequential(*layers)

    def forward(self, x):
        return each_step(self.module, x)


class EachLayer(nn.Sequential):
    """Layers one after the other, `OnSteps` on [T, B, ...], the others on all steps at once."""

    def forward(self, x):
        for layer in self:
            x = layer(x) if isinstance(layer, OnSteps) else each_step(layer, x)
        return x


class SharedDropout(OnSteps):
    """Dropout with one mask for all steps of a batch: x [T, B, ...] -> [T, B, ...]."""

    def __init__(self, p: float = 0.5):
        super().__init__()
        self.p = checks.share("p", p)

    def forward(self, x):
        return x * nn.functional.dropout(torch.ones_like(x[0]), self.p, self.training) if self.training and self.p else x


_one: contextvars.ContextVar = contextvars.ContextVar("_one", default=False)  # inside, values are of one step, [B, ...]


def each_step(function, x):
    """A function of images [T B, ...], of x [T, B, ...]."""
    return function(x) if _one.get() else function(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def over_time(x, T):
    """x [B, ...] at each of T steps, [T, B, ...]."""
    return x if _one.get() else x.expand(T, *x.shape)


class DirectNetwork(nn.Module):
    """A network that is trained directly. `config` holds all its arguments.

    Attributes:
        T: for how many steps an image is shown; it may be set. With `frames` it is the number of them, and not asked for.
        sums: whether the answer is the sum over the steps, not the mean.
        image_shape: (channels, height, width) of the images that it takes, or None, where their size is free.
        frames: whether it takes event data, a frame for each step, in place of images.
        fc: the last layer.
    """

    fc: nn.Module
    frames = sums = False
    image_shape: tuple[int, int, int] | None = None

    def __init__(self, arch: str, T: int, num_classes: int, in_channels: int, **own: Any):
        super().__init__()
        self.T = checks.steps("T", T)
        checks.integer("num_classes", num_classes)
        checks.integer("in_channels", in_channels)
        self.config = dict(arch=arch, T=T, num_classes=num_classes, in_channels=in_channels, **own)

    def constant_part(self, x: torch.Tensor) -> torch.Tensor:
        """What is the same at every step, of images x [B, in_channels, H, W], before the first neuron: it is computed once. By default x."""
        return x

    def features(self, x: torch.Tensor, T: int) -> torch.Tensor:
        """What `constant_part` gives, shown at T steps, or `frames` x [T, B, in_channels, H, W] -> what the last layer sees, [T, B, ...]."""
        raise TypeError(f"{type(self).__name__} has no features(x, T): it gives what its last layer sees, [T, B, features]")

    def last(self, features: torch.Tensor) -> torch.Tensor:
        """[..., features] -> logits [..., num_classes]: the last layer."""
        return self.fc(features)

    def answer(self, features: torch.Tensor) -> torch.Tensor:
        """[T, B, ...] -> logits [B, num_classes]: the last layer of the mean over the steps."""
        return self.last(features.mean(0))

    def check(self, x: torch.Tensor) -> None:
        """Refuses what the network does not take."""
        C, dims = self.config["in_channels"], 5 if self.frames else 4
        if x.dim() != dims or x.size(-3) != C or not x.size(0) or not x.size(1):
            told = f"frames [B, T, {C}, H, W]" if self.frames else f"images [B, {C}, H, W]"
            raise ValueError(f"x must be {told}, got shape {tuple(x.shape)}")
        if self.image_shape is not None and x.shape[-2:] != self.image_shape[1:]:
            (h, w), asked = self.image_shape[1:], next((name for name in ("img_size", "image_size") if name in self.config), "image_shape")
            raise ValueError(f"x must be images of {h} x {w}, for which the network was made ({asked}), got {x.size(-2)} x {x.size(-1)}")

    def steps_of(self, x: torch.Tensor) -> int:
        """How many steps it takes for x: its frames, with `frames`, else T."""
        return x.size(1) if self.frames else checks.steps("T", self.T)

    def _features(self, x):
        self.check(x)
        return self.features(x.transpose(0, 1) if self.frames else self.constant_part(x), self.steps_of(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: images [B, in_channels, H, W], or with `frames` [B, T, in_channels, H, W], a frame for each step -> logits [B, num_classes]."""
        return self.answer(self._features(x))

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """What the last layer gives at each step, [T, B, num_classes]: what a loss over time takes, such as TET's (Deng et al., ICLR 2022). x: as in
        `forward`, which gives their mean."""
        return self.last(self._features(x))

    def one_step(self) -> nn.Module:
        """A copy for `snnfast.convert`, in evaluation: a function of images (or single frames) [B, ...] for one step, whose neurons are layers of
        `snnfast.nn`."""
        net = copy.deepcopy(self).eval().requires_grad_(False)
        dtype, device = next((p.dtype, p.device) for p in self.parameters() if p.is_floating_point())
        made: dict[nn.Module, nn.Module] = {}  # one for each layer, also where it has several names
        for module in list(net.modules()):
            for name, layer in list(module._modules.items()):
                make: Any = getattr(layer, "layer", None)
                if layer is not None and make is not None:
                    made[layer] = made[layer] if layer in made else make().to(device, dtype)
                    setattr(module, name, made[layer])
        cls = type(self)
        net.__class__ = type(cls.__name__, (cls,), {"forward": _one_step, "__module__": cls.__module__})
        return net


def _one_step(net, x):
    token = _one.set(True)
    try:
        return net.last(net.features(net.constant_part(x), 1))
    finally:
        _one.reset(token)

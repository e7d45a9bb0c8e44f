"""SpikingResformer: attention between the places of an image and its patches. Shortcuts carry real values.

    attention   s = SN(x) ;  y1, y2 = F_p(s) ;  a = SN(y1^T s / sqrt(f_x d)) ;  x <- x + F(SN(y2 a / sqrt(f_a L)))
    feed forward   u = F(SN(x)) ;  x <- x + F(SN(u + G(SN(u))))

F_p: a p x p convolution with stride p and its batch norm, which leaves L patches; F: 1x1, G: 3x3 in groups; SN: neurons with theta = 1, tau = 2.
f_x and f_a are the shares of s and of a that are spikes, for each head: running means, as of a batch norm.
(Shi et al., "SpikingResformer: bridging ResNet and vision transformer in spiking neural networks", CVPR 2024.)
"""

from collections.abc import Callable

import torch
from torch import nn

from snnfast import checks
from snnfast.models.direct import DirectNetwork, EachLayer, EachStep, OnSteps, Spikes, each_step, over_time, register

KEEP = 0.999  # of a running share, for each batch


def neuron() -> Spikes:
    """tau = 2, reset to 0, "atan" with alpha = 2, no gradient through the reset."""
    return Spikes(1.0, 2.0, reset="hard", surrogate="atan", gamma=2.0, detach_reset=True)


class Norm(OnSteps):
    """A batch norm over steps, images and places: x [T, B, C, H, W]."""

    def __init__(self, channels: int):
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x):
        return each_step(self.bn, x)


class Attention(nn.Module):
    """x, y: real values [T, B, C, H, W]. patch: its side, p.  patches: how many an image has where the network is used, L."""

    firing_rate_x: torch.Tensor
    firing_rate_attn: torch.Tensor

    def __init__(self, dim: int, heads: int, patch: int, patches: int, fire: Callable[[], nn.Module] = neuron):
        super().__init__()
        self.heads, self.channels, self.patches = heads, dim // heads, patches
        self.activation_in, self.activation_attn, self.activation_out = fire(), fire(), fire()
        self.W, self.norm = Conv(dim, 2 * dim, patch, patch), Norm(2 * dim)
        self.Wproj, self.norm_proj = Conv(dim, dim, 1), Norm(dim)
        for name in ("firing_rate_x", "firing_rate_attn"):
            self.register_buffer(name, torch.zeros(1, 1, heads, 1, 1))  # [T, B, h, d, N]

    def _scale(self, name, spikes, count):
        """1/sqrt(f count), after this batch in training. spikes: [T, B, h, d, N]."""
        rate = getattr(self, name)
        if self.training:
            mean = spikes.detach().mean((0, 1, 3, 4), keepdim=True)
            rate.copy_(KEEP * rate + (1 - KEEP) * mean if bool(rate.any()) else mean)
        return 1.0 / torch.sqrt(rate[0, 0] * count)

    def forward(self, x):
        s = self.activation_in(x)
        y = self.norm(self.W(s)).flatten(-2).unflatten(-2, (self.heads, -1))  # [T, B, h, 2d, L]
        y1, y2 = y.chunk(2, dim=-2)
        q = s.flatten(-2).unflatten(-2, (self.heads, -1))  # [T, B, h, d, N]
        a = self.activation_attn(y1.mT @ q * self._scale("firing_rate_x", q, self.channels))
        z = self.activation_out((y2 @ a * self._scale("firing_rate_attn", a, self.patches)).flatten(-3, -2).unflatten(-1, x.shape[-2:]))
        return x + self.norm_proj(self.Wproj(z))


class Conv(OnSteps, nn.Conv2d):
    """A convolution without a bias, of all steps at once: x [T, B, C, H, W]."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1, padding: int = 0, groups: int = 1):
        super().__init__(c_in, c_out, kernel, stride, padding, groups=groups, bias=False)

    def forward(self, x):
        return each_step(super().forward, x)

    def layer(self):
        """The same convolution of one step."""
        found = nn.Conv2d(self.in_channels, self.out_channels, self.kernel_size, self.stride, self.padding, groups=self.groups, bias=False)
        found.weight = self.weight
        return found


class FeedForward(nn.Module):
    """x, y: real values [T, B, C, H, W]. group: channels of a group."""

    def __init__(self, dim: int, group: int = 64, ratio: int = 4, fire: Callable[[], nn.Module] = neuron):
        super().__init__()
        hidden = ratio * dim
        self.up = EachLayer(fire(), Conv(dim, hidden, 1), Norm(hidden))
        self.conv = nn.ModuleList([EachLayer(fire(), Conv(hidden, hidden, 3, padding=1, groups=hidden // group), Norm(hidden))])
        self.down = EachLayer(fire(), Conv(hidden, dim, 1), Norm(dim))

    def forward(self, x):
        u = self.up(x)
        for conv in self.conv:
            u = u + conv(u)
        return x + self.down(u)


class Down(nn.Module):
    """Between stages: x [T, B, C, H, W] -> real values [T, B, C', H/2, W/2]."""

    def __init__(self, c_in: int, c_out: int, fire: Callable[[], nn.Module] = neuron):
        super().__init__()
        self.activation, self.conv, self.norm = fire(), Conv(c_in, c_out, 3, 2, 1), Norm(c_out)

    def forward(self, x):
        return self.norm(self.conv(self.activation(x)))


class SpikingResformer(DirectNetwork):
    """See `spikingresformer_ti`. small: for CIFAR. width: channels of an attention head, and of a group of the feed forward."""

    def __init__(
        self, arch: str, dims: tuple[int, ...], small: bool, img_size: int, T: int, num_classes: int, in_channels: int, width: int = 64
    ):
        super().__init__(arch, T, num_classes, in_channels, img_size=img_size)
        side = checks.integer("img_size", img_size) // (1 if small else 4)
        if side < 4 or side % 4 or img_size % side:
            raise ValueError(f"img_size must be a multiple of {4 if small else 16}, got {img_size}")
        stem = [Conv(in_channels, dims[0], 3, 1, 1), Norm(dims[0])] if small else [
            Conv(in_channels, dims[0], 7, 2, 3), Norm(dims[0]), EachStep(nn.MaxPool2d(3, 2, 1)),
        ]  # fmt: skip
        self.image_shape = in_channels, img_size, img_size
        self.prologue = EachLayer(*stem)
        stages = []
        for i, (dim, depth, patch) in enumerate(zip(dims, (1, 2, 3), (4, 2, 1))):
            layers: list[nn.Module] = [Down(dims[i - 1], dim)] if i else []
            for _ in range(depth):
                layers += [Attention(dim, dim // width, patch, (side // 2**i // patch) ** 2), FeedForward(dim, width)]
            stages.append(nn.Sequential(*layers))
        self.layers, self.avgpool, self.classifier = (
            nn.Sequential(*stages),
            nn.AdaptiveAvgPool2d(1),
            nn.Linear(dims[-1], num_classes, bias=False),
        )

    def features(self, x, T):
        return self.layers(self.prologue(over_time(x, T))).mean((-2, -1))

    def last(self, features):
        return self.classifier(features)


@register
def spikingresformer_ti(img_size: int = 224, T: int = 4, num_classes: int = 1000, in_channels: int = 3) -> SpikingResformer:
    """SpikingResformer-Ti for ImageNet (Shi et al., CVPR 2024), with the authors' names.

    Args:
        img_size: side of the images in pixels, a multiple of 16. The network divides by how many patches it has: weights of 224 used at 288 want 288.
        T: for how many steps an image is shown.
        num_classes, in_channels: the size of the logits, the channels of the image.

    >>> net = snnfast.models.spikingresformer_ti(img_size=32, num_classes=10)
    >>> net(torch.randn(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    return SpikingResformer("spikingresformer_ti", (64, 192, 384), False, img_size, T, num_classes, in_channels)


@register
def spikingresformer_s(img_size: int = 224, T: int = 4, num_classes: int = 1000, in_channels: int = 3) -> SpikingResformer:
    """SpikingResformer-S for ImageNet (Shi et al., CVPR 2024). Args: as `spikingresformer_ti`."""
    return SpikingResformer("spikingresformer_s", (64, 256, 512), False, img_size, T, num_classes, in_channels)


@register
def spikingresformer_m(img_size: int = 224, T: int = 4, num_classes: int = 1000, in_channels: int = 3) -> SpikingResformer:
    """SpikingResformer-M for ImageNet (Shi et al., CVPR 2024). Args: as `spikingresformer_ti`."""
    return SpikingResformer("spikingresformer_m", (64, 384, 768), False, img_size, T, num_classes, in_channels)


@register
def spikingresformer_l(img_size: int = 224, T: int = 4, num_classes: int = 1000, in_channels: int = 3) -> SpikingResformer:
    """SpikingResformer-L for ImageNet (Shi et al., CVPR 2024). Args: as `spikingresformer_ti`."""
    return SpikingResformer("spikingresformer_l", (128, 512, 1024), False, img_size, T, num_classes, in_channels)


@register
def spikingresformer_cifar(img_size: int = 32, T: int = 4, num_classes: int = 10, in_channels: int = 3) -> SpikingResformer:
    """SpikingResformer for CIFAR (Shi et al., CVPR 2024), with the authors' names.

    Args: as `spikingresformer_ti`; img_size is a multiple of 4.

    >>> net = snnfast.models.spikingresformer_cifar()
    >>> net(torch.randn(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    return SpikingResformer("spikingresformer_cifar", (64, 192, 384), True, img_size, T, num_classes, in_channels)

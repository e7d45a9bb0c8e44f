"""Residual networks of integrate-and-fire neurons, with the names of the authors' checkpoints.

With F_i the i-th convolution and its batch norm, SN a neuron layer, I the shortcut:

    vanilla   SN(F_2(SN(F_1(x))) + I)       I = x, or F(x), a 1x1 convolution and its batch norm
    SEW       g(SN(F_2(SN(F_1(x)))), I)     I = x, or SN(F(x));  g(o, I) = o + I (ADD), o I (AND), I (1 - o) (IAND)

Neurons: theta = 1, no leak, reset to 0, "atan" with alpha = 2, no gradient through the reset.
(Fang et al., "Deep residual learning in spiking neural networks", NeurIPS 2021.)
"""

from typing import Any, Literal

import torch
from torch import nn

from snnfast import checks
from snnfast.models.direct import DirectNetwork, EachStep, LearntSpikes, Spikes, each_step, over_time, register

CONNECT = {"ADD": torch.add, "AND": torch.mul, "IAND": lambda o, shortcut: shortcut * (1 - o)}
LAYERS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def neuron():
    return Spikes(1.0, reset="hard", surrogate="atan", gamma=2.0, detach_reset=True)


def conv_norm(c_in, c_out, kernel, stride=1):
    return nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(c_out)


class Block(nn.Module):
    """Two 3x3 convolutions, or with `bottleneck` 1x1, 3x3, 1x1, to 4 `channels`. x, y: [T, B, C, H, W].

    connect: "ADD", "AND" or "IAND"; None is the vanilla block.
    """

    def __init__(self, c_in: int, channels: int, stride: int, connect: str | None, bottleneck: bool = False):
        super().__init__()
        self.connect, self.many = connect, 3 if bottleneck else 2
        c_out = 4 * channels if bottleneck else channels
        shapes = [(c_in, channels, 1, 1), (channels, channels, 3, stride), (channels, c_out, 1, 1)]
        for i, shape in enumerate(shapes if bottleneck else [(c_in, channels, 3, stride), (channels, channels, 3, 1)], 1):
            setattr(self, f"conv{i}", EachStep(*conv_norm(*shape)))
            setattr(self, f"sn{i}", neuron())
        self.downsample = None
        if stride != 1 or c_in != c_out:
            shortcut = EachStep(*conv_norm(c_in, c_out, 1, stride))
            self.downsample = shortcut if connect is None else nn.Sequential(shortcut, neuron())

    def forward(self, x):
        y, shortcut = x, x if self.downsample is None else self.downsample(x)
        for i in range(1, self.many + 1):
            y = getattr(self, f"conv{i}")(y)
            if self.connect is None and i == self.many:
                y = y + shortcut
            y = getattr(self, f"sn{i}")(y)
        return y if self.connect is None else CONNECT[self.connect](y, shortcut)

    def last_norm(self):
        return getattr(self, f"conv{self.many}").module[1]


class SEWResNet(DirectNetwork):
    """See `sew_resnet18`; connect: None for the vanilla one."""

    def __init__(self, arch: str, layers: int, connect: str | None, T: int, num_classes: int, in_channels: int, zero_init_residual: bool):
        super().__init__(arch, T, num_classes, in_channels, connect=connect, zero_init_residual=zero_init_residual)
        if connect is not None:
            checks.choice("connect", connect, tuple(CONNECT))
        checks.yes_or_no("zero_init_residual", zero_init_residual)
        bottleneck, c_in = layers >= 50, 64
        self.conv1, self.bn1 = nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.sn1, self.maxpool = neuron(), nn.MaxPool2d(3, 2, 1)
        for stage, (many, channels) in enumerate(zip(LAYERS[layers], (64, 128, 256, 512))):
            blocks = []
            for i in range(many):
                blocks.append(Block(c_in, channels, 2 if stage and not i else 1, connect, bottleneck))
                c_in = channels * (4 if bottleneck else 1)
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(c_in, num_classes)
        self._start(zero_init_residual)

    def _start(self, zero_init_residual):
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
        for block in [m for m in self.modules() if isinstance(m, Block)] if zero_init_residual else ():
            nn.init.zeros_(block.last_norm().weight)  # no spike: the identity of ADD and IAND; a spike everywhere: that of AND
            if self.config["connect"] == "AND":
                nn.init.ones_(block.last_norm().bias)

    def constant_part(self, x):
        return self.bn1(self.conv1(x))

    def features(self, x, T):
        x = self.sn1(over_time(x, T))
        x = each_step(self.maxpool, x)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return each_step(self.avgpool, x).flatten(-3)


# ---- event data


def learnt_neuron():
    return LearntSpikes(2.0, (1,), reset="hard", surrogate="atan", gamma=2.0, detach_reset=True)


class EventBlock(nn.Module):
    """Two 3x3 convolutions with neurons whose time constant is learnt, and the shortcut. x, y: [T, B, C, H, W]."""

    def __init__(self, channels: int, connect: str):
        super().__init__()
        self.connect = connect
        shape = channels, channels, 3
        self.conv = nn.Sequential(*(nn.Sequential(EachStep(*conv_norm(*shape)), learnt_neuron()) for _ in range(2)))

    def forward(self, x):
        return CONNECT[self.connect](self.conv(x), x)


class SEWEvents(DirectNetwork):
    """See `sew_cifar10dvs`. channels: of each of seven blocks, behind each of which a pooling halves the sides."""

    frames = True

    def __init__(self, arch: str, channels: tuple[int, ...], connect: str, num_classes: int, in_channels: int):
        super().__init__(arch, 1, num_classes, in_channels, connect=connect)
        checks.choice("connect", connect, tuple(CONNECT))
        layers: list[nn.Module] = []
        c_in = in_channels
        for c in channels:
            if c != c_in:
                layers.append(nn.Sequential(EachStep(*conv_norm(c_in, c, 1)), learnt_neuron()))
            layers += [EventBlock(c, connect), EachStep(nn.MaxPool2d(2))]
            c_in = c
        self.conv, self.out = nn.Sequential(*layers), nn.Linear(c_in, num_classes)

    def features(self, x, T):
        return self.conv(x).flatten(-3)

    def check(self, x):
        super().check(x)
        if not all(128 <= side <= 255 for side in x.shape[-2:]):
            raise ValueError(f"x must be frames of 128 to 255 pixels a side, which seven poolings leave at 1, got shape {tuple(x.shape)}")

    def last(self, features):
        return self.out(features)


@register
def sew_cifar10dvs(connect: Literal["ADD", "AND", "IAND"] = "ADD", num_classes: int = 10, in_channels: int = 2) -> SEWEvents:
    """SEW-ResNet for CIFAR10-DVS (Fang et al., NeurIPS 2021): x [B, T, 2, 128, 128], T frames of events -> logits [B, num_classes].

    Args:
        connect: how a block's spikes meet its shortcut: "ADD" (sums are spike counts), "AND" or "IAND".
        num_classes, in_channels: the size of the logits, the channels of a frame.

    >>> net = snnfast.models.sew_cifar10dvs().eval()
    >>> net(torch.rand(1, 4, 2, 128, 128)).shape
    torch.Size([1, 10])
    """
    return SEWEvents("sew_cifar10dvs", (64,) * 4 + (128,) * 3, connect, num_classes, in_channels)


@register
def sew_dvs_gesture(connect: Literal["ADD", "AND", "IAND"] = "ADD", num_classes: int = 11, in_channels: int = 2) -> SEWEvents:
    """SEW-ResNet for DVS-Gesture (Fang et al., NeurIPS 2021): x [B, T, 2, 128, 128], T frames of events -> logits [B, num_classes].

    Args: as `sew_cifar10dvs`.

    >>> net = snnfast.models.sew_dvs_gesture().eval()
    >>> net(torch.rand(1, 4, 2, 128, 128)).shape
    torch.Size([1, 11])
    """
    return SEWEvents("sew_dvs_gesture", (32,) * 7, connect, num_classes, in_channels)


def _sew(layers):
    def build(
        connect: Literal["ADD", "AND", "IAND"] = "ADD", T: int = 4, num_classes: int = 1000, in_channels: int = 3,
        zero_init_residual: bool = False,
    ) -> SEWResNet:  # fmt: skip
        checks.choice("connect", connect, tuple(CONNECT))
        return SEWResNet(f"sew_resnet{layers}", layers, connect, T, num_classes, in_channels, zero_init_residual)

    return _named(build, f"sew_resnet{layers}", f"""SEW-ResNet-{layers} (Fang et al., NeurIPS 2021), with the authors' names.

    Args:
        connect: how a block's spikes meet its shortcut: "ADD" (sums are spike counts), "AND" or "IAND".
        T: for how many steps an image is shown.
        num_classes, in_channels: the size of the logits, the channels of the image.
        zero_init_residual: whether every block is the identity at first.

    >>> net = snnfast.models.sew_resnet{layers}(num_classes=10, T=2).eval()
    >>> net(torch.randn(1, 3, 32, 32)).shape
    torch.Size([1, 10])
    """)  # fmt: skip


def _vanilla(layers):
    def build(T: int = 4, num_classes: int = 1000, in_channels: int = 3, zero_init_residual: bool = False) -> SEWResNet:
        return SEWResNet(f"spiking_resnet{layers}", layers, None, T, num_classes, in_channels, zero_init_residual)

    return _named(build, f"spiking_resnet{layers}", f"""The vanilla spiking ResNet-{layers}, with which Fang et al., NeurIPS 2021, compare SEW-ResNet.

    Args: as `sew_resnet{layers}`.

    >>> net = snnfast.models.spiking_resnet{layers}(num_classes=10, T=2).eval()
    >>> net(torch.randn(1, 3, 32, 32)).shape
    torch.Size([1, 10])
    """)  # fmt: skip


def _named(build: Any, name: str, doc: str) -> Any:
    build.__name__ = build.__qualname__ = name
    build.__doc__ = doc
    return register(build)


sew_resnet18, sew_resnet34, sew_resnet50, sew_resnet101, sew_resnet152 = map(_sew, LAYERS)
spiking_resnet18, spiking_resnet34, spiking_resnet50, spiking_resnet101, spiking_resnet152 = map(_vanilla, LAYERS)

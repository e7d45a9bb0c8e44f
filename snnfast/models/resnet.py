"""ResNet-18/34/50/101 (He et al., CVPR 2016) and the ResNet-20 of CIFAR, as the QCFS authors lay them out: the neuron stands behind the addition.

Keys: `conv1.{0,1,2}`; `conv{2..5}_x.B.residual_function.{0 conv, 1 BN, 2 act, 3 conv, 4 BN}` (bottleneck: `+5 act, 6 conv, 7 BN`),
`.shortcut.{0 conv, 1 BN}` where the shape changes, `.act`; `fc`. ResNet-20 has `conv{2..4}_x` with 16, 32, 64 channels. Convolutions have no bias.
"""

from torch import nn

from snnfast import checks
from snnfast.models.network import Network
from snnfast.models.registry import register

# Blocks per stage, channels of the first stage, and whether blocks are bottlenecks.
STAGES = {
    "resnet18": ((2, 2, 2, 2), 64, False),
    "resnet20": ((3, 3, 3), 16, False),
    "resnet34": ((3, 4, 6, 3), 64, False),
    "resnet50": ((3, 4, 6, 3), 64, True),
    "resnet101": ((3, 4, 23, 3), 64, True),
}
STEMS = ("cifar", "imagenet")
EXPANSION = 4


def _conv_bn(channels, out, kernel, stride=1):
    return [nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2, bias=False), nn.BatchNorm2d(out)]


class Block(nn.Module):
    """act(residual_function(x) + shortcut(x)). x: [B, channels, H, W] -> [B, out, H/stride, W/stride]."""

    def __init__(self, channels, inner, stride, bottleneck, act):
        super().__init__()
        out = inner * EXPANSION if bottleneck else inner
        if bottleneck:
            layers = [*_conv_bn(channels, inner, 1), act(inner), *_conv_bn(inner, inner, 3, stride), act(inner), *_conv_bn(inner, out, 1)]
        else:
            layers = [*_conv_bn(channels, inner, 3, stride), act(inner), *_conv_bn(inner, out, 3)]
        self.residual_function = nn.Sequential(*layers)
        same = stride == 1 and channels == out
        self.shortcut = nn.Sequential(*([] if same else _conv_bn(channels, out, 1, stride)))
        self.act = act(out)
        self.channels = out

    def forward(self, x):
        return self.act(self.residual_function(x) + self.shortcut(x))


class ResNet(Network):
    """See `resnet18` for the arguments."""

    def __init__(self, arch, num_classes, levels, activation, theta, width, stem, in_channels, channel_num=None, masking=0.0):
        super().__init__(arch, num_classes, in_channels, levels, activation, theta, width, channel_num, masking, stem=stem)
        checks.choice("arch", arch, tuple(STAGES))
        checks.choice("stem", stem, STEMS)
        blocks, first, bottleneck = STAGES[arch]
        channels = self.wide(first)
        if stem == "cifar":
            self.conv1 = nn.Sequential(*_conv_bn(in_channels, channels, 3), self.act(channels))
        else:
            self.conv1 = nn.Sequential(*_conv_bn(in_channels, channels, 7, 2), self.act(channels), nn.AvgPool2d(3, 2, 1))
        self.stages = [f"conv{i}_x" for i in range(2, 2 + len(blocks))]
        for i, (name, many) in enumerate(zip(self.stages, blocks)):
            stage = []
            for b in range(many):
                stage.append(Block(channels, self.wide(first * 2**i), 2 if i and not b else 1, bottleneck, self.act))
                channels = stage[-1].channels
            setattr(self, name, nn.Sequential(*stage))
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        self.finish()

    @classmethod
    def read_off(cls, state):
        first = next((t for t in state.values() if t.dim() == 4), None)
        return super().read_off(state) | dict(stem="imagenet" if first is not None and first.size(-1) == 7 else "cifar")

    def forward(self, x):
        """x: [B, in_channels, H, W] -> logits [B, num_classes]."""
        x = self.conv1(x)
        for name in self.stages:
            x = getattr(self, name)(x)
        return self.fc(self.avg_pool(x).flatten(1))


def _make(arch):
    def build(
        num_classes: int = 10,
        levels: int = 4,
        activation: str = "s-qcfs",
        theta: float = 4.0,
        width: float = 1.0,
        stem: str = "cifar",
        in_channels: int = 3,
        channel_num: int | None = None,
        masking: float = 0.0,
    ) -> ResNet:
        return ResNet(arch, num_classes, levels, activation, theta, width, stem, in_channels, channel_num, masking)

    build.__name__ = build.__qualname__ = arch
    build.__doc__ = f"""{arch.replace("resnet", "ResNet-")} with quantised activations, for images of any size.

    Args:
        num_classes: size of the logits.
        levels: quantisation levels L of every activation.
        activation: "qcfs", "s-qcfs" (theta = softplus(lam)), "e-qcfs" (exp), or per channel "c-qcfs", "cs-qcfs", "ce-qcfs".
        theta: first threshold of every activation.
        width: factor on all channel counts.
        stem: "cifar", a 3 x 3 convolution of stride 1 (these papers use it for ImageNet too), or "imagenet", 7 x 7 of stride 2 and a pooling,
            which is an average here so that it commutes with rates.
        in_channels: channels of the image.
        channel_num: with a channel-wise activation, how many of the last layers have a threshold per channel (None: all).
        masking: share of all spikes that is masked at random, in [0, 1); see `snnfast.nn.SpikeMask`.

    >>> net = snnfast.models.{arch}(num_classes=10, width=0.05)
    >>> net(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    return register(ResNet)(build)


resnet18, resnet20, resnet34, resnet50, resnet101 = (_make(a) for a in STAGES)

"""MS-ResNet: residual networks whose shortcuts carry real values, with the names of the authors' checkpoints.

    y = F_2(SN(F_1(SN(x)))) + I      F_i: the i-th convolution and its batch norm, SN: a neuron layer
    I = x, or a 1x1 convolution and its batch norm; in MS-ResNet-104 behind an average pooling, in place of a stride

Neurons: v <- v/4 + x, a spike where v > 1/2, then v = 0; the derivative of a spike is 1 where |v - 1/2| < 1/2.
(Hu et al., "Advancing spiking neural networks toward deep residual learning", IEEE TNNLS 2024.)
"""

from torch import nn

from snnfast.models.direct import DirectNetwork, EachLayer, Spikes, each_step, over_time, register

LAYERS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 104: (3, 8, 32, 8)}


def neuron():
    return Spikes(0.5, 4 / 3, decay_input=False, reset="hard", strict=True, surrogate="box", gamma=0.5, detach_reset=True)


class Norm(nn.Module):
    """A batch norm under the name that the authors' wrapper gives it."""

    def __init__(self, channels: int, weight: float = 0.5):
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        nn.init.constant_(self.bn.weight, weight)

    def forward(self, x):
        return self.bn(x)


class Block(nn.Module):
    """x, y: [T, B, C, H, W]. deep: the one of MS-ResNet-104."""

    def __init__(self, c_in: int, c_out: int, stride: int, deep: bool = False):
        super().__init__()
        self.residual_function = EachLayer(
            neuron(), nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), Norm(c_out),
            neuron(), nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False), Norm(c_out, 0.0),
        )  # fmt: skip
        self.shortcut = EachLayer()
        if stride != 1 or c_in != c_out:
            pool = [nn.AvgPool2d(stride)] if deep else []
            self.shortcut = EachLayer(*pool, nn.Conv2d(c_in, c_out, 1, 1 if deep else stride, bias=False), Norm(c_out))

    def forward(self, x):
        return self.residual_function(x) + self.shortcut(x)


class MSResNet(DirectNetwork):
    """See `ms_resnet18`."""

    def __init__(self, arch: str, layers: int, T: int, num_classes: int, in_channels: int):
        super().__init__(arch, T, num_classes, in_channels)
        deep, c_in = layers == 104, 64
        stem = [nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False)]
        if deep:
            stem = [nn.Conv2d(in_channels, 64, 3, 2, 1), nn.Conv2d(64, 64, 3, 1, 1), nn.Conv2d(64, 64, 3, 1, 1)]
        self.conv1 = nn.Sequential(*stem, Norm(64))
        for stage, (many, channels) in enumerate(zip(LAYERS[layers], (64, 128, 256, 512))):
            blocks = []
            for i in range(many):
                blocks.append(Block(c_in, channels, 1 if i else 2, deep))
                c_in = channels
            setattr(self, f"conv{stage + 2}_x", nn.Sequential(*blocks))
        self.mem_update, self.avgpool = neuron(), nn.AdaptiveAvgPool2d(1)
        self.dropout, self.fc = nn.Dropout(0.2 if deep else 0.0), nn.Linear(c_in, num_classes)

    def constant_part(self, x):
        return x if self.training else self.conv1(x)

    def features(self, x, T):
        x = over_time(x, T)
        if self.training:  # the running variance is that of T times as many values
            x = each_step(self.conv1, x)
        x = self.conv5_x(self.conv4_x(self.conv3_x(self.conv2_x(x))))
        return self.dropout(each_step(self.avgpool, self.mem_update(x)).flatten(-3))


def _build(layers):
    def build(T: int = 6, num_classes: int = 1000, in_channels: int = 3) -> MSResNet:
        return MSResNet(f"ms_resnet{layers}", layers, T, num_classes, in_channels)

    build.__name__ = build.__qualname__ = f"ms_resnet{layers}"
    build.__doc__ = f"""MS-ResNet-{layers} (Hu et al., IEEE TNNLS 2024), with the authors' names.

    Args:
        T: for how many steps an image is shown.
        num_classes, in_channels: the size of the logits, the channels of the image.

    >>> net = snnfast.models.ms_resnet{layers}(num_classes=10, T=2).eval()
    >>> net(torch.randn(1, 3, 32, 32)).shape
    torch.Size([1, 10])
    """
    return register(build)


ms_resnet18, ms_resnet34, ms_resnet104 = map(_build, LAYERS)

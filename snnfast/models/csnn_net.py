"""A convolutional classifier of CIFAR-10 with SpikingJelly's default neurons: three pairs of convolutions, and two linear layers.

Neurons integrate without a leak, reset to 0, and have gradients through the reset ("atan", alpha = 2).
"""

from torch import nn

from snnfast import checks
from snnfast.models.direct import DirectNetwork, OnSteps, Spikes, each_step, over_time, register


def neuron() -> Spikes:
    return Spikes(reset="hard", surrogate="atan", gamma=2.0)


class Layer(OnSteps):
    """x [T, B, C, H, W] -> spikes."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.conv, self.bn, self.sn = nn.Conv2d(c_in, c_out, 3, padding=1), nn.BatchNorm2d(c_out), neuron()

    def forward(self, x):
        return self.sn(each_step(lambda z: self.bn(self.conv(z)), x))


class CSNN(DirectNetwork):
    """See `csnn_cifar10`."""

    def __init__(self, arch: str, channels: tuple[int, ...], hidden: int, image_size: int, T: int, num_classes: int, in_channels: int):
        channels = tuple(checks.integer("channels", c) for c in channels)
        super().__init__(arch, T, num_classes, in_channels, channels=list(channels), hidden=hidden, image_size=image_size)
        side, c_in = checks.integer("image_size", image_size) // 2 ** len(channels), in_channels
        layers: list[nn.Module] = []
        for c in channels:
            layers += [Layer(c_in, c), Layer(c, c), nn.MaxPool2d(2)]
            c_in = c
        self.image_shape, self.conv = (in_channels, image_size, image_size), nn.Sequential(*layers)
        features = c_in * side * side
        self.fc = nn.Sequential(
            nn.Flatten(), nn.Linear(features, checks.integer("hidden", hidden)), neuron(), nn.Linear(hidden, num_classes)
        )

    def features(self, x, T):
        x = over_time(x, T)
        for layer in self.conv:
            x = layer(x) if isinstance(layer, OnSteps) else each_step(layer, x)
        return self.fc[2](each_step(lambda z: self.fc[1](z.flatten(1)), x))

    def last(self, features):
        return self.fc[3](features)


@register
def csnn_cifar10(
    channels: tuple[int, ...] = (128, 256, 512),
    hidden: int = 1024,
    image_size: int = 32,
    T: int = 4,
    num_classes: int = 10,
    in_channels: int = 3,
) -> CSNN:
    """A convolutional spiking classifier for CIFAR-10, with SpikingJelly's default neurons (Fang et al., Science Advances 2023).

    Args:
        channels: of each pair of convolutions, behind which a pooling halves the sides.
        hidden: neurons of the linear layer in front of the last one.
        image_size: side of the images in pixels.
        T: for how many steps an image is shown.
        num_classes, in_channels: the size of the logits, the channels of the image.

    >>> net = snnfast.models.csnn_cifar10((8, 8, 8), hidden=16).eval()
    >>> net(torch.randn(1, 3, 32, 32)).shape
    torch.Size([1, 10])
    """
    return CSNN("csnn_cifar10", channels, hidden, image_size, T, num_classes, in_channels)

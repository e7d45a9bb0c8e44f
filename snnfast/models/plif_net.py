"""The networks of PLIF's authors: neurons whose time constants are learnt, and groups of ten output neurons that vote, summed over the steps.

(Fang et al., "Incorporating learnable membrane time constant to enhance learning of spiking neural networks", ICCV 2021.)
"""

from torch import nn

from snnfast.models.direct import DirectNetwork, EachLayer, LearntSpikes, SharedDropout, over_time, register

VOTES = 10  # output neurons of a class


def neuron(init_tau):
    return LearntSpikes(init_tau, reset="hard", surrogate="atan", gamma=2.0, detach_reset=True)


class PLIFNet(DirectNetwork):
    """See `plif_cifar10`. stages: how many convolutions stand between two poolings."""

    sums = True

    def __init__(
        self, arch: str, channels: int, stages: tuple[int, ...], features: int, T: int, num_classes: int, in_channels: int, init_tau: float
    ):
        super().__init__(arch, T, num_classes, in_channels, init_tau=init_tau)
        self.static_conv = nn.Sequential(nn.Conv2d(in_channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        layers = [neuron(init_tau)]
        for many in stages:
            for _ in range(many):
                layers += [nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), neuron(init_tau)]
            layers.append(nn.MaxPool2d(2, 2))
        self.conv = EachLayer(*layers)
        self.fc = EachLayer(
            nn.Flatten(), SharedDropout(0.5), nn.Linear(features, 2048, bias=False), neuron(init_tau),
            nn.Linear(2048, VOTES * num_classes, bias=False), neuron(init_tau),
        )  # fmt: skip

    def constant_part(self, x):
        return self.static_conv(x)

    def features(self, x, T):
        return self.conv(over_time(x, T))

    def last(self, features):
        """The votes of each step."""
        return self.fc(features).unflatten(-1, (-1, VOTES)).mean(-1)

    def answer(self, features):
        if features[0, 0].numel() != self.fc[2].in_features:
            raise ValueError(f"x must be images that leave {self.fc[2].in_features} features, got {features[0, 0].numel()}")
        return self.last(features).sum(0)


@register
def plif_cifar10(T: int = 8, num_classes: int = 10, in_channels: int = 3, init_tau: float = 2.0) -> PLIFNet:
    """PLIF's network for CIFAR-10 (Fang et al., ICCV 2021), for images of 32 x 32, with the authors' names.

    The outputs are votes summed over the steps, from 0 to T.

    Args:
        T: for how many steps an image is shown.
        num_classes, in_channels: the size of the logits, the channels of the image.
        init_tau: time constant of every neuron layer before the first epoch, > 1.

    >>> net = snnfast.models.plif_cifar10(T=2).eval()
    >>> net(torch.randn(1, 3, 32, 32)).shape
    torch.Size([1, 10])
    """
    return PLIFNet("plif_cifar10", 256, (2, 3), 256 * 8 * 8, T, num_classes, in_channels, init_tau)


@register
def plif_mnist(T: int = 8, num_classes: int = 10, in_channels: int = 1, init_tau: float = 2.0) -> PLIFNet:
    """PLIF's network for MNIST and Fashion-MNIST (Fang et al., ICCV 2021), for images of 28 x 28, with the authors' names.

    Args: as `plif_cifar10`.

    >>> net = snnfast.models.plif_mnist(T=2).eval()
    >>> net(torch.randn(1, 1, 28, 28)).shape
    torch.Size([1, 10])
    """
    return PLIFNet("plif_mnist", 128, (0, 1), 128 * 7 * 7, T, num_classes, in_channels, init_tau)

"""VGG-11/13/16/19 with batch norm and average pooling, as the QCFS authors lay it out (Bu et al., ICLR 2022).

Keys: `layer{1..5}.{0,4,8,12}` convolutions with bias, `+1` batch norm, `+2` activation, `+3` dropout, average pooling last in each;
`classifier.{1,4,7}` linear, `classifier.{2,5}` activations.
"""

from torch import nn

from snnfast import checks
from snnfast.models.network import Network
from snnfast.models.registry import register

WIDTHS = {
    "vgg11": ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    "vgg13": ((64, 64), (128, 128), (256, 256), (512, 512), (512, 512)),
    "vgg16": ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)),
    "vgg19": ((64, 64), (128, 128), (256, 256, 256, 256), (512, 512, 512, 512), (512, 512, 512, 512)),
}


class VGG(Network):
    """See `vgg16` for the arguments."""

    def __init__(
        self, arch, num_classes, levels, activation, theta, width, image_size, in_channels, dropout, channel_num=None, masking=0.0
    ):
        super().__init__(
            arch, num_classes, in_channels, levels, activation, theta, width, channel_num, masking, image_size=image_size, dropout=dropout
        )
        checks.choice("arch", arch, tuple(WIDTHS))
        checks.integer("image_size", image_size, 32)
        if image_size % 32:
            raise ValueError(f"image_size must be a multiple of 32, because five poolings halve it; got {image_size}")
        channels = in_channels
        for i, widths in enumerate(WIDTHS[arch], start=1):
            block = []
            for w in map(self.wide, widths):
                block += [nn.Conv2d(channels, w, 3, padding=1), nn.BatchNorm2d(w), self.act(w), nn.Dropout(dropout)]
                channels = w
            setattr(self, f"layer{i}", nn.Sequential(*block, nn.AvgPool2d(2)))
        hidden, features = self.wide(4096), channels * (image_size // 32) ** 2
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(features, hidden), self.act(hidden), nn.Dropout(dropout),
            nn.Linear(hidden, hidden), self.act(hidden), nn.Dropout(dropout), nn.Linear(hidden, num_classes),
        )  # fmt: skip
        self.finish()

    @classmethod
    def for_images(cls, size):
        return dict(image_size=size)

    @classmethod
    def read_off(cls, state):
        found = super().read_off(state) | dict(image_size=32, dropout=0.0)
        convolutions, head = [t for t in state.values() if t.dim() == 4], state.get("classifier.1.weight")
        if convolutions and head is not None and head.dim() == 2:
            found["image_size"] = 32 * max(1, round((head.size(1) / convolutions[-1].size(0)) ** 0.5))
        return found

    def forward(self, x):
        """x: [B, in_channels, image_size, image_size] -> logits [B, num_classes]."""
        for i in range(1, 6):
            x = getattr(self, f"layer{i}")(x)
        return self.classifier(x)


def _make(arch):
    def build(
        num_classes: int = 10,
        levels: int = 4,
        activation: str = "s-qcfs",
        theta: float = 4.0,
        width: float = 1.0,
        image_size: int = 32,
        in_channels: int = 3,
        dropout: float = 0.0,
        channel_num: int | None = None,
        masking: float = 0.0,
    ) -> VGG:
        return VGG(arch, num_classes, levels, activation, theta, width, image_size, in_channels, dropout, channel_num, masking)

    build.__name__ = build.__qualname__ = arch
    build.__doc__ = f"""{arch.upper()} with quantised activations.

    Args:
        num_classes: size of the logits.
        levels: quantisation levels L of every activation.
        activation: "qcfs", "s-qcfs" (theta = softplus(lam)), "e-qcfs" (exp), or per channel "c-qcfs", "cs-qcfs", "ce-qcfs".
        theta: first threshold of every activation.
        width: factor on all channel counts and on the 4,096 hidden features.
        image_size: 32, 224 or another multiple of 32.
        in_channels: channels of the image.
        dropout: probability after each activation.
        channel_num: with a channel-wise activation, how many of the last layers have a threshold per channel (None: all).
        masking: share of all spikes that is masked at random, in [0, 1); see `snnfast.nn.SpikeMask`.

    >>> net = snnfast.models.{arch}(num_classes=10, width=0.05)
    >>> net(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    return register(VGG)(build)


vgg11, vgg13, vgg16, vgg19 = (_make(a) for a in WIDTHS)

"""Networks with quantised activations, named as the papers name them."""

from snnfast.models.network import Network
from snnfast.models.resnet import STAGES, ResNet, resnet18, resnet20, resnet34, resnet50, resnet101
from snnfast.models.vgg import VGG, WIDTHS, vgg11, vgg13, vgg16, vgg19
from snnfast.ops import checks

BY_NAME = {f.__name__: f for f in (vgg11, vgg13, vgg16, vgg19, resnet18, resnet20, resnet34, resnet50, resnet101)}
_CLASS = {**dict.fromkeys(WIDTHS, VGG), **dict.fromkeys(STAGES, ResNet)}


def build(config):
    """The network with this `config`: arch and the arguments of its constructor."""
    checks.choice("arch", config.get("arch"), tuple(BY_NAME))
    return _CLASS[config["arch"]](**config)


__all__ = ["BY_NAME", "Network", "ResNet", "VGG", "build", *BY_NAME]

"""Networks with quantised activations, named as the papers name them."""

from snnfast import checks
from snnfast.models.network import Network
from snnfast.models.resnet import STAGES, ResNet, resnet18, resnet20, resnet34, resnet50, resnet101
from snnfast.models.swin import SIZES as SWINS
from snnfast.models.swin import Swin, swin_tiny
from snnfast.models.vgg import VGG, WIDTHS, vgg11, vgg13, vgg16, vgg19
from snnfast.models.vit import SIZES as VITS
from snnfast.models.vit import ViT, vit_base, vit_small, vit_tiny

_MAKERS = (vgg11, vgg13, vgg16, vgg19, resnet18, resnet20, resnet34, resnet50, resnet101, vit_tiny, vit_small, vit_base, swin_tiny)
BY_NAME = {f.__name__: f for f in _MAKERS}
CLASS_OF = {**dict.fromkeys(WIDTHS, VGG), **dict.fromkeys(STAGES, ResNet), **dict.fromkeys(VITS, ViT), **dict.fromkeys(SWINS, Swin)}


def build(config):
    """The network with this `config`: arch and the arguments of its constructor."""
    checks.choice("arch", config.get("arch"), tuple(BY_NAME))
    return CLASS_OF[config["arch"]](**config)


__all__ = ["BY_NAME", "CLASS_OF", "Network", "ResNet", "Swin", "VGG", "ViT", "build", *BY_NAME]

"""Networks with quantised activations, named as the papers name them, in the order in which they are told."""
# ruff: noqa: I001

from snnfast.models.registry import BY_NAME, CLASS_OF, build, register
from snnfast.models.network import Network
from snnfast.models.vgg import VGG, vgg11, vgg13, vgg16, vgg19
from snnfast.models.resnet import ResNet, resnet18, resnet20, resnet34, resnet50, resnet101
from snnfast.models.vit import ViT, vit_base, vit_small, vit_tiny
from snnfast.models.swin import Swin, swin_tiny

__all__ = [
    "BY_NAME", "CLASS_OF", "Network", "ResNet", "Swin", "VGG", "ViT", "build", "register", "resnet101", "resnet18", "resnet20", "resnet34",
    "resnet50", "swin_tiny", "vgg11", "vgg13", "vgg16", "vgg19", "vit_base", "vit_small", "vit_tiny",
]  # fmt: skip

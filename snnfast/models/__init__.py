"""Networks with quantised activations, named as the papers name them."""

from snnfast.models.vgg import VGG, vgg11, vgg13, vgg16, vgg19

BY_NAME = {"vgg11": vgg11, "vgg13": vgg13, "vgg16": vgg16, "vgg19": vgg19}

__all__ = ["BY_NAME", "VGG", "vgg11", "vgg13", "vgg16", "vgg19"]

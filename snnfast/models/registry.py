"""The networks by name: a file of its own and a decorator make one known to `snnfast train`, to checkpoints and to `snnfast.models`."""

import torch

from snnfast import checks

BY_NAME = {}  # name -> the function that builds it
CLASS_OF = {}  # name -> its class, a `Network`


def register(cls):
    """Makes a function, under its name, known as one that builds a `cls`."""

    def known(build):
        BY_NAME[build.__name__], CLASS_OF[build.__name__] = build, cls
        return build

    return known


def build(config: dict) -> torch.nn.Module:
    """The network with this `config`: arch and the arguments of its constructor.

    >>> net = snnfast.models.vgg11(width=0.05)
    >>> type(snnfast.models.build(net.config)).__name__
    'VGG'
    """
    checks.choice("arch", config.get("arch"), tuple(BY_NAME))
    return CLASS_OF[config["arch"]](**config)

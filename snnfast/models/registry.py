"""The networks by name: a file of its own and a decorator make one known to `snnfast train`, to checkpoints and to `snnfast.models`."""

from collections.abc import Callable

from snnfast import checks
from snnfast.models.network import Network

BY_NAME: dict[str, Callable] = {}  # name -> the function that builds it
CLASS_OF: dict[str, type] = {}  # name -> its class, a `Network`


def register(cls):
    """Makes a function, under its name, known as one that builds a `cls`."""

    def known(build):
        BY_NAME[build.__name__], CLASS_OF[build.__name__] = build, cls
        return build

    return known


def build(config: dict) -> Network:
    """The network with this `config`: arch and the arguments of its constructor.

    >>> net = snnfast.models.vgg11(width=0.05)
    >>> type(snnfast.models.build(net.config)).__name__
    'VGG'
    """
    checks.choice("arch", config.get("arch"), tuple(BY_NAME))
    return CLASS_OF[config["arch"]](**config)

"""The networks by name: a file of its own and a decorator make one known to `snnfast train`, to checkpoints and to `snnfast.models`."""

from snnfast import checks

BY_NAME = {}  # name -> the function that builds it
CLASS_OF = {}  # name -> its class, a `Network`


def register(cls):
    """Makes a function, under its name, known as one that builds a `cls`."""

    def known(build):
        BY_NAME[build.__name__], CLASS_OF[build.__name__] = build, cls
        return build

    return known


def build(config):
    """The network with this `config`: arch and the arguments of its constructor."""
    checks.choice("arch", config.get("arch"), tuple(BY_NAME))
    return CLASS_OF[config["arch"]](**config)

"""snnfast: spiking neurons over all time steps in one launch, and the accuracy of converted networks at any T."""

from snnfast.version import __version__

import torch  # noqa: F401  (the compiled library finds torch's symbols through it)

from snnfast import backends
from snnfast.ops import library as _library
from snnfast.ops.iaf import IAFState, iaf
from snnfast.ops.qcfs import cs_qcfs, qcfs

backends.register(_library.override)

# Everything else is imported when it is first asked for, so that `import snnfast` costs little beyond torch.
_LAZY = {
    "convert": "convert",
    "SpikingNetwork": "spiking",
    "evaluate": "evaluate",
    "Report": "report",
    "to_channelwise": "stages",
    "save_checkpoint": "checkpoints",
    "load_checkpoint": "checkpoints",
}
_MODULES = ("nn", "models", "data", "train")

__all__ = ["IAFState", "cs_qcfs", "iaf", "qcfs", *_LAZY, *_MODULES]


def __getattr__(name):
    import importlib

    if name in _LAZY:
        return getattr(importlib.import_module(f"snnfast.{_LAZY[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"snnfast.{name}")
    raise AttributeError(f"module 'snnfast' has no attribute {name!r}")

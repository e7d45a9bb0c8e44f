"""snnfast: spiking neurons over all time steps in one launch, and the accuracy of converted networks at any T."""

from snnfast.version import __version__

import torch  # noqa: F401  (the compiled library finds torch's symbols through it)

from snnfast import backends
from snnfast.ops import library as _library
from snnfast.ops.iaf import IAFState, iaf
from snnfast.ops.qcfs import cs_qcfs, qcfs

backends.register(_library.override)

__all__ = ["IAFState", "cs_qcfs", "iaf", "qcfs"]

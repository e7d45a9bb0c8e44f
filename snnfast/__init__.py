"""snnfast: spiking neurons over all time steps in one launch, and the accuracy of converted networks at any T."""

import torch  # noqa: F401  (the compiled library finds torch's symbols through it)

from snnfast import backends
from snnfast.neuron import neuron
from snnfast.ops import library as _library
from snnfast.ops.conv import spike_conv2d, spike_linear
from snnfast.ops.cos import cos_start
from snnfast.ops.iaf import iaf
from snnfast.ops.lif import lif
from snnfast.ops.multistep import IAFState
from snnfast.ops.qcfs import cs_qcfs, qcfs
from snnfast.ops.rows import RowState, layer_norm_over_time, softmax_over_time
from snnfast.version import __version__  # noqa: F401

backends.register(_library.override)

from snnfast import data, models, nn, train  # noqa: E402  (layers need the ops)
from snnfast.accelerate import Accelerated, accelerate  # noqa: E402
from snnfast.checkpoints import load_checkpoint, save_checkpoint  # noqa: E402
from snnfast.convert import convert  # noqa: E402
from snnfast.evaluate import evaluate  # noqa: E402
from snnfast.extract import extract  # noqa: E402
from snnfast.report import Report  # noqa: E402
from snnfast.spiking import SpikingNetwork  # noqa: E402
from snnfast.stages import to_channelwise  # noqa: E402

__all__ = [
    "Accelerated", "IAFState", "Report", "RowState", "SpikingNetwork", "accelerate", "convert", "cos_start", "cs_qcfs", "data", "evaluate",
    "extract", "iaf", "layer_norm_over_time", "lif", "load_checkpoint", "models", "neuron", "nn", "qcfs", "save_checkpoint",
    "softmax_over_time", "spike_conv2d", "spike_linear", "to_channelwise", "train",
]  # fmt: skip


def __dir__():
    return [*__all__, "__version__"]

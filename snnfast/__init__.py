"""snnfast: spiking neurons over all time steps in one launch, and the accuracy of converted networks at any T."""

import torch  # noqa: F401  (the compiled library finds torch's symbols through it)

from snnfast import conversion, data, evaluation, models, nn, plots, statistics, train, training  # noqa: F401  (former names too)
from snnfast.checkpoints import direct as _direct  # noqa: F401  (which makes files of directly trained networks known)
from snnfast.checkpoints.extract import extract
from snnfast.checkpoints.own import load_checkpoint, save_checkpoint
from snnfast.checkpoints.weights import load_weights
from snnfast.conversion import files as _files  # noqa: F401  (which makes files of converted networks known)
from snnfast.conversion.convert import convert
from snnfast.engines import backends
from snnfast.evaluation import choose as _choose  # noqa: F401  (which chooses methods for convert)
from snnfast.evaluation.conventions import Operations, operations
from snnfast.evaluation.diagnosis import Diagnosis, diagnose
from snnfast.evaluation.early import EarlyReport, ExitRule, answer_early, calibrate_exit, evaluate_early
from snnfast.evaluation.evaluate import evaluate
from snnfast.interop.accelerate import Accelerated, accelerate
from snnfast.interop.hub import from_pretrained, push_to_hub
from snnfast.interop.nir_export import export_nir
from snnfast.interop.nir_import import import_nir
from snnfast.interop.onnx_export import export_onnx
from snnfast.models.channelwise import to_channelwise
from snnfast.models.replaced import to_quantised
from snnfast.ops import library as _library
from snnfast.ops.conv import spike_conv2d, spike_linear
from snnfast.ops.cos import cos_start
from snnfast.ops.exact import ExactWeights, exact_conv2d, exact_linear, exact_weights
from snnfast.ops.iaf import iaf
from snnfast.ops.lif import lif
from snnfast.ops.neuron import IAFState
from snnfast.ops.norm_neuron import norm_neuron
from snnfast.ops.plif import plif
from snnfast.ops.pool import max_pool2d
from snnfast.ops.python_neuron import neuron
from snnfast.ops.qcfs import cs_qcfs, qcfs
from snnfast.ops.quanta import quanta
from snnfast.ops.rows import RowState, layer_norm_over_time, softmax_over_time
from snnfast.reports.report import Report
from snnfast.runtime.network import SpikingNetwork
from snnfast.runtime.steps import Steps
from snnfast.training.kept_spikes import spikes_as_bits
from snnfast.training.through_time import backward_through_time
from snnfast.version import __version__  # noqa: F401

backends.register(_library.override)

__all__ = [
    "Accelerated", "Diagnosis", "EarlyReport", "ExactWeights", "ExitRule", "IAFState", "Operations", "Report", "RowState", "SpikingNetwork",
    "Steps", "accelerate", "answer_early", "backward_through_time", "calibrate_exit", "conversion", "convert", "cos_start", "cs_qcfs", "data",
    "diagnose", "evaluate", "evaluate_early", "evaluation", "exact_conv2d", "exact_linear", "exact_weights", "export_nir", "export_onnx",
    "extract", "from_pretrained", "iaf", "import_nir", "layer_norm_over_time", "lif", "load_checkpoint", "load_weights", "max_pool2d", "models",
    "neuron", "nn", "norm_neuron", "operations", "plif", "push_to_hub", "qcfs", "quanta", "save_checkpoint", "softmax_over_time", "spike_conv2d",
    "spike_linear", "spikes_as_bits", "to_channelwise", "to_quantised", "train", "training",
]  # fmt: skip


def __dir__():
    return [*__all__, "__version__"]

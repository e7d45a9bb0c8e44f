"""Networks as ONNX: quantised ones, and spiking ones as their answer after T steps or as two files of a step each."""

import contextlib
import copy
import os
import warnings
from pathlib import Path

import torch

from snnfast import checks
from snnfast.conversion.direct import is_direct
from snnfast.graph.outputs import leaves
from snnfast.runtime.network import SpikingNetwork
from snnfast.runtime.steps import Steps
from snnfast.system import packages
from snnfast.system.files import file_to_write, whole
from snnfast.system.text import first_line

MOST_IMAGES = 1 << 16  # of a batch


def export_onnx(
    net: torch.nn.Module, sample: torch.Tensor, path: str | os.PathLike, *, T: int | None = None, opset: int | None = None
) -> list[Path]:
    """Writes a network as ONNX, in ONNX's own operators: activations and neurons by their equations, so that any runtime takes them.

    The number of images stays open. What a runtime computes is the same function, rounded by that runtime: where it sums a product in another order
    a value on the edge between two levels, or a potential on its threshold, may fall to the other side. ONNX Runtime has no convolution of float64 or
    bfloat16: give it `net.float()`.

    Args:
        net: a network with quantised activations or any others, which is written as it answers in eval mode; or what `snnfast.convert` returns, of
            a method that `Steps` takes.
        sample: images [1 or more, ...]; only their number may differ later.
        path: the file, by custom with the ending .onnx.
        T: of a spiking network, the steps of a run: from "x" to "y" (of several outputs to their keys), what `net(x, T)` answers; the file has each
            step once more. Without T there are two files of one step, NAME.first.onnx and NAME.later.onnx, whose states are "v_0", "v_1", ... on
            their way in and "u_0", "u_1", ... on their way out: the first from "x", a later one from "x" and the states that the step before gave.
            "y" is then the output of the step, whose mean over the steps is the answer (in mode "differential" the sum).
        opset: version of ONNX's operators, 18 or a later one that torch writes; default: torch's.

    Returns:
        The files.

    Raises:
        ValueError, TypeError: naming the argument; a package is missing (onnx, onnxscript); or ONNX has no operator for a layer.

    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), snnfast.nn.QCFS(levels=8, theta=1.0), torch.nn.Linear(8, 2))
    >>> [path.name for path in snnfast.export_onnx(net, torch.randn(2, 4), "net.onnx")]
    ['net.onnx']
    """
    packages.check_installed("onnx", "onnxscript", extra="onnx")
    if not isinstance(net, torch.nn.Module):
        raise TypeError(f"net must be a torch.nn.Module, got {type(net).__name__}")
    checks.tensor("sample", sample)
    if sample.dim() < 2 or sample.size(0) == 0:
        raise ValueError(f"sample must be images [1 or more, ...], got shape {tuple(sample.shape)}")
    if opset is not None:
        checks.integer("opset", opset, 18)
    path, sample = file_to_write(path), sample.detach()
    if not path.parent.is_dir():
        raise ValueError(f"path: there is no folder {path.parent}")
    sample = torch.cat([sample, sample])[:2] if sample.size(0) == 1 else sample  # of one image the exporter takes the number for a constant
    if is_direct(net):
        raise TypeError("net was trained as a spiking network: give snnfast.convert(net), which runs its neurons step by step")
    if not isinstance(net, SpikingNetwork):
        if T is not None:
            raise ValueError("T is of spiking networks: give what snnfast.convert returns")
        net = net.module if isinstance(net, torch.nn.DataParallel) else net
        net = copy.deepcopy(net).eval().requires_grad_(False)
        try:
            names = _names(net(sample))
        except RuntimeError as error:  # torch's, of shapes and dtypes
            raise ValueError(f"sample does not fit net: {first_line(error)}") from error
        return _written([(net, (sample,), path, ["x"], names)], opset)
    if net.method.name == "power":
        raise ValueError("net has method 'power', whose neuron reads the bits of a number, for which ONNX has no operator")
    if T is not None:
        outputs = _names(None if net.outputs is None else net.outputs.tree)
        return _written([(Steps(net, checks.steps("T", T), answer=True), (sample,), path, ["x"], outputs)], opset)
    with torch.no_grad():
        _, *state = Steps(net)(sample)
        later = Steps(net, first=False)
        later(sample, *state)  # which notes how the states are put together
    names = [f"_{i}" for i in range(len(state))]
    outputs = ["y", *("u" + n for n in names)]
    first, second = (path.with_name(f"{path.name.removesuffix('.onnx')}.{step}.onnx") for step in ("first", "later"))
    return _written(
        [(Steps(net), (sample,), first, ["x"], outputs), (later, (sample, *state), second, ["x", *("v" + n for n in names)], outputs)],
        opset,
    )


def _names(given):
    """Names of the outputs: "y", or the keys in the structure that the network gives."""
    found = list(leaves(given))
    return ["y"] if found == [""] else found


def _written(graphs, opset):
    """Writes all of the files or none. graphs: (net, arguments, path, names of inputs, names of outputs) of each."""
    with contextlib.ExitStack() as stack:
        for net, given, path, inputs, outputs in graphs:
            _write(net, given, stack.enter_context(whole(path)), inputs, outputs, opset)
    return [path for _, _, path, _, _ in graphs]


def _write(net, given, part, inputs, outputs, opset):
    batch = torch.export.Dim("batch", min=1, max=MOST_IMAGES)
    shapes = ({0: batch}, *([tuple({0: batch} for _ in given[1:])] if isinstance(net, Steps) and len(given) > 1 else ()))
    with warnings.catch_warnings(), torch.no_grad(), torch.autocast(given[0].device.type, enabled=False):
        warnings.simplefilter("ignore")  # the exporter's own, about its insides
        try:
            program = torch.onnx.export(
                net, given, input_names=inputs, output_names=outputs, dynamic_shapes=shapes, opset_version=opset, verbose=False,
            )  # fmt: skip
        except (torch.onnx.OnnxExporterError, torch.fx.experimental.symbolic_shapes.ConstraintViolationError) as error:
            raise ValueError(f"net cannot become ONNX: {_why(error)}") from error
        _check_open(program)
        program.save(part, external_data=False)
    if opset is not None:
        import onnx

        got = next(entry.version for entry in onnx.load(part).opset_import if entry.domain in ("", "ai.onnx"))
        if got != opset:
            raise ValueError(f"opset must be a version that torch's exporter writes, got {opset}: it wrote {got}")


def _check_open(program):
    """Refuses a file that is right for some numbers of images alone: one that is fixed, or in which another branch was taken."""
    fixed = next((entry for entry in program.model.graph.inputs if isinstance(entry.shape[0], int)), None)
    if fixed is not None:
        raise ValueError(f"net cannot become ONNX for any number of images: in it this number is fixed to that of sample, {fixed.shape[0]}")
    for known in program.exported_program.range_constraints.values():
        if known.lower > 1 or known.upper < MOST_IMAGES:
            raise ValueError(
                f"net cannot become ONNX for any number of images: what it computes holds for {known.lower} to {known.upper} of them"
            )


def _why(error):
    """The cause in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)

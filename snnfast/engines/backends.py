"""The only place that chooses backends: what is built, and who serves which dispatch key. `snnfast info` prints the choice.

    CPU    the compiled library `snnfast._C` where it was built, else the reference in plain torch
    CUDA   the compiled library `snnfast._CUDA` where it was built, else Triton where it is installed, else the reference
           (SNNFAST_CUDA_PROVIDER=cuda|triton|reference)

Neurons that are written in Python alone have no C++ kernel, and the exact product has one on the CPU alone: on CUDA they run on Triton if it is
installed and the provider is not the reference. The choice is made once, at import; the dispatcher does the rest.
"""

import importlib
import importlib.util
import os
import warnings
from pathlib import Path


def _load(name):
    """The compiled module, or None and why not."""
    if not importlib.util.find_spec(name):
        told = Path(__file__).parents[1] / "not_built.txt"  # setup.py writes this file if it built nothing
        return None, f"it was not built: {told.read_text().strip()}" if told.exists() else "it was not built"
    try:
        return importlib.import_module(name), None
    except ImportError as error:  # built for another torch or Python
        return None, f"it does not load: {error}"


_C, _why = _load("snnfast._C")
_warned: set[tuple[str, str]] = set()
_BESIDE_NEURONS = (
    *("cos_fwd", "qcfs_fwd", "qcfs_bwd", "conv_fwd", "conv_out", "softmax_out", "layer_norm_out"),
    *("channel_sums", "channel_add", "pool_fwd", "pool_bwd"),
)
TENSOR_CORES = "exact_fwd", "exact_out"  # in C++ on the CPU alone; on CUDA in Triton alone, with any provider but the reference
COMPILED = [*_BESIDE_NEURONS]  # the ops that have C++ kernels; `register_neuron` adds those of neurons
has_triton = importlib.util.find_spec("triton") is not None


def _choose_cuda():
    """(who serves CUDA tensors, the compiled CUDA library if it is the provider, the reason)."""
    asked = os.environ.get("SNNFAST_CUDA_PROVIDER") or None
    if asked not in (None, "cuda", "triton", "reference"):
        raise ValueError(f"SNNFAST_CUDA_PROVIDER must be 'cuda', 'triton' or 'reference', got {asked!r}")
    library, why = _load("snnfast._CUDA") if asked in (None, "cuda") else (None, None)
    if asked == "cuda" and library is None:
        raise ImportError(f"SNNFAST_CUDA_PROVIDER=cuda, but the library snnfast._CUDA cannot be used: {why}")
    if asked == "triton" and not has_triton:
        raise ImportError("SNNFAST_CUDA_PROVIDER=triton, but the package triton is not installed")
    if asked:
        return asked, library, "SNNFAST_CUDA_PROVIDER asks for it"
    if library:
        return "cuda", library, "the compiled library is there"
    why = f"the compiled CUDA library cannot be used ({why})"
    return ("triton", None, why) if has_triton else ("reference", None, f"{why} and triton is not installed")


provider, _CUDA, _cuda_why = _choose_cuda()


def register(override):
    """Lets the chosen providers override the reference; `override(op, key, function)` registers one kernel.

    The compiled libraries registered theirs when they were imported, above.
    """
    names = [*(_BESIDE_NEURONS if provider == "triton" else ()), *(TENSOR_CORES if has_triton and provider != "reference" else ())]
    for name in names:
        override(name, "CUDA", _triton(lambda kernels, name=name: getattr(kernels, name)))


def register_neuron(override, stem, equation, differentiable, compiled):
    """Registers a neuron's Triton kernels on CUDA: if Triton is the provider, or for a neuron in Python alone, if the reference is not."""
    names = [f"{stem}_{part}" for part in ("fwd", "out", *(("bwd",) if differentiable else ()))]
    if compiled:
        COMPILED.extend(names)
    if provider == "triton" or (not compiled and has_triton and provider != "reference"):
        for name in names:
            part = name.rpartition("_")[2]
            override(name, "CUDA", _triton(lambda kernels, part=part: getattr(kernels.multistep_of(equation), part)))


def _triton(find):
    """A kernel of the Triton column, found when it is first called: importing Triton takes 0.5 s."""
    found = []

    def kernel(*args):
        if not found:
            from snnfast.engines.triton import launch

            found.append(find(launch))
        return found[0](*args)

    return kernel


def warn_reference(op, device):
    """Says once per op and device that the slow kernel runs where a fast one was expected."""
    expected = device.type == "cuda" or (device.type == "cpu" and op in (*COMPILED, *TENSOR_CORES))
    if not expected or (op, device.type) in _warned:
        return
    _warned.add((op, device.type))
    if device.type == "cpu":
        why = f"the compiled library is missing ({_why})" if _C is None else "the compiled library was built without it"
    else:
        why = f"the provider of CUDA kernels is {provider}, because {_cuda_why}"
    warnings.warn(f"snnfast::{op} on {device.type} runs on the reference kernel in plain torch, which is slow: {why}", stacklevel=3)

"""What was built and who serves each op: what `snnfast info` prints."""

import platform

import torch

from snnfast.engines import backends
from snnfast.ops import library
from snnfast.version import __version__


def served_by(op):
    """Who serves snnfast::<op> on each device, as a dictionary."""

    def has(key):
        return torch._C._dispatch_has_kernel_for_dispatch_key(f"snnfast::{op}", key)

    native = backends.provider if op in backends.COMPILED else "triton"
    return {"cpu": "C++" if has("CPU") else "reference", "cuda": native if has("CUDA") else "reference"}


def info():
    """What was built, who serves what, and why, as a dictionary of strings and dictionaries."""
    gpu = "no CUDA device is visible"
    if torch.cuda.is_available():
        gpu = f"{torch.cuda.get_device_name()}, compute capability {'.'.join(map(str, torch.cuda.get_device_capability()))}"
    return {
        "snnfast": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "CPU library": dict(backends._C.build_info()) if backends._C else f"none, every op runs on the reference kernels: {backends._why}",
        "CUDA library": dict(backends._CUDA.build_info()) if backends._CUDA else f"not used: {backends._cuda_why}",
        "cpu": f"C++, {backends._C.isa()}" if backends._C else "reference (plain torch)",
        "cuda": f"{backends.provider}, because {backends._cuda_why}; {gpu}",
        **{f"snnfast::{op}": served_by(op) for op in library.names()},
    }

"""The CUDA column compiled by g++ for the host (`make test-native`): its kernels on CPU tensors."""

import functools
import importlib.util
from pathlib import Path

import torch

BUILD = Path(__file__).resolve().parents[1] / "build"
given = []  # by `pytest --on-host FOLDER`: another build's


def folder():
    """Where the library is: in the newest build that has one, or in the one that was given."""
    found = sorted(BUILD.glob("cmake-*/_cuda_on_host*.so"), key=lambda path: path.stat().st_mtime)
    return Path(given[-1]) if given else found[-1].parent if found else BUILD


def on_host_library():
    """The compiled library, or None."""
    return next(folder().glob("_cuda_on_host*.so"), None)


@functools.cache
def host_kernels():
    """op -> the function that calls its CUDA kernel: the library registers the kernels under a dispatch key that nothing else uses."""
    spec = importlib.util.spec_from_file_location("_cuda_on_host", on_host_library())
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, module.key))
    return lambda overload: functools.partial(overload.redispatch, keys)

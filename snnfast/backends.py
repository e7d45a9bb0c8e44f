"""The only chooser: what is built, who serves which dispatch key. `snnfast info` prints what stands here.

    CPU    the compiled library `snnfast._C` where it was built, else the reference in plain torch
    CUDA   Triton where it is installed, else the reference (SNNFAST_CUDA_PROVIDER=triton|reference)

The choice is made once, at import; the dispatcher does the rest.
"""

import importlib.util
import os
import warnings

_C, _why = None, "it was not built"
if importlib.util.find_spec("snnfast._C"):
    try:
        from snnfast import _C
    except ImportError as error:  # built for another torch or Python
        _why = f"it does not load: {error}"

_warned = set()


def cuda_provider():
    """Who serves CUDA tensors: "triton" or "reference"."""
    found = "triton" if importlib.util.find_spec("triton") else "reference"
    asked = os.environ.get("SNNFAST_CUDA_PROVIDER", found)
    if asked not in ("triton", "reference"):
        raise ValueError(f"SNNFAST_CUDA_PROVIDER must be 'triton' or 'reference', got {asked!r}")
    if asked == "triton" and found != "triton":
        raise ImportError("SNNFAST_CUDA_PROVIDER=triton, but the package triton is not installed")
    return asked


provider = cuda_provider()


def register(override):
    """Lets the chosen providers override the reference; `override(op, key, function)` registers one kernel.

    The compiled library registered its CPU kernels when it was imported, above.
    """
    if provider != "triton":
        return

    def lazily(name):
        def kernel(*args):
            from snnfast.triton import kernels  # 0.5 s, paid by the first CUDA call

            return getattr(kernels, name)(*args)

        return kernel

    for name in ("iaf_fwd", "iaf_out", "iaf_bwd", "qcfs_fwd", "qcfs_bwd"):
        override(name, "CUDA", lazily(name))


def warn_reference(op, device):
    """Says once per op and device that the slow kernel runs where a fast one was expected."""
    if device.type not in ("cpu", "cuda") or (op, device.type) in _warned:
        return
    _warned.add((op, device.type))
    if device.type == "cpu":
        why = f"the compiled library is missing ({_why})" if _C is None else "the compiled library was built without it"
    else:
        why = f"SNNFAST_CUDA_PROVIDER is {provider}"
    warnings.warn(f"snnfast::{op} on {device.type} runs on the reference kernel in plain torch, which is slow: {why}", stacklevel=3)


def info():
    """What was built and who serves what, as a dictionary of strings and lists."""
    import platform

    import torch

    import snnfast

    native = dict(_C.build_info()) if _C is not None else None
    return {
        "snnfast": snnfast.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "compiled library": native if native else f"not built: every op runs on the reference kernels ({_why})",
        "cpu": f"C++, {_C.isa()}" if native else "reference (plain torch)",
        "cuda": provider if torch.cuda.is_available() else f"{provider} (no CUDA device is visible)",
    }

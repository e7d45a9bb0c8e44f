"""Installs SpikingJelly 2.0.0 beside this interpreter's torch: from source with its native kernels where torch has CUDA and nvcc is there.

`make peers` calls it. Without torch's CUDA or nvcc its wheel is installed, which runs in plain torch on the CPU and in Triton on a GPU.
"""

import os
import subprocess
import sys

import torch
from torch.utils.cpp_extension import CUDA_HOME

PACKAGE = "spikingjelly==2.0.0"


def native():
    """Whether its native kernels can be built."""
    return torch.version.cuda is not None and CUDA_HOME is not None and os.path.isfile(os.path.join(CUDA_HOME, "bin", "nvcc"))


def arguments(native):
    line = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    return [*line, "--no-build-isolation", "--no-binary", "spikingjelly", PACKAGE] if native else [*line, PACKAGE]


def main():
    build = native()
    print(f"{PACKAGE}: {'from source, with its native CUDA kernels' if build else 'its wheel, without native kernels'}")
    return subprocess.run(arguments(build), env={**os.environ, **({"SJ_BUILD_NATIVE_CUDA": "1"} if build else {})}).returncode


if __name__ == "__main__":
    sys.exit(main())

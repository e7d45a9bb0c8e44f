"""Builds snnfast._C with CMake; everything else stands in pyproject.toml and CMakeLists.txt."""

import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


def tool(name, folder):
    """The path of cmake or ninja: on the PATH, or in the Python package of that name, whose scripts a PATH may not have."""
    found = shutil.which(name)
    if not found and importlib.util.find_spec(name):
        found = shutil.which(name, path=getattr(importlib.import_module(name), folder))
    if not found:
        sys.exit(f"snnfast: {name} is needed to build the kernels, and is neither on the PATH nor installed (pip install {name})")
    return found


class CMakeBuild(build_ext):
    def build_extension(self, ext):
        target = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}"
        cmake, ninja = tool("cmake", "CMAKE_BIN_DIR"), tool("ninja", "BIN_DIR")
        configure = [cmake, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}", "-S", str(ROOT), "-B", str(build)]
        configure += [f"-DPython_EXECUTABLE={sys.executable}"]
        for option, default in (("SNNFAST_CUDA", "auto"), ("SNNFAST_CUDA_ARCHS", "80;90")):
            configure.append(f"-D{option}={os.environ.get(option) or default}")
        subprocess.run([*configure, f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target}"], check=True)
        subprocess.run([cmake, "--build", str(build)], check=True)

    def copy_extensions_to_source(self):
        # Older ones must not stay: Python prefers a library of its own version's name, and setuptools does not know of the CUDA module, which is
        # built only where torch has CUDA.
        for old in (*(ROOT / "snnfast").glob("_CUDA*.so"), *(ROOT / "snnfast").glob("_C.*.so")):
            old.unlink()
        super().copy_extensions_to_source()
        for module in (Path(self.build_lib) / "snnfast").glob("_CUDA*.so"):
            shutil.copy2(module, ROOT / "snnfast")


setup(
    ext_modules=[Extension("snnfast._C", sources=[], py_limited_api=True)],
    cmdclass={"build_ext": CMakeBuild},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)

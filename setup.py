"""Builds snnfast._C with CMake; everything else stands in pyproject.toml and CMakeLists.txt."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    def build_extension(self, ext):
        target = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}"
        configure = ["cmake", "-G", "Ninja", "-S", str(ROOT), "-B", str(build), f"-DPython_EXECUTABLE={sys.executable}"]
        for option, default in (("SNNFAST_CUDA", "auto"), ("SNNFAST_CUDA_ARCHS", "80;90")):
            configure.append(f"-D{option}={os.environ.get(option) or default}")
        subprocess.run([*configure, f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target}"], check=True)
        subprocess.run(["cmake", "--build", str(build)], check=True)

    def copy_extensions_to_source(self):
        super().copy_extensions_to_source()
        # The CUDA module is built only where torch has CUDA, so setuptools does not know of it; an older one must not stay.
        for old in (ROOT / "snnfast").glob("_CUDA*.so"):
            old.unlink()
        for module in (Path(self.build_lib) / "snnfast").glob("_CUDA*.so"):
            shutil.copy2(module, ROOT / "snnfast")


setup(ext_modules=[Extension("snnfast._C", sources=[])], cmdclass={"build_ext": CMakeBuild})

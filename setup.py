"""Builds snnfast._C with CMake; everything else stands in pyproject.toml and CMakeLists.txt."""

import os
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


setup(ext_modules=[Extension("snnfast._C", sources=[])], cmdclass={"build_ext": CMakeBuild})

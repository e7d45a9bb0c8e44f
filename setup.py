"""Builds snnfast._C with CMake; everything else stands in pyproject.toml and CMakeLists.txt.

Where something is missing that the kernels cannot be built without, the Python part is installed alone: it says so in one line, now and in
`snnfast info`, and every op runs on the reference kernels in plain torch. What is there and does not build is an error.
"""

import importlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


class Missing(Exception):
    """What the kernels cannot be built without."""


def tool(name, folder):
    """The path of cmake or ninja: on the PATH, or in the Python package of that name, whose scripts a PATH may not have."""
    found = shutil.which(name)
    if not found and importlib.util.find_spec(name):
        found = shutil.which(name, path=getattr(importlib.import_module(name), folder))
    if not found:
        raise Missing(f"{name} is neither on the PATH nor installed (pip install {name})")
    return found


def compiler():
    """The C++ compiler: $CXX, else g++. Its vector types are what the kernels are written in."""
    asked = os.environ.get("CXX")
    found = shutil.which(asked or "g++")
    if not found:
        raise Missing(f"there is no {asked or 'g++'} on the PATH")
    macros = subprocess.run([found, "-dM", "-E", "-x", "c++", "/dev/null"], capture_output=True, text=True).stdout
    if "__GNUC__" not in macros or "__clang__" in macros:
        raise Missing(f"the kernels use GCC's vector types, and {found} is another compiler")
    return found


def ground():
    """(cmake, ninja, g++), or Missing."""
    if platform.machine() not in ("x86_64", "AMD64"):
        raise Missing(f"the kernels are written for x86-64, and this is {platform.machine()}")
    if not importlib.util.find_spec("torch"):
        raise Missing("torch is not there (with it installed: pip install --no-build-isolation)")
    return tool("cmake", "CMAKE_BIN_DIR"), tool("ninja", "BIN_DIR"), compiler()


class CMakeBuild(build_ext):
    def run(self):
        reason = Path(self.build_lib) / "snnfast/not_built.txt"
        reason.unlink(missing_ok=True)
        try:
            self.ground = ground()
        except Missing as why:
            self.extensions = []
            reason.parent.mkdir(parents=True, exist_ok=True)
            reason.write_text(f"{why}\n")
            print(f"snnfast: the compiled kernels are not built, so ops run in plain torch, 5 to 50 times slower: {why}", file=sys.stderr)
        super().run()
        if self.inplace:
            self.settle(reason)

    def build_extension(self, ext):
        target = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}"
        cmake, ninja, cxx = self.ground
        configure = [
            cmake,
            "-G",
            "Ninja",
            f"-DCMAKE_MAKE_PROGRAM={ninja}",
            f"-DCMAKE_CXX_COMPILER={cxx}",
            "-S",
            str(ROOT),
            "-B",
            str(build),
        ]
        configure += [f"-DPython_EXECUTABLE={sys.executable}"]
        for option, default in (("SNNFAST_CUDA", "auto"), ("SNNFAST_CUDA_ARCHS", "auto")):
            configure.append(f"-D{option}={os.environ.get(option) or default}")
        # By the environment: a variable that differs from a build folder's would make CMake forget the others.
        subprocess.run([*configure, f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target}"], check=True, env={**os.environ, "CXX": cxx})
        subprocess.run([cmake, "--build", str(build)], check=True)

    def copy_extensions_to_source(self):
        # Older ones must not stay: Python prefers a library of its own version's name.
        for old in (ROOT / "snnfast").glob("_C.*.so"):
            old.unlink()
        super().copy_extensions_to_source()

    def settle(self, reason):
        """In place: what setuptools does not know of. The CUDA module is built only where torch has CUDA."""
        package = ROOT / "snnfast"
        for old in (*package.glob("_CUDA*.so"), package / "not_built.txt"):
            old.unlink(missing_ok=True)
        for new in (*(Path(self.build_lib) / "snnfast").glob("_CUDA*.so"), *([reason] if reason.exists() else [])):
            shutil.copy2(new, package)


setup(
    ext_modules=[Extension("snnfast._C", sources=[], py_limited_api=True)],
    cmdclass={"build_ext": CMakeBuild},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)

"""The rules of the house that a test can hold."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = sorted(p for folder in ("snnfast", "tests", "bench") for p in (ROOT / folder).rglob("*.py"))
NATIVE = sorted(p for folder in ("csrc", "tests") for kind in ("*.h", "*.cpp", "*.cu") for p in (ROOT / folder).rglob(kind))


def test_columns_hold_the_same_files():
    engines = {p.stem for p in (ROOT / "snnfast/engines/reference").glob("*.py")} - {"__init__"}
    assert engines == {"multistep", "calibrate", "elementwise", "gather", "rows", "integer", "channels", "pool"}
    engines -= {"integer"}  # on tensor cores by Triton; C++ has the gathering loop for it, in fp64
    assert (ROOT / "snnfast/engines/triton/integer.py").exists()
    for column in ("snnfast/engines/triton", "csrc/engines/cpu", "csrc/engines/cuda"):
        assert engines <= {p.stem for p in (ROOT / column).iterdir()}, column


def test_every_equation_has_its_four_files():
    for folder in ("neurons", "activations", "synapses", "functions"):
        for definition in (ROOT / "snnfast/equations" / folder).glob("*.py"):
            if definition.stem in ("__init__", "defaults"):
                continue
            if definition.stem == "lif":  # a part of iaf's step: a twin and a public function, no op of its own
                assert (ROOT / "csrc/equations/neurons/lif.h").exists() and (ROOT / "snnfast/ops/lif.py").exists()
                continue
            if definition.stem == "exact":  # integers, which every engine adds as it likes
                assert (ROOT / "snnfast/ops/exact.py").exists()
                continue
            assert (ROOT / "csrc/equations" / folder / f"{definition.stem}.h").exists()
            if folder == "functions":  # ops of one form, so one file for all; exponential is a part of softmax
                ops = {"moments": "channels", "max_pool": "pool"}
                if definition.stem in ops:
                    assert (ROOT / f"csrc/ops/{ops[definition.stem]}.cpp").exists() and (
                        ROOT / f"snnfast/ops/{ops[definition.stem]}.py"
                    ).exists()
                    continue
                assert definition.stem == "exponential" or f"{definition.stem}_out" in (ROOT / "csrc/ops/rows.cpp").read_text()
                continue
            assert (ROOT / "csrc/ops" / f"{definition.stem}.cpp").exists()
            assert (ROOT / "snnfast/ops" / f"{definition.stem}.py").exists()


def test_files_are_small():
    long = {str(path.relative_to(ROOT)): many for path in PYTHON + NATIVE if (many := len(path.read_text().splitlines())) > 400}
    assert not long


def test_nothing_falls_back_silently():
    for path in PYTHON:
        text = path.read_text()
        if path.relative_to(ROOT).parts[0] != "tests":
            assert "NotImplementedError" not in text, path
            if path.name != "backends.py":
                assert "except ImportError" not in text, path


def test_environment_variables_are_few_and_documented():
    used = set()
    for path in [*PYTHON, *NATIVE, ROOT / "setup.py", ROOT / "CMakeLists.txt"]:
        if path.relative_to(ROOT).parts[0] != "tests":
            used |= set(re.findall(r"SNNFAST_[A-Z_]+", path.read_text()))
    page = (ROOT / "docs/install.md").read_text()
    assert len(used) <= 3 and all(name in page for name in used), used


def test_kernels_share_nothing_between_instruction_sets():
    """Every symbol of a kernel unit lies in its own namespace or is plain C: a shared inline function compiled for AVX-512 could be the one that
    the linker keeps for a machine without it."""
    objects = {next(a for a in p.parts if a.startswith("kernels_")): p for p in (ROOT / "build").rglob("kernels.cpp.o")}
    if len(objects) < 3:
        pytest.skip("no build folder with the object files in this checkout")
    weak = {}
    for name, path in objects.items():
        lines = subprocess.run(["nm", "-C", str(path)], capture_output=True, text=True, check=True).stdout.splitlines()
        symbols = [line.split(maxsplit=2) for line in lines if len(line.split(maxsplit=2)) == 3]
        # DW.ref is a pointer that GCC's exception tables share; all others are code.
        weak[name] = {s[2] for s in symbols if s[1] in "WVu" and not s[2].startswith("DW.ref.")}
    names = list(weak)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            assert not weak[a] & weak[b], sorted(weak[a] & weak[b])[:5]

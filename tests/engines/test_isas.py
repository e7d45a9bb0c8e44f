"""The instruction sets of the CPU kernels against each other, in a program of its own that knows nothing of torch.

The same program runs on an emulated processor with AVX-512 where this one has none: tests/isas/run.sh.
"""

import subprocess
from pathlib import Path

import pytest
from conftest import isas

BUILD = Path(__file__).parents[2] / "build"


def test_instruction_sets_agree():
    found = sorted(BUILD.glob("cmake-*/isas"))
    if not found:
        pytest.fail("the program isas was not built: run `make test`, or `make test-native` once")
    run = subprocess.run([found[-1], "1000"], capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout.rstrip().endswith("1000 cases: ok"), run.stdout[-2000:]
    for isa in isas():
        assert isa in run.stdout

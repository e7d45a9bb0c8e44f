"""That the sanitizers see faults of CUDA kernels on the host; `make test-sanitizers` runs it, and the kernels' own tests under them."""

import os
import subprocess

import pytest
from on_host import folder

PLANTED = folder() / "planted"
pytestmark = pytest.mark.skipif(not PLANTED.exists(), reason="made by `make test-sanitizers` alone")


@pytest.mark.parametrize("fault, report", [
    ("none", None), ("store", "AddressSanitizer: heap-buffer-overflow"), ("load", "AddressSanitizer: heap-buffer-overflow"),
    ("shift", "runtime error: shift exponent 40"),
])  # fmt: skip
def test_a_planted_fault_is_caught(fault, report):
    env = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    run = subprocess.run([PLANTED, fault], capture_output=True, text=True, env=env)
    if report is None:
        assert run.returncode == 0 and run.stdout == "2\n", run.stderr
    else:
        assert run.returncode and report in run.stderr, run.stderr


def test_the_kernels_under_test_are_sanitized():
    """Not those of an ordinary build, under which every test would pass."""
    (library,) = folder().glob("_cuda_on_host*.so")
    assert "__asan_report" in subprocess.run(["nm", "-D", library], capture_output=True, text=True, check=True).stdout

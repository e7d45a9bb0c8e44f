"""The benchmarks' rows are right before anything is timed, and `make gpu` says what it needs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import HAS_CUDA

ROOT = Path(__file__).parents[1]


def test_gpu_rows_are_right():
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "TRITON_INTERPRET": "1"}
    run = subprocess.run([sys.executable, ROOT / "bench/gpu.py", "--device=cpu"], capture_output=True, text=True, env=env)
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.count("by triton: right") == 14


@pytest.mark.skipif(HAS_CUDA, reason="this machine has a GPU")
@pytest.mark.parametrize("script", ["gpu.py", "make_gpu.py"])
def test_without_a_gpu_it_says_so(script):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    run = subprocess.run([sys.executable, ROOT / "bench" / script], capture_output=True, text=True, env=env)
    assert run.returncode == 2 and "no CUDA device is visible" in run.stderr

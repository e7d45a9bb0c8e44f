"""The benchmarks' rows are right before anything is timed, and `make gpu` says what it needs."""

import json
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


def test_large_T_rows(tmp_path):
    """Every way is compared with ours before it is timed; SpikingJelly is not everywhere."""
    pytest.importorskip("spikingjelly", reason="SpikingJelly is not installed")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    line = "--arch vgg11 --T 5 --batch 2 --width 0.125 --rounds 1 --results".split()
    run = subprocess.run([sys.executable, ROOT / "bench/models.py", *line, tmp_path], capture_output=True, text=True, env=env)
    assert run.returncode == 0, run.stderr[-2000:]
    (file,) = tmp_path.iterdir()
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [r["way"] for r in rows] == ["authors", "steps", "spikingjelly", "snnfast"] and not any("failed" in r for r in rows)
    assert all(r["image_steps_per_second"] == pytest.approx(10 / r["seconds"]) and r["peak"] >= r["rise"] >= 0 for r in rows)
    assert rows[-1]["ratio"] == pytest.approx(rows[-1]["image_steps_per_second"] / max(r["image_steps_per_second"] for r in rows[:3]))


def test_conv_rows(tmp_path):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    line = [sys.executable, ROOT / "bench/conv.py", "--rounds", "1", "--shapes", "1", "--results", tmp_path]
    run = subprocess.run(line, capture_output=True, text=True, env=env)
    assert run.returncode == 0, run.stderr[-2000:]
    rows = [json.loads(line) for file in tmp_path.iterdir() for line in file.read_text().splitlines()]
    assert [r["density"] for r in rows] == [0.05, 0.1, 0.2, 0.3, 0.5, 1.0]
    assert all(r["ratio"] == pytest.approx(r["torch_ms"] / r["ms"]) for r in rows)


@pytest.mark.skipif(HAS_CUDA, reason="this machine has a GPU")
@pytest.mark.parametrize("script", ["gpu.py", "make_gpu.py"])
def test_without_a_gpu_it_says_so(script):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    run = subprocess.run([sys.executable, ROOT / "bench" / script], capture_output=True, text=True, env=env)
    assert run.returncode == 2 and "no CUDA device is visible" in run.stderr

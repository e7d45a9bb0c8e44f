"""The benchmarks' rows are right before anything is timed, and `make gpu` says what it needs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
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
    assert {r["kind"] for r in rows if r["bench"] == "split"} == {"product", "neuron", "other"}
    rows = [r for r in rows if r["bench"] == "large-T"]
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


def rows_of(tmp_path, script, *options):
    """The rows that a script stores."""
    beside = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}  # a worker of xdist times nothing
    env = {**beside, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "BENCH_RESULTS": str(tmp_path)}
    run = subprocess.run([sys.executable, ROOT / "bench" / script, *options], capture_output=True, text=True, env=env)
    assert run.returncode == 0, (run.stdout + run.stderr)[-2000:]
    return [json.loads(line) for file in tmp_path.iterdir() for line in file.read_text().splitlines()]


def test_op_rows(tmp_path):
    rows = rows_of(tmp_path, "ops.py", "-k", "-4-4096 or 16384")
    assert {r["bench"] for r in rows} == {"ops"} and {r["op"] for r in rows} >= {
        "iaf",
        "lif",
        "cos_start",
        "softmax_over_time",
        "qcfs",
        "cs_qcfs",
    }
    assert {r["dtype"] for r in rows} == {"fp32", "bf16", "fp16", "fp64"} and len(rows) == 33
    scaled = next(r for r in rows if (r["op"], r["kind"], r["dtype"]) == ("iaf", "scaled", "fp32"))
    assert scaled["bytes"] == 4096 * (4 * 4 + 4 * 4 + 8)  # x, s, the state
    assert all(r["share"] == pytest.approx(r["gb_per_s"] / r["copy_gb_per_s"]) for r in rows)


def test_a_wrong_result_is_not_timed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    import ops

    x, timed = torch.randn(4, 4096), []
    with pytest.raises(AssertionError, match="it computes something else, and is not timed"):
        ops._row(lambda *row: timed.append(row), "iaf", "scaled", "fp32", 4, 4096, lambda x: (lambda: x, x.nbytes, False))
    assert not timed
    assert torch.equal(ops.packed(torch.ones(2, 64)), torch.full((2, 2), -1, dtype=torch.int32)) and x.shape == (4, 4096)


def test_peer_rows(tmp_path):
    pytest.importorskip("spikingjelly", reason="SpikingJelly is not installed")
    rows = rows_of(tmp_path, "peers.py", "--work", "ST-BIF, 16 levels", "--shapes", "1")
    found = {r["who"]: r for r in rows}
    assert found["SpikingJelly"]["other_spikes"] <= 1e-4 and found["SpikingJelly"]["ratio"] > 0 and found["snnfast"]["ratio"] == 1
    assert {who for who, r in found.items() if "failed" in r} == {"authors' loop", "torch.compile", "snnTorch", "norse"}
    assert found["norse"]["failed"] == "has no such neuron"


def test_the_peers_loops_are_the_definitions(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    import loops
    import peers

    x = torch.randn(32, 4096) * 0.6 + 0.3
    loop_of = {"IF": loops.if_loop, "LIF, input divided": loops.lif_loop, "SRP, tau = 4": loops.srp_loop, "COS, rho = 4": loops.cos_loop,
               "SNM": loops.snm_loop}  # fmt: skip
    for work, loop in loop_of.items():
        assert torch.equal(peers.WORKS[work][0](x), loop(x, peers.THETA)), work


def test_split_and_slope(tmp_path, monkeypatch):
    rows = rows_of(tmp_path, "split.py", "--arch", "vgg11", "--width", "0.125", "--T", "4", "--batch", "2")
    assert {r["kind"] for r in rows} == {"product", "neuron", "other"} and all(r["seconds"] > 0 for r in rows)
    first = next(r for r in rows if r["kind"] == "product")
    # 3 -> 8 channels of 3x3 on 32x32, two images, once: nothing spikes before it.
    assert first["arithmetic_s"] * first["macs_per_s"] == pytest.approx(2 * 1024 * 8 * 27)
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    from scaling import slope

    assert slope([(1, 5.0), (2, 5.0), (4, 8.0), (8, 16.0)]) == pytest.approx(1.0) and slope([(1, 3.0), (2, 1.5)]) == pytest.approx(-1.0)


@pytest.mark.skipif(HAS_CUDA, reason="this machine has a GPU")
@pytest.mark.parametrize("script", ["gpu.py", "make_gpu.py"])
def test_without_a_gpu_it_says_so(script):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    run = subprocess.run([sys.executable, ROOT / "bench" / script], capture_output=True, text=True, env=env)
    assert run.returncode == 2 and "no CUDA device is visible" in run.stderr

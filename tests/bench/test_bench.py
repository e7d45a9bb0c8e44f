"""The benchmarks' rows are right before anything is timed, and `make gpu` says what it needs."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import HAS_CUDA

ROOT = Path(__file__).parents[2]


def ran(script, *options, **variables):
    """The script's run as a user's: a worker of xdist would time nothing."""
    own = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    env = own | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])} | variables
    return subprocess.run([sys.executable, ROOT / "bench" / script, *map(str, options)], capture_output=True, text=True, env=env)


def rows_of(tmp_path, script, *options):
    """The rows that a script stores."""
    run = ran(script, *options, BENCH_RESULTS=str(tmp_path))
    assert run.returncode == 0, (run.stdout + run.stderr)[-2000:]
    return [json.loads(line) for file in tmp_path.iterdir() for line in file.read_text().splitlines()]


@pytest.mark.thorough
def test_large_T_rows(tmp_path):
    """Every way is compared with ours before it is timed; SpikingJelly is not everywhere."""
    pytest.importorskip("spikingjelly", reason="SpikingJelly is not installed")
    rows = rows_of(tmp_path, "networks.py", *"--arch vgg11 --T 5 --batch 2 --width 0.125 --rounds 1 --chunk 4".split())
    assert {r["kind"] for r in rows if r["bench"] == "split"} == {"product", "neuron", "other"}
    rows = [r for r in rows if r["bench"] == "large-T"]
    assert [r["way"] for r in rows] == ["authors", "steps", "spikingjelly", "snnfast"] and not any("failed" in r for r in rows)
    assert all(r["image_steps_per_second"] == pytest.approx(10 / r["seconds"]) and r["peak"] >= r["rise"] >= 0 for r in rows)
    assert rows[-1]["ratio"] == pytest.approx(rows[-1]["image_steps_per_second"] / max(r["image_steps_per_second"] for r in rows[:3]))


def test_conv_rows(tmp_path):
    rows = rows_of(tmp_path, "studies.py", "products", "--rounds", 1, "--shapes", 1)
    assert [r["density"] for r in rows] == [0.05, 0.1, 0.2, 0.3, 0.5, 1.0]
    assert all(r["ratio"] == pytest.approx(r["torch_ms"] / r["ms"]) for r in rows)


def test_op_rows(tmp_path):
    rows = rows_of(tmp_path, "ops.py", "-k", "-4-4096 or 16384")
    assert {r["bench"] for r in rows} == {"ops"} and {r["dtype"] for r in rows} == {"fp32", "bf16", "fp16", "fp64"} and len(rows) == 93
    neurons, over_time = {"iaf", "lif", "quanta", "cos_start"}, {"softmax_over_time", "layer_norm_over_time"}
    assert {r["op"] for r in rows} == neurons | over_time | {"qcfs", "cs_qcfs", "spike_conv2d", "spike_linear"}
    assert {r["kind"] for r in rows if r["op"] == "lif"} == {"scaled", "unit", "int8", "bits", "count", "forward + backward"}
    scaled = next(r for r in rows if (r["op"], r["kind"], r["dtype"]) == ("iaf", "scaled", "fp32"))
    assert scaled["bytes"] == 4096 * (4 * 4 + 4 * 4 + 8)  # x, s, the state
    assert all(r["share"] == pytest.approx(r["gb_per_s"] / r["copy_gb_per_s"]) for r in rows)


def test_a_wrong_result_is_not_timed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    import ops
    import rows

    x, timed = torch.randn(4, 4096), []
    with pytest.raises(AssertionError, match="it computes something else, and is not timed"):
        ops._row(lambda *row: timed.append(row), "iaf", "scaled", "fp32", 4, 4096, lambda x: (lambda: x, x.nbytes, False))
    assert not timed
    assert torch.equal(rows.packed(torch.ones(2, 64)), torch.full((2, 2), -1, dtype=torch.int32)) and x.shape == (4, 4096)


@pytest.mark.thorough
def test_peer_rows(tmp_path):
    pytest.importorskip("spikingjelly", reason="SpikingJelly is not installed")
    rows = rows_of(tmp_path, "peers.py", "--work", "ST-BIF, 16 levels", "--shapes", "1")
    found = {r["who"]: r for r in rows}
    assert found["SpikingJelly"]["other_spikes"] <= 1e-4 and found["SpikingJelly"]["ratio"] > 0 and found["snnfast"]["ratio"] == 1
    assert found["authors' loop"]["ratio"] > 0 and found["torch.compile"]["compile_s"] > 0
    assert {who: r["failed"] for who, r in found.items() if "failed" in r} == dict.fromkeys(("snnTorch", "norse"), "has no such neuron")


def test_peers_gradients_are_compared(monkeypatch):
    """The loop's gradient is ours; a way with another one is not timed."""
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    import others
    import peers

    work, shape = "IF, forward + backward", (8, 512)
    detached = lambda T, N, device: lambda x: others.loop(x, 0.75) + 0 * x  # noqa: E731
    ways = {"authors' loop": [("loop", others.eager(others.trained_loop))], "nobody": [("loop", detached)]}
    monkeypatch.setitem(peers.WORKS, work, (others.WORKS[work][0], ways))
    found = {r["who"]: r for r in peers.measured(work, *shape)}
    assert found["authors' loop"]["other_spikes"] == 0 and found["authors' loop"]["ratio"] > 0
    assert found["nobody"]["failed"].endswith("of its gradients are others")


def test_spikingjelly_by_each_implementation(monkeypatch, capsys):
    """On a GPU each runs in a process of its own, told by its variables; the fastest is the row, and one that is missing says why."""
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    import peers

    def child(script, environment, **options):
        by = environment["SJ_IF_CUDA_IMPLEMENTATION"]
        assert options == dict(device="cuda", only="SpikingJelly", shapes=1, work=["IF"])
        row = dict(work="IF", T=4, N=1 << 18, who="SpikingJelly", by="IFNode")
        return {
            "cuda": dict(failed="was not built"),
            "triton": dict(rows=[row | dict(ratio=1.5)]),
            "torch": dict(rows=[row | dict(ratio=9.0)]),
        }[by]

    monkeypatch.setattr(peers.stored, "child", child)
    found = peers.jelly_elsewhere(["IF"], 1, "cuda")
    assert peers.fastest(found["IF", 4, 1 << 18])["by"] == "IFNode, triton"
    assert "SpikingJelly by cuda: was not built" in capsys.readouterr().out


def test_spikingjelly_is_built_where_it_can_be(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    import jelly

    assert jelly.native() == (torch.version.cuda is not None and jelly.CUDA_HOME is not None)
    assert "--no-binary" in jelly.arguments(True) and "--no-binary" not in jelly.arguments(False)


def test_the_peers_loops_are_the_definitions(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    import others

    x = torch.randn(32, 4096) * 0.6 + 0.3
    loop_of = {
        "IF": others.loop, "LIF, input divided": others.lif_loop, "LIF": functools.partial(others.lif_loop, decay_input=False),
        "SRP, tau = 4": others.srp_loop, "COS, rho = 4": others.cos_loop, "SNM": others.snm_loop, "ST-BIF, 16 levels": others.stbif_loop,
    }  # fmt: skip
    assert set(loop_of) == {work for work in others.WORKS if not others.trained(work)}
    for work, loop in loop_of.items():
        assert torch.equal(others.WORKS[work][0](x), loop(x, others.THETA)), work


def test_split_and_slope(tmp_path, monkeypatch):
    rows = rows_of(tmp_path, "networks.py", "--split", "--arch", "vgg11", "--width", "0.125", "--T", "4", "--batch", "2")
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
    run = ran(script)
    assert run.returncode == 2 and "no CUDA device is visible" in run.stderr

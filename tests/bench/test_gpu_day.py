"""The day with a GPU, rehearsed without one: every step of `make gpu` and `make gpu-second`, cut at any moment, leaves what it has."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from on_host import on_host_library

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))

import gpu  # noqa: E402
import make_gpu  # noqa: E402
from gpu_rows import Row  # noqa: E402
from gpu_tables import of_a_run, records  # noqa: E402

pytestmark = pytest.mark.skipif(on_host_library() is None, reason="no CUDA compiler was found when snnfast was built")


def environment(folder):
    """A shell's, which knows nothing of this test's process."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "TRITON_"))}
    return own | {"PYTHONPATH": str(ROOT), "BENCH_RESULTS": str(folder)}


def rehearse(plan, folder):
    return subprocess.Popen(
        [sys.executable, ROOT / "bench/make_gpu.py", plan, "--stand-in"], env=environment(folder), stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def ends(folder):
    return {r["step"]: r["result"] for r in records(folder / "steps.jsonl") if "result" in r}


@pytest.mark.thorough
def test_the_first_call(tmp_path):
    assert rehearse("gpu", tmp_path).wait() == 0, (tmp_path / "gpu.log").read_text()[-3000:]
    found = ends(tmp_path)
    missing = dict.fromkeys(("memcheck", "racecheck", "ncu"), "not done: no such tool here")
    assert found == {name: "ok" for name in found} | missing and len(found) == 11
    assert len(list(tmp_path.iterdir())) <= 8
    rows = [r for r in records(tmp_path / "stand-in.jsonl") if r["bench"] == "gpu"]
    assert not [r for r in rows if "failed" in r] and all(r["stand_in"] for r in rows)
    assert {(r["by"], r["round"]) for r in rows} == {("cuda", 1), ("cuda", 2), ("triton", 1), ("copies", 1), ("copies", 2)}
    cuda, triton = ({r["op"] for r in rows if r["by"] == by} for by in ("cuda", "triton"))
    assert cuda == triton and len(cuda) == 18
    assert {r["op"] for r in rows if not r["cold"]} >= {"iaf scaled, one image (goal 15 us)", "copy_"}  # what fits the cache is warm too
    assert "test_cos" in (tmp_path / "tests.log").read_text()
    table = of_a_run(tmp_path)
    assert "| gpu | Triton rows | ok |" in table and "| stand-in | iaf scaled | triton | [3, 64] | fp32 | cold |" in table


@pytest.mark.thorough
def test_the_second_call(tmp_path):
    assert rehearse("gpu-second", tmp_path).wait() == 0, (tmp_path / "gpu.log").read_text()[-3000:]
    assert list(ends(tmp_path).values()) == ["ok"] * 4
    assert any(r.get("bench") == "large-T" and "seconds" in r for file in tmp_path.glob("*.jsonl") for r in records(file))


@pytest.mark.parametrize("seed", [3])
def test_cut_at_any_moment(tmp_path, seed):
    """Killed with everything it started, it leaves whole lines, and a table is made of them."""
    process = rehearse("gpu", tmp_path)
    while not (tmp_path / "steps.jsonl").exists() and process.poll() is None:
        time.sleep(0.05)
    until = time.monotonic() + random.Random(seed).uniform(0, 15)
    while time.monotonic() < until and process.poll() is None:
        time.sleep(0.05)
    # As a machine is taken away: with all that the run started.
    os.killpg(process.pid, signal.SIGKILL)
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"BENCH_RESULTS={tmp_path}".encode() in environ.read_bytes().split(b"\0"):
                os.kill(int(environ.parent.name), signal.SIGKILL)
    process.wait()
    table = of_a_run(tmp_path)
    assert "| gpu | library |" in table
    began = [r for r in records(tmp_path / "steps.jsonl") if "begun" in r]
    assert len(began) - len(ends(tmp_path)) in (0, 1) and all(step in table for step in ends(tmp_path))


def test_half_a_line_is_left_out(tmp_path):
    (tmp_path / "steps.jsonl").write_text('{"run": "gpu", "step": "tests", "begun": "x"}\n{"run": "gpu", "step": "te')
    assert "| gpu | tests | cut off |" in of_a_run(tmp_path)
    assert of_a_run(tmp_path / "nothing")


def test_a_step_that_fails_or_hangs_stops_nothing_but_itself(tmp_path):
    run = lambda program: [sys.executable, "-c", program]  # noqa: E731
    hang = run(
        "import subprocess, sys, time; print('begun', flush=True); subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    )
    steps = [
        make_gpu.Step("wrong", run("raise SystemExit(3)"), 20), make_gpu.Step("hangs", hang, 2), make_gpu.Step("nobody", ["/no/such/tool"], 20),
        make_gpu.Step("refused", run("print('Error: Device not supported'); raise SystemExit(1)"), 20), make_gpu.Step("missing", None, 20),
        make_gpu.Step("good", run("print('here')"), 20, "own.log"),
    ]  # fmt: skip
    began = time.monotonic()
    assert make_gpu.follow("gpu", steps, 90, tmp_path) == 1 and time.monotonic() - began < 50
    found = ends(tmp_path)
    assert found["nobody"].startswith("FAILED") and found["refused"].startswith("not done") and found["missing"].startswith("not done")
    assert (found["wrong"], found["hangs"], found["good"]) == ("FAILED (exit status 3)", "out of time", "ok")
    assert (tmp_path / "own.log").read_text() == "here\n"
    # What is left of the whole is all that a step gets.
    assert make_gpu.follow("short", [make_gpu.Step("late", hang, 60), make_gpu.Step("later", hang, 60)], 6, tmp_path) == 1
    assert ends(tmp_path)["late"] == "out of time" and ends(tmp_path)["later"] == "not begun: out of time"


FAULTS = """
import os, sys, time
sys.path.insert(0, {bench!r})
import gpu, torch
from gpu_rows import Row
def make(fault):
    def run(): {{"raise": lambda: 1 / 0, "die": lambda: os.kill(os.getpid(), 9), "hang": lambda: time.sleep(60)}}.get(fault, lambda: None)()
    return run, lambda: fault != "wrong"
row = lambda fault: Row(fault, "cuda", (1,), torch.float32, 4, None, lambda: make(fault), graph=False)  # cold alone: once
gpu.rows = lambda *how: [row(fault) for fault in ("good", "raise", "wrong", "die", "hang", "last")]
gpu.PATIENCE = 10
gpu.__file__ = __file__
sys.exit(gpu.main())
"""


@pytest.mark.thorough
def test_a_row_that_fails_leaves_the_rows_after_it(tmp_path):
    program = tmp_path / "faults.py"
    program.write_text(FAULTS.format(bench=str(ROOT / "bench")))
    command = [sys.executable, program, "--stand-in", "--seconds", "200"]
    run = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True)
    assert run.returncode == 1, run.stderr
    found = {r["op"]: r for r in records(tmp_path / "stand-in.jsonl") if r["cold"]}
    assert {name for name, r in found.items() if "us" in r} == {"good", "last"}
    assert found["raise"]["failed"].startswith("ZeroDivisionError") and "WRONG RESULT" in found["wrong"]["failed"]
    assert found["die"]["failed"].startswith("took its process with it") and found["hang"]["failed"] == "no answer within 10 s"


def test_a_kit_of_other_sources_is_not_used(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(make_gpu, "KIT", tmp_path)
    (tmp_path / "kit.json").write_text(json.dumps(dict(sources="others")))
    assert make_gpu.library(stand_in=True) == 0 and "the kit is of other sources" in capfd.readouterr().out
    (tmp_path / "kit.json").write_text(json.dumps(dict(sources=make_gpu.sources())))
    assert make_gpu.library(stand_in=True) == 0 and "the kit: {" in capfd.readouterr().out


def test_a_kit_takes_the_place_of_both_libraries(tmp_path):
    """A package that holds both already, as on the second call of a day."""
    kit, package = tmp_path / "kit", tmp_path / "package"
    for folder, text in ((kit, "new"), (package, "old")):
        folder.mkdir()
        for name in ("_C.abi3.so", "_CUDA.abi3.so", "other.txt"):
            (folder / name).write_text(text)
    for _ in range(2):
        make_gpu.place(kit, package)
        assert {p.name: p.read_text() for p in package.iterdir()} == {"_C.abi3.so": "new", "_CUDA.abi3.so": "new", "other.txt": "old"}


def test_what_needs_the_library_is_not_begun_without_it(tmp_path):
    """Triton would serve the tensors, and the rows would be taken for CUDA's."""
    steps = [
        make_gpu.Step(name, [sys.executable, "-c", f"raise SystemExit({name == 'library'})"], 20, alone=name == "b")
        for name in ("library", "a", "b")
    ]
    assert make_gpu.follow("gpu", steps, 90, tmp_path) == 1
    assert ends(tmp_path)["a"] == "not begun: the library is not in place" and ends(tmp_path)["b"] == "ok"


def test_the_third_call(tmp_path):
    """Its products; its peers take half a minute of compiling, and tests/bench/test_bench.py runs them."""
    command = [sys.executable, ROOT / "bench/gpu.py", "--by", "products", "--stand-in"]
    assert subprocess.run(command, env=environment(tmp_path), capture_output=True).returncode == 0
    found = [r for r in records(tmp_path / "stand-in.jsonl")]
    assert found and all("tflops" in r for r in found)
    assert [step.name for step in make_gpu.third(True)] == ["library", "products of others", "peers"]


def test_what_small_rows_need_to_be_cold():
    row = Row("", "cuda", (1,), None, 34e6, None, None)
    assert gpu.sets_for(row, cold=False) == 1 and 1 <= gpu.sets_for(row, cold=True) <= 16

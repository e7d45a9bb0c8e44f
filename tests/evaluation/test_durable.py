"""The real command, killed, interrupted, starved of disk, in two processes: the result is that of an undisturbed run."""

import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time

import command
import numpy as np
import pytest

import snnfast
from snnfast.evaluation.progress_file import Store, files_in, records_in

TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0")
ARGUMENTS = ("--T", 32, "--images", 120, "--batch-size", 3, "--statistics", "--start-stop", "--save-predictions")


@pytest.fixture(scope="module")
def undisturbed(checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    code, told, error = command.run("eval", checkpoint, *ARGUMENTS, "--out", out)
    assert code == 0, error
    return command.result(out)


def finished(folder):
    """Images whose batches are in the file."""
    return sum(len(r["index"]) for r in records_in(folder)) if files_in(folder) else 0


def size_of(folder):
    return sum(f.stat().st_size for f in files_in(folder))


def killed(process, folder, grown, seconds=60.0):
    """Kills it after so many seconds, or once its file has grown by so many bytes: a machine may be fast or slow."""
    began, before = time.monotonic(), size_of(folder)
    while process.poll() is None and time.monotonic() - began < seconds and size_of(folder) - before < grown:
        time.sleep(0.002)
    process.kill()
    process.wait()
    process.stdout.close(), process.stderr.close()


@pytest.mark.thorough
def test_killed_again_and_again(checkpoint, tmp_path, request):
    """Whenever it dies, what was done stays done: no image twice, none lost but those of the batch at hand."""
    kills, images = (20, 360) if request.config.getoption("--thorough") else (1, 120)
    longer = ("--T", 128, "--images", images, *ARGUMENTS[4:])
    code, told, error = command.run("eval", checkpoint, *longer, "--out", tmp_path / "undisturbed")
    assert code == 0, error
    out, rng, done, inside = tmp_path / "killed", random.Random(0), 0, 0
    batch = size_of(tmp_path / "undisturbed") / (images // 3)
    for kill in range(kills):
        process = command.start("eval", checkpoint, *longer, "--out", out, "--resume")
        # At any moment, in the imports, in the dry run, or when it has written some batches; every other time only then.
        killed(process, out, rng.uniform(0.2, 6) * batch, rng.uniform(0.3, 5.0) if kill % 2 else 60.0)
        now = finished(out)
        assert now >= done and (now % 3 == 0 or now == images)
        inside += done < now < images
        done = now
    assert inside >= 0.4 * kills, "too few kills fell into the run to show anything"
    code, told, error = command.run("eval", checkpoint, *longer, "--out", out, "--resume")
    assert code == 0, error
    assert command.result(out) == command.result(tmp_path / "undisturbed")
    indices = np.concatenate([r["index"] for r in records_in(out)])
    assert sorted(indices.tolist()) == list(range(images))
    first = command.report(out)
    code, told, error = command.run("eval", checkpoint, *longer, "--out", out, "--resume")  # nothing is left to do
    again = command.report(out)
    assert code == 0 and f"{images} of {images} images are done already" in told
    assert (
        again["profile"] == first["profile"] and again["seconds"] == first["seconds"] and again["memory"]["peak"] == first["memory"]["peak"]
    )


@pytest.mark.parametrize("sent, code", [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.thorough)])
def test_interrupted(checkpoint, tmp_path, undisturbed, sent, code):
    process = command.start("eval", checkpoint, *ARGUMENTS, "--out", tmp_path)
    while process.poll() is None and (not files_in(tmp_path) or files_in(tmp_path)[0].stat().st_size < 30_000):
        time.sleep(0.02)  # until some batches are in the file, which the process alone may read
    process.send_signal(sent)
    out, error = process.communicate(timeout=60)
    assert process.returncode == code, (out, error)
    assert error == "snnfast: stopped\n"
    done = int(re.search(r"stopped after (\d+) of 120 images; --resume goes on", out)[1])
    assert 0 < done < 120 and done % 3 == 0
    part = command.report(tmp_path)
    assert part["complete"] is False and part["images"] == done and "stopped early" in out
    code, told, error = command.run("eval", checkpoint, *ARGUMENTS, "--out", tmp_path, "--resume")
    assert code == 0 and f"{done} of 120 images are done already" in told, error
    assert command.result(tmp_path) == undisturbed


def in_two(*arguments):
    """The command under torchrun, two gloo processes."""
    line = [sys.executable, *TORCHRUN, "-m", "snnfast", "eval", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, env=command.ENV, timeout=200)


def test_two_processes(checkpoint, tmp_path, undisturbed, request):
    """120 images in batches of 7 over two processes, then 119 and 1: every image once, one report."""
    import torch

    run = lambda images, batch, out: in_two(checkpoint, *ARGUMENTS, "--images", images, "--batch-size", batch, "--out", out)
    assert torch.distributed.is_gloo_available()
    done = run(120, 7, tmp_path / "a")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Accuracy of 120 images") == 1
    assert command.result(tmp_path / "a") == undisturbed
    assert command.report(tmp_path / "a")["speed"]["processes"] == 2
    assert len(files_in(tmp_path / "a")) == 2
    assert sorted(np.concatenate([r["index"] for r in records_in(tmp_path / "a")]).tolist()) == list(range(120))
    for images in (119, 1) if request.config.getoption("--thorough") else (1,):
        done = run(images, 5, tmp_path / str(images))
        assert done.returncode == 0, done.stderr
        assert sorted(np.concatenate([r["index"] for r in records_in(tmp_path / str(images))]).tolist()) == list(range(images))
        assert command.report(tmp_path / str(images))["images"] == images


@pytest.mark.thorough
def test_what_one_process_left_another_number_finishes(checkpoint, tmp_path, undisturbed):
    import torch

    process = command.start("eval", checkpoint, *ARGUMENTS, "--out", tmp_path)
    killed(process, tmp_path, 40_000)
    before = finished(tmp_path)
    assert 0 < before < 120
    done = in_two(checkpoint, *ARGUMENTS, "--out", tmp_path, "--resume")
    assert done.returncode == 0, done.stderr
    assert command.result(tmp_path) == undisturbed and torch.distributed.is_available()
    code, told, error = command.run("eval", checkpoint, *ARGUMENTS, "--out", tmp_path, "--resume")
    assert code == 0 and "120 of 120 images are done already" in told and command.result(tmp_path) == undisturbed


FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))  # no file may grow beyond: what a full disk does
from snnfast.cli.main import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("limit", [pytest.param(100, marks=pytest.mark.thorough), 40_000])
def test_a_full_disk(checkpoint, tmp_path, undisturbed, limit):
    code, out, error = command.run(limit, "eval", checkpoint, *ARGUMENTS, "--out", tmp_path, script=("-c", FULL))
    assert code == 2 and error.startswith("snnfast: ") and error.count("\n") == 1, error
    assert "cannot be written" in error or "File too large" in error
    before = finished(tmp_path)
    assert before < 120
    code, told, error = command.run("eval", checkpoint, *ARGUMENTS, "--out", tmp_path, "--resume")  # once there is room again
    assert code == 0 and command.result(tmp_path) == undisturbed, error


def test_resume_refuses_another_run_and_changes_nothing(checkpoint, tmp_path, tiny, capsys):
    from snnfast.cli.main import main

    out = tmp_path / "e"
    base = ["eval", str(checkpoint), "--T", "4", "--images", "20", "--out", str(out)]
    assert main(base) == 0
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    snnfast.save_checkpoint(tmp_path / "other.pt", snnfast.models.vgg11(width=0.0625, in_channels=1), data="digits")
    for changed, message in (
        (["--resume", "--T", "8"], "T was 4, is 8"),
        (["--resume", "--at", "1", "4"], r"at was [1, 2, 4], is [1, 4]"),
        (["--resume", "--images", "21"], "data was"),
        (["--resume", "--method", "cos"], "method was"),
        (["--resume", "--dtype", "bf16"], "dtype was 'fp32', is 'bf16'"),
        (["--resume", "--deterministic"], "deterministic was False, is True"),
        ([], "holds a run already: --resume goes on with it, --overwrite replaces it"),
        (["--resume", "--overwrite"], "give one of them"),
    ):
        capsys.readouterr()
        assert main([*base, *changed]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert main(["eval", str(tmp_path / "other.pt"), *base[2:], "--resume"]) == 2
    assert "network was" in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    assert main([*base, "--overwrite", "--T", "2"]) == 0
    report = command.report(out)
    assert report["at"] == [1, 2] and report["facts"]["data"] == "digits" and report["facts"]["config"]["arch"] == "vgg11"


@pytest.mark.thorough
def test_a_run_is_not_taken_from_another(checkpoint, tmp_path):
    """--overwrite waits for nobody and destroys nothing: the folder is in use."""
    longer = ("--T", 2048, "--images", 360, "--batch-size", 1, "--out", tmp_path)
    process = command.start("eval", checkpoint, *longer, "--start-stop")
    while process.poll() is None and (not files_in(tmp_path) or files_in(tmp_path)[0].stat().st_size < 30_000):
        time.sleep(0.02)
    for how in ("--overwrite", "--resume"):
        code, out, error = command.run("eval", checkpoint, "--T", 2, "--images", 5, "--out", tmp_path, how)
        assert code == 2 and "in use: another evaluation writes to this folder" in error, error
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=100)
    part = command.report(tmp_path)
    assert process.returncode == 130 and part["images"] == finished(tmp_path) > 0 and (tmp_path / "start_stop.png").exists()
    code, out, error = command.run("eval", checkpoint, "--T", 2, "--images", 5, "--out", tmp_path, "--overwrite")
    assert code == 0 and command.report(tmp_path)["images"] == finished(tmp_path) == 5 and not (tmp_path / "start_stop.png").exists()


def test_odd_folders(checkpoint, tmp_path, capsys):
    from snnfast.cli.main import main

    for name in ("a#b", "c?d", "50%25", "x[b]", "ev = 4"):
        out = tmp_path / name
        assert main(["eval", str(checkpoint), "--T", "2", "--images", "5", "--out", str(out)]) == 0
        assert len(records_in(out)) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["a#b", "c?d", "50%25", "x[b]", "ev = 4"])
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "ev = 4"), str(tmp_path / "x[b]"), "--out", str(tmp_path / "c")]) == 0
    assert "McNemar" in capsys.readouterr().out


def test_processes_that_see_other_data_are_told(tmp_path):
    """Two ranks whose loaders shuffle by themselves would count some images twice."""
    script = tmp_path / "own.py"
    script.write_text(
        "import sys, torch, snnfast\n"
        "from snnfast.system import processes\n"
        "processes.start(torch.device('cpu'))\n"
        "torch.manual_seed(processes.rank())\n"
        "net = snnfast.models.vgg11(width=0.0625)\n"
        "torch.manual_seed(0)\n"
        "net = snnfast.models.vgg11(width=0.0625)\n"
        "data = torch.utils.data.TensorDataset(torch.randn(20, 3, 32, 32), torch.arange(20) % 10)\n"
        "torch.manual_seed(processes.rank() if sys.argv[1] == 'own' else 0)\n"
        "loader = torch.utils.data.DataLoader(data, 3, shuffle=True)\n"
        "try:\n"
        "    report = snnfast.evaluate(snnfast.convert(net), loader, T=2)\n"
        "    sys.stdout.write(f\"{report.images} {len(set(report.record['index'].tolist()))}\\n\")\n"
        "except ValueError as error:\n"
        "    sys.stdout.write(f'{error}\\n')\n"
        "processes.stop()\n"
    )
    for mode, told in (("own", "the processes see different networks, data or settings"), ("same", "20 20\n")):
        run = subprocess.run([sys.executable, *TORCHRUN, script, mode], capture_output=True, text=True, env=command.ENV, timeout=100)
        assert run.returncode == 0 and run.stdout.count(told) == 2, run.stdout + run.stderr


@pytest.mark.thorough
def test_two_processes_interrupted(checkpoint, tmp_path, undisturbed):
    line = [sys.executable, *TORCHRUN, "-m", "snnfast", "eval", *map(str, [checkpoint, *ARGUMENTS, "--out", tmp_path])]
    process = subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=command.ENV, start_new_session=True,
        preexec_fn=command.heeds_interrupts,
    )  # fmt: skip
    while process.poll() is None and (len(files_in(tmp_path)) < 2 or min(f.stat().st_size for f in files_in(tmp_path)) < 30_000):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it
    out, error = process.communicate(timeout=100)
    assert process.returncode != 0 and "stopped after" in out, out + error
    part = command.report(tmp_path)
    assert part["complete"] is False and 0 < part["images"] < 120 and part["images"] == finished(tmp_path)
    done = in_two(checkpoint, *ARGUMENTS, "--out", tmp_path, "--resume")
    assert done.returncode == 0 and command.result(tmp_path) == undisturbed, done.stderr


def test_damaged_and_busy_files(checkpoint, tmp_path, capsys):
    from snnfast.cli.main import main

    base = ["eval", str(checkpoint), "--T", "2", "--images", "5", "--out", str(tmp_path), "--resume"]
    (tmp_path / "progress.sqlite").write_text("not a database, but a text that is long enough to be looked at" * 20)
    assert main(base) == 2
    assert "progress.sqlite is not a progress file, or is damaged" in capsys.readouterr().err
    (tmp_path / "progress.sqlite").unlink()
    store = Store(tmp_path / "progress.sqlite", {})
    assert main(base) == 2
    assert "in use: another evaluation writes to this folder" in capsys.readouterr().err
    store.close()


def test_a_batch_is_in_the_file_as_a_whole_or_not_at_all(tmp_path):
    store = Store(tmp_path / "progress.sqlite", dict(a=[1, 2]))
    store.put(dict(index=np.arange(3)), {"peak": 7}, 0.5)
    with pytest.raises(KeyError), store.db:  # something goes wrong in the middle of a transaction
        store.db.execute("INSERT INTO batches (record) VALUES ('half')")
        raise KeyError
    store.close()
    again = Store(tmp_path / "progress.sqlite", dict(a=[1, 2]))
    ((record, counted, seconds),) = again.batches()
    assert record["index"].tolist() == [0, 1, 2] and counted == {"peak": 7} and seconds == 0.5
    again.close()
    with pytest.raises(ValueError, match=r"holds another run: a was \[1, 2\], is \[1\]; b was None, is 2. Give another folder"):
        Store(tmp_path / "progress.sqlite", dict(a=[1], b=2))
    assert sqlite3.connect(tmp_path / "progress.sqlite").execute("SELECT count(*) FROM batches").fetchone() == (1,)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of Linux's rights of files")
def test_a_finished_run_in_a_folder_that_nobody_may_write(checkpoint, tmp_path):
    line = ("eval", checkpoint, "--T", 4, "--images", 20, "--out", tmp_path / "run", "--resume")
    assert command.run(*line)[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    for path in (*before, tmp_path / "run"):
        path.chmod(0o555)
    code, told, error = command.run(*line, before=command.cannot_write_what_is_read_only)
    assert code == 0, error
    assert "T = 4" in told and "the files of the finished run stay as they are" in told
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    (tmp_path / "run").chmod(0o755)
    (tmp_path / "run/report.json").unlink()
    (tmp_path / "run").chmod(0o555)
    code, told, error = command.run(*line, before=command.cannot_write_what_is_read_only)
    assert code == 2 and "the report cannot be written to" in error and "T = 4" in told
    (tmp_path / "run").chmod(0o755)

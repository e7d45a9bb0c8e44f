"""Inputs that once went wrong, each for its kind: numbers beyond all runs, files that never end, tables with a row taken out, broken pictures."""

import json
import os
import sqlite3

import command
import numpy as np
import pytest
import torch
from PIL import Image

import snnfast
from snnfast.cli.main import main
from snnfast.evaluation.progress_file import Store, files_in
from snnfast.reports.report import load_report

MANY = str(1 << 40)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["eval", "{net}", "--method", "srp", "--tau", MANY], "tau must be <= 2^24"),
        (["trace", "{net}", "--T", MANY, "--data", "digits"], "T must be <= 2^24"),
        (["diagnose", "{net}", "--T", MANY, "--data", "digits"], "T must be <= 2^24"),
        (["convert", "{net}", "--method", "if", "--T", MANY, "--data", "digits"], "T must be <= 2^24"),
        (["train", "--arch", "vgg11", "--out", "{out}", "--T", MANY], "T must be <= 2^24"),
        (["demo", "--T", MANY, "--out", "{out}"], "T must be <= 2^24"),
        (["train", "--arch", "vgg11", "--out", "{out}", "--seed", str(1 << 70)], "seed must be < 2^63"),
        (["train", "--arch", "vgg11", "--out", "{out}", "--batch-size", str(1 << 70)], "batch_size must be < 2^31"),
        (["eval", "{net}", "--inputs", "poisson", "--seed", str(1 << 70)], "seed must be < 2^63"),
    ],
)
def test_numbers_beyond_all_runs(checkpoint, tmp_path, monkeypatch, capsys, line, message):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    assert main([part.format(net=checkpoint, out=out) for part in line]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1 and not out.exists()


def test_files_that_never_end(tmp_path, capsys):
    pipe = tmp_path / "pipe.pt"
    os.mkfifo(pipe)
    for path in ("/dev/zero", str(pipe)):
        for line in (["eval", path], ["extract", path, str(tmp_path / "x.pt")], ["compare", path]):
            assert main(line) == 2
            assert f"{path} is no regular file" in capsys.readouterr().err
        with pytest.raises(ValueError, match="is no regular file"):
            snnfast.load_weights(torch.nn.Linear(2, 2), path)
    with pytest.raises(ValueError, match="is no regular file"):
        snnfast.save_checkpoint(pipe, torch.nn.Linear(2, 2))


@pytest.mark.parametrize("kind", ["nested", "sparse", "meta", "variance"])
def test_weights_of_another_kind(tmp_path, capsys, kind):
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    state, path = net.state_dict(), tmp_path / "net.pt"
    name = "1.running_var" if kind == "variance" else "0.weight"
    state[name] = {
        "nested": lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(1)]),
        "sparse": lambda: torch.eye(2).to_sparse(),
        "meta": lambda: torch.empty(2, 2, device="meta"),
        "variance": lambda: torch.tensor([1.0, -1.0]),
    }[kind]()
    torch.save({"state_dict": state}, path)
    with pytest.raises(ValueError, match=f"{name} (is no dense tensor|has numbers below 0|is no weight)"):
        snnfast.load_weights(net, path)
    if kind != "variance":
        own = snnfast.models.vgg11(width=0.05).state_dict()
        own[next(iter(own))] = state[name]
        torch.save(own, path)
        assert main(["eval", str(path), "--levels", "4", "--width", "0.05", "--data", "digits"]) == 2
        assert "is no weight" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("DELETE FROM run", "it holds batches and does not say what run they are of"),
        ("UPDATE run SET machine = '-1'", "it does not say what machine it is of"),
        ("UPDATE run SET machine = NULL", "is damaged"),
        ("UPDATE run SET machine = 'x'", "is damaged"),
        ("UPDATE batches SET facts = '{}'", "the facts of a batch in it are not"),
    ],
)
def test_a_progress_file_with_a_row_changed(checkpoint, tmp_path, capsys, change, message):
    line = ["eval", str(checkpoint), "--T", "2", "--images", "4", "--out", str(tmp_path / "run"), "--resume"]
    assert main(line) == 0
    with sqlite3.connect(files_in(tmp_path / "run")[0]) as db:
        db.execute(change)
    db.close()
    capsys.readouterr()
    assert main(line) == 2
    told = capsys.readouterr().err
    assert message in told and "--overwrite starts anew" in told and told.count("\n") == 1
    assert main([*line[:-1], "--overwrite"]) == 0


@pytest.mark.parametrize(
    "change",
    [
        dict(totals=dict(firing_rate=0.1)), dict(speed=dict(a=1)), dict(memory=dict(budget=1)), dict(energy=[{}]), dict(energy=[dict(t=1)]),
        dict(energy=[dict(t=1, energy_pJ="b")]), dict(accuracy=[None]), dict(accuracy=[10**400]), dict(accuracy=[float("nan")]),
        dict(ann=float("inf")), dict(method=dict(method=["if"])), dict(memory=dict(budget=1, peak=1, estimate=10**400)),
    ],
)  # fmt: skip
def test_a_report_with_another_inside(tmp_path, capsys, change):
    path = tmp_path / "report.json"
    path.write_text(json.dumps(dict(at=[1], accuracy=[50.0], images=10, seconds=1.0, method=dict(method="if"))))
    assert load_report(path).accuracy == [50.0]
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=r"report\.json: "):
        load_report(path)
    assert main(["compare", str(path), str(path), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_folder_that_nobody_may_write(checkpoint, tmp_path):
    (tmp_path / "ro").mkdir()
    (tmp_path / "ro").chmod(0o555)
    for line in (("extract", checkpoint, tmp_path / "ro/x.pt"), ("convert", checkpoint, "--method", "if", "--out", tmp_path / "ro/y.pt")):
        code, _, error = command.run(*line, before=command.cannot_write_what_is_read_only)
        assert code == 2 and "Permission denied" in error and error.count("\n") == 1, error
    (tmp_path / "ro").chmod(0o755)


def test_broken_pictures_are_named(tmp_path):
    pytest.importorskip("torchvision")
    from snnfast.data.folders import opened

    path = tmp_path / "z.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(path)
    whole = path.read_bytes()
    for broken in (whole.replace(b"IDAT", b"ID\xffT"), whole.replace(b"IHDR", b"IHDX"), whole[:20], whole[:16] + b"\xff" * 10 + whole[26:]):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"image .*z\.png"):
            opened(path)
    Image.new("L", (10_000, 9_500)).save(path)  # 95 million pixels
    with pytest.raises(ValueError, match=r"image .*z\.png .*exceeds limit"):
        opened(path)
    Image.new("L", (1, 9_000)).save(path)
    with pytest.raises(ValueError, match="its sides differ by more than 100 times"):
        opened(path)
    path = tmp_path / "nan.tiff"
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(path)
    with pytest.raises(ValueError, match="nan.tiff has values that are not finite"):
        opened(path)


# ---- new layers


class Shifted(torch.nn.ReLU):
    def forward(self, x):
        return super().forward(x) + 1


def test_relus_that_are_more_than_one():
    with pytest.raises(ValueError, match=r"1 \(Shifted\) is a ReLU with a forward of its own"):
        snnfast.to_quantised(torch.nn.Sequential(torch.nn.Linear(2, 2), Shifted()))
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
    net[1].register_forward_hook(lambda m, x, y: y * 2)
    with pytest.raises(ValueError, match=r"1 \(ReLU\) has hooks"):
        snnfast.to_quantised(net)

    class Clamps(torch.nn.Sequential):
        def forward(self, x):
            return super().forward(x.clamp(min=0))

    with pytest.raises(ValueError, match=r"clamp in net \(Clamps\)"):
        snnfast.to_quantised(Clamps(torch.nn.Linear(2, 2), torch.nn.ReLU()), sample=torch.rand(1, 2))
    with pytest.raises(ValueError, match="theta must be a number of fp32"):
        snnfast.to_quantised(torch.nn.ReLU(), theta=1e39)


def test_layers_that_are_one_in_the_network_and_two_in_the_file(tmp_path):
    apart = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Linear(2, 2), torch.nn.ReLU())
    snnfast.save_checkpoint(tmp_path / "net.pt", snnfast.to_quantised(apart))
    one = torch.nn.ReLU()
    with pytest.raises(ValueError, match="2 is one layer with another in net"):
        snnfast.load_weights(torch.nn.Sequential(one, torch.nn.Linear(2, 2), one), tmp_path / "net.pt")


def test_what_cannot_be_compared_is_not_taken_for_equal():
    class Roots(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.act, self.b = torch.nn.Linear(4, 8), snnfast.nn.QCFS(8, 1.0), torch.nn.Linear(8, 2)

        def forward(self, x):
            return self.b(self.act(self.a(x.sqrt())))  # NaN for most images that are drawn

    with pytest.raises(ValueError, match="not finite, and cannot be compared.*; give sample="):
        snnfast.convert(Roots())
    assert snnfast.convert(Roots(), sample=torch.rand(2, 4))(torch.rand(3, 4), 8).shape == (3, 2)


@pytest.mark.parametrize("text", ["def f(:", "raise KeyError('x')", "raise SystemExit(3)", "def f(): raise SystemExit(3)"])
def test_modules_that_fail(tmp_path, monkeypatch, capsys, text):
    (tmp_path / "failing_nets.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "failing_nets", raising=False)
    assert main(["eval", "--model", "failing_nets:f", "--data", "digits"]) == 2
    assert "--model: failing_nets" in capsys.readouterr().err
    assert main(["eval", "--model", ".m:f", "--data", "digits"]) == 2
    assert "--model takes package.module:function" in capsys.readouterr().err


def test_another_start_is_another_training(tmp_path, monkeypatch, capsys):
    (tmp_path / "started_nets.py").write_text(
        "import torch\ndef f():\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1024, 10), torch.nn.ReLU())\n"
    )
    monkeypatch.chdir(tmp_path)
    for i in (1, 2):
        torch.manual_seed(i)
        torch.save(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1024, 10)).state_dict(), f"w{i}.pt")
    line = ["train", "--model", "started_nets:f", "--out", "run", "--epochs", "1", "--stages", "1", "--T", "2"]
    assert main([*line, "--weights", "w1.pt"]) == 0, capsys.readouterr().err
    assert main([*line, "--weights", "w2.pt", "--resume"]) == 2
    assert "holds another training: weights was" in capsys.readouterr().err
    assert main([*line, "--weights", "w1.pt", "--resume"]) == 0


def test_a_store_of_a_run_that_kept_nothing_is_begun(tmp_path):
    path = tmp_path / "progress.sqlite"
    Store(path, dict(a=1)).close()
    with sqlite3.connect(path) as db:
        db.execute("DELETE FROM run")
    db.close()
    Store(path, dict(a=2)).close()
    with pytest.raises(ValueError, match="holds another run: a was 2, is 3"):
        Store(path, dict(a=3))


def shared_lists(deep):
    """Lists that hold a list twice, that holds a list twice ...: few objects, 2^deep entries."""
    inner = ["x"]
    for _ in range(deep):
        inner = [inner, inner]
    return inner


def test_lists_that_share_lists_are_counted_as_they_are_reached(tmp_path):
    """Filled from the outside in, so that a reader of instructions sees each while it is empty."""
    from snnfast.checkpoints.budget import Refused, check_entries

    check_entries(shared_lists(10), "x")
    for content in (shared_lists(40), {"a": (shared_lists(30), 1)}):
        with pytest.raises(Refused, match="more than 1000000 entries"):
            check_entries(content, "x")
    itself = []
    itself.append(itself)
    with pytest.raises(Refused):
        check_entries(itself, "x")
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(Refused, match="lies too deep"):
        check_entries(deep, "x")
    path = tmp_path / "net.pt"
    outer = [[], []]
    rows = [[] for _ in range(40)]
    for a, b in zip(rows, [*rows[1:], ["x"]]):
        a.extend((b, b))
    outer[0] = rows[0]
    torch.save({"state_dict": {"w": torch.zeros(2)}, "config": outer}, path)
    for call in (lambda: snnfast.load_checkpoint(path), lambda: snnfast.load_weights(torch.nn.Linear(1, 2), path)):
        with pytest.raises(ValueError, match="is refused"):
            call()


def test_reports_do_not_replace_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "report.json").write_text(json.dumps(dict(at=[1], accuracy=[50.0], images=10, seconds=1.0)))
    with pytest.raises(ValueError, match="no regular file"):
        load_report(tmp_path / "report.json").save_json(tmp_path / "pipe.json")
    os.mkfifo(tmp_path / "m.index.json")
    with pytest.raises(ValueError, match="no regular file"):
        snnfast.load_weights(torch.nn.Linear(1, 2), tmp_path / "m.index.json")


def test_files_with_arguments_beside_weights_in_many_threads(tmp_path):
    """What safe loading allows is one list for all threads."""
    import argparse
    from concurrent.futures import ThreadPoolExecutor

    net = torch.nn.Linear(2, 3)
    torch.save({"model": net.state_dict(), "args": argparse.Namespace(lr=0.1)}, tmp_path / "net.pt")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: snnfast.load_weights(torch.nn.Linear(2, 3), tmp_path / "net.pt").weight, range(80)))
    assert all(torch.equal(w, net.weight) for w in found)


@pytest.mark.parametrize("change", ["index", "seconds", "profile", "peak"])
def test_a_batch_that_no_evaluation_kept(checkpoint, tmp_path, capsys, change):
    from snnfast.evaluation import per_image

    line = ["eval", str(checkpoint), "--T", "2", "--images", "4", "--out", str(tmp_path / "run"), "--resume"]
    assert main(line) == 0
    with sqlite3.connect(files_in(tmp_path / "run")[0]) as db:
        record, facts = db.execute("SELECT record, facts FROM batches").fetchone()
        record, facts = per_image.from_bytes(record), json.loads(facts)
        if change == "index":
            record["index"] = record["index"] + 999
        elif change != "seconds":
            facts[change] = None
        db.execute("UPDATE batches SET record = ?, facts = ?", (per_image.to_bytes(record), json.dumps(facts)))
        if change == "seconds":
            db.execute("UPDATE batches SET seconds = -5")
    db.close()
    capsys.readouterr()
    assert main(line) == 2
    told = capsys.readouterr().err
    assert "progress.sqlite is damaged" in told and "--overwrite starts anew" in told


def test_numbers_beyond_fp32_are_named():
    x = torch.ones(2, 3)
    for theta in (1e39, 1e-46):
        with pytest.raises(ValueError, match="theta must be a number of fp32"):
            snnfast.iaf(x, theta)
        assert snnfast.iaf(x.double(), theta)[0].shape == (2, 3)
    with pytest.raises(ValueError, match="gamma must be >= 1.2e-38"):
        snnfast.iaf(x, 1.0, surrogate="box", gamma=1e-60)
    with pytest.raises(ValueError, match="theta in float16 must be > 0 and finite"):
        snnfast.to_quantised(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU()).half(), theta=1e5)
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), snnfast.nn.QCFS(4, 1.0), torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="T must be <= 2\\^24"):
        snnfast.convert(net)(torch.rand(1, 2), 1 << 40)


def test_thresholds_and_weights_that_fp32_does_not_hold(tmp_path):
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), snnfast.nn.QCFS(4, 1.0))
    for name, value, message in (
        ("1.thresh", -1.0, "has thresholds that are not > 0"),
        ("0.weight", 1e300, "has numbers that are not finite"),
    ):
        state = {key: t.double() for key, t in net.state_dict().items()}
        state[name] = torch.full_like(state[name], value)
        torch.save(state, tmp_path / "net.pt")
        with pytest.raises(ValueError, match=f"{name} {message}"):
            snnfast.load_weights(net, tmp_path / "net.pt")

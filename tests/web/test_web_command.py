"""`snnfast web`, its arguments: who is let in from where, and what is refused before a server is there."""

import io
import json
import sys

import numpy as np
import pytest
import torch

import snnfast
from snnfast.cli import web
from snnfast.cli.main import main


def refused(capsys, *words):
    assert main(["web", *words]) == 2
    return capsys.readouterr().err


def test_other_machines_need_passwords(capsys, tmp_path):
    for host in ("0.0.0.0", "192.168.0.1", "example.org"):
        assert "--passwords FILE says who may come" in refused(capsys, "--host", host, "--workspace", str(tmp_path / "ws"))
    assert not (tmp_path / "ws").exists()
    assert web._is_local("127.0.0.1") and web._is_local("::1") and web._is_local("localhost")


def test_places_that_are_none(capsys):
    assert "addresses with colons are not served" in refused(capsys, "--host", "::1")
    for port in ("0", "99999"):
        assert f"--port must be 1 to 65535, got {port}" in refused(capsys, "--port", port)


def test_adding_somebody(capsys, tmp_path, monkeypatch):
    assert "--add-user needs --passwords FILE" in refused(capsys, "--add-user", "ann")
    monkeypatch.setattr(sys, "stdin", io.StringIO("long enough\n"))
    assert main(["web", "--add-user", "ann", "--passwords", str(tmp_path / "people")]) == 0
    assert web.passwords.checker(tmp_path / "people")("ann", "long enough")


def test_without_gradio_it_says_what_to_install(capsys, monkeypatch, tmp_path):
    from snnfast.system import packages

    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    assert "snnfast[web]" in refused(capsys, "--workspace", str(tmp_path / "ws"))


def test_the_log_tells_accuracies_so_far(monkeypatch):
    """What the page draws while an evaluation runs."""
    from snnfast.cli.progress import Log

    told = []
    log = Log(told.append, every=0)
    task = log.add_task("if, T = 4", total=8)
    log.update(task, completed=4)
    log.update(task, at=[1, 4], accuracy=[50.0, 75.0], ann=100.0)
    log.update(task, completed=8)
    assert [entry.get("accuracy") for entry in told] == [None, [50.0, 75.0], [50.0, 75.0]] and told[-1]["done"] == 8


def test_an_evaluation_tells_the_accuracies_of_what_is_done(tmp_path, monkeypatch):
    """Batch by batch; what the log told last, all but the last batch, is what the report says of these images."""
    from snnfast.cli import progress

    monkeypatch.setattr(progress, "EVERY", 0.0)
    torch.manual_seed(0)
    data = snnfast.data.load("digits")
    net = snnfast.models.vgg11(width=0.0625, in_channels=data.channels, image_size=data.image_size)
    snnfast.save_checkpoint(tmp_path / "net.pt", net, data="digits")
    words = [
        "eval",
        str(tmp_path / "net.pt"),
        "--T",
        "4",
        "--images",
        "60",
        "--batch-size",
        "20",
        "--out",
        str(tmp_path / "e"),
        "--save-predictions",
    ]
    assert main([*words, "--log-json", str(tmp_path / "log.jsonl")]) == 0
    told = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    found = [entry for entry in told if "accuracy" in entry]
    assert found and found[-1]["at"] == [1, 2, 4] and len({tuple(entry["accuracy"]) for entry in found}) > 1
    kept = np.load(tmp_path / "e/predictions.npz")
    of = lambda n: [100 * float((kept["predicted"][:n, k] == kept["label"][:n]).mean()) for k in range(3)]  # noqa: E731
    for entry in found:  # of whole batches, none of them ahead of what is done
        assert any(entry["accuracy"] == pytest.approx(of(n)) for n in range(20, entry["done"] // 4 + 1, 20))


@pytest.mark.parametrize("kind", ["report", "so far"])
def test_points_of_an_evaluation(tmp_path, kind):
    from snnfast.web import curves
    from snnfast.web.workspace import Workspace

    workspace = Workspace(tmp_path / "ws")
    number = workspace.records.add("eval", "t", "cpu", [], "")
    out = workspace.folder(number) / "out"
    out.mkdir(parents=True)
    told = dict(at=[1, 4], accuracy=[10.0, 20.0], ann=30.0)
    if kind == "report":
        (out / "report.json").write_text(json.dumps(told))
    lines = [json.dumps(dict(done=1)), json.dumps(told | dict(accuracy=[1.0, 2.0])) if kind == "report" else json.dumps(told), '{"half']
    (workspace.folder(number) / "progress.jsonl").write_text("\n".join(lines))
    run = workspace.records.get(number)
    found = curves.points(workspace, run)
    assert found == ([(1.0, 10.0, "spiking"), (4.0, 20.0, "spiking"), (1.0, 30.0, "ANN"), (4.0, 30.0, "ANN")], "T")
    assert curves.best(workspace, run) == 20.0
    workspace.close()

"""Event data on the command line: training, evaluation, a trace, and what is refused."""

import json

import numpy as np
import pytest
import torch
from recordings import n_mnist

import snnfast
from snnfast.cli.main import main

NET = ["--arch", "sdt_dvs", "--depth", "1", "--dim", "32", "--heads", "4", "--data", "n-mnist", "--data-dir", "events", "--T", "4"]
TRAIN = ["train", *NET, "--lr", "5e-2", "--batch-size", "10"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    n_mnist(tmp_path / "events", 6)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def entries(path):
    return [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]


def test_from_the_recordings_to_a_trace(folder, capsys):
    assert main([*TRAIN, "--epochs", "6", "--out", "out"]) == 0
    log, report = entries(folder / "out"), json.loads((folder / "out/report.json").read_text())
    assert (
        log[-1]["loss"] < log[0]["loss"]
        and log[-1]["test_accuracy"] > 50
        and report["at"] == [1, 2, 4]
        and report["method"]["input"] == "frames"
    )
    assert report["accuracy"][-1] == log[-1]["test_accuracy"]  # run by chunks, the network answers as it did
    net = snnfast.load_checkpoint("out/model.pt")
    assert net.frames and net.facts["frames"] == 4 and net.facts["data"] == "n-mnist"
    assert main(["eval", "out/model.pt", "--data-dir", "events", "--out", "eval", "--chunk", "3", "--statistics"]) == 0
    again = json.loads((folder / "eval/report.json").read_text())
    assert again["accuracy"] == report["accuracy"] and again["at"] == [1, 2, 4] and again["totals"]["firing_rate"] > 0.001
    assert main(["eval", "out/model.pt", "--data-dir", "events", "--T", "6", "--out", "six", "--at", "all"]) == 0
    assert len(json.loads((folder / "six/report.json").read_text())["accuracy"]) == 6
    assert (folder / "events/NMNIST/frames_number_6_split_by_number/test").is_dir()
    assert main(["trace", "out/model.pt", "--data-dir", "events", "--out", "trace", "--layers", "head_lif"]) == 0
    assert np.load(folder / "trace/trace.npz")["head_lif/s"].shape[0] == 4
    for command in ("diagnose", "convert"):
        capsys.readouterr()
        assert main([command, "out/model.pt", "--data-dir", "nowhere"]) == 2
        assert "is a network that was trained as a spiking one" in capsys.readouterr().err


def test_a_resumed_training_is_that_of_one_go(folder):
    assert main([*TRAIN, "--epochs", "2", "--out", "whole"]) == 0
    assert main([*TRAIN, "--epochs", "2", "--out", "parts", "--chunk", "2"]) == 0  # two steps at a time
    state = torch.load("whole/last.pt", weights_only=True)
    assert state["settings"]["frames"] == 4 and state["settings"]["options"] == dict(depth=1, dim=32, heads=4)
    assert entries(folder / "parts")[-1]["loss"] == pytest.approx(entries(folder / "whole")[-1]["loss"], rel=0.2)  # batch norm of two steps


@pytest.mark.parametrize(
    "command, message",
    [
        (["train", "--arch", "sdt_dvs", "--out", "o"], "sdt_dvs takes frames of events, and the data are images: dvs-gesture"),
        (["train", "--arch", "sdt_cifar", *NET[8:], "--out", "o"], "sdt_cifar takes images, and n-mnist has frames of events"),
        (["train", "--arch", "vgg16", *NET[8:], "--out", "o"], "vgg16 takes images, and n-mnist has frames of events"),
        ([*TRAIN, "--preprocessing", "half", "--out", "o"], "frames of events are counts, without a preprocessing"),
        (["train", *NET[:-1], "0", "--out", "o"], "frames must be >= 1, got 0"),
        ([*TRAIN, "--epochs", "2", "--resume", "--out", "done"], "frames was 2, is 4"),
    ],
)
def test_refused_in_one_line(folder, capsys, command, message):
    if "done" in command:
        assert main(["train", *NET[:-1], "2", *TRAIN[len(NET) + 1 :], "--epochs", "1", "--out", "done"]) == 0
    capsys.readouterr()
    assert main(command) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1 and not (folder / "o").exists()

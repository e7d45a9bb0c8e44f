"""A file of `snnfast train --model` says its data, classes and channels, which `eval` and the other commands then take from it."""

import json

import torch

from snnfast.cli.main import main


def test_timm_on_digits(tmp_path, capsys):
    """A network of timm for one channel and ten classes, which it has a thousand and three of."""
    run, of = tmp_path / "run", ["--model", "timm:test_resnet"]
    assert main(["train", *of, "--data", "digits", "--epochs", "1", "1", "--T", "4", "--out", str(run)]) == 0
    facts = torch.load(run / "model.pt", weights_only=True)["facts"]
    assert (facts["data"], facts["classes"], facts["channels"]) == ("digits", 10, 1)
    assert main(["eval", str(run / "model.pt"), *of, "--T", "4", "--images", "20", "--out", str(tmp_path / "e")]) == 0
    assert json.loads((tmp_path / "e/report.json").read_text())["images"] == 20
    capsys.readouterr()
    assert main(["eval", str(run / "model.pt"), *of, "--num-classes", "7"]) == 2
    assert "has shape (10, 96), not (7, 96)" in capsys.readouterr().err

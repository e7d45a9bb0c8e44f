"""A file of `snnfast train --model` says its data, classes and channels, which `eval` and the other commands then take from it."""

import functools
import json

import pytest
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


@pytest.mark.parametrize("name", ["classes", "channels"])
@pytest.mark.parametrize("value", [torch.tensor([1, 2]), "x", [1], None, 0, -1, 10**9, True, 1.5])
def test_a_file_that_says_wrong_numbers(tmp_path, capsys, name, value):
    """Nothing of that size is made."""
    facts = dict(data="digits", classes=10, channels=1) | {name: value}
    torch.save(dict(format="snnfast-weights-1", network="N", activations=[], state_dict={}, facts=facts), tmp_path / "n.pt")
    assert main(["eval", str(tmp_path / "n.pt"), "--model", "timm:test_resnet", "--T", "4"]) == 2
    told = capsys.readouterr().err
    assert f"{name}; 1 to " in told and "are read from a file" in told


def test_a_partial_of_ones_own_is_called_with_classes_alone(tmp_path, monkeypatch):
    from snnfast.cli import own_network

    module = type("module", (), dict(make=functools.partial(dict, width=4)))
    monkeypatch.setitem(own_network.sys.modules, "partials", module)
    assert own_network._channels("partials:make", 1) == {} and own_network._channels("timm:test_resnet", 1) == {"in_chans": 1}

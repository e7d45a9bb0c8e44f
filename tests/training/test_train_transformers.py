"""Transformers on digits, from nothing to a spiking network: by the demo and by the training command."""

import json
import math

import pytest
import torch

import snnfast
from snnfast.cli.demo import demo
from snnfast.cli.main import main, parser
from snnfast.cli.train import settings_of
from snnfast.training import loop, recipes
from snnfast.training.optimisers import warmed_cosine


@pytest.mark.parametrize("arch", ["vit", pytest.param("swin", marks=pytest.mark.thorough)])
def test_demo(tmp_path, arch):
    """In mode differential the spiking network answers as the quantised one does, whatever that has learned."""
    report = demo(out=tmp_path, arch=arch, epochs=(3, 1), T=64)
    assert report.at[-1] == 64 and abs(report.accuracy[-1] - report.ann) <= 1 and report.not_idle[0] == 0
    assert report.ann > 20  # of ten classes: it learns
    assert report.distance[-1] < 0.1 < report.distance[0] and report.method["mode"] == "differential"
    net = snnfast.load_checkpoint(tmp_path / "model.pt")
    assert net.config["activation"] == "hns-qcfs" and (tmp_path / "accuracy.png").exists()
    assert main(["eval", str(tmp_path / "model.pt"), "--images", "40", "--out", str(tmp_path / "e"), "--T", "48"]) == 0
    read = json.loads((tmp_path / "e" / "report.json").read_text())
    assert read["method"]["mode"] == "differential" and read["distance"][-1] < 0.1 and read["agreement"][-1] > 97


def test_demo_with_other_methods(tmp_path):
    demo(out=tmp_path, arch="vit", epochs=(1, 1), T=8, methods=("cos", "stbif"))
    read = json.loads((tmp_path / "methods.json").read_text())
    assert read["cos"]["method"]["rho"] == 4 and read["stbif"]["method"]["mode"] == "differential" and read["stbif"]["not_idle"][0] > 0


VIT = "train --arch vit_tiny --dim 24 --depth 2 --heads 3 --patch-size 8 --epochs 1 1 --batch-size 128 --T 8 --out".split()
SWIN = "train --arch swin_tiny --dim 12 --depth 1 1 --heads 2 4 --norm bn --wiring mst --masking 0.2".split()
SWIN += "--epochs 1 1 --batch-size 128 --T 8 --out".split()


@pytest.mark.parametrize("line", [VIT, pytest.param(SWIN, marks=pytest.mark.thorough)], ids=["vit", "mst"])
def test_command(line, tmp_path, capsys):
    assert main([*line, str(tmp_path / "whole")]) == 0
    report = json.loads((tmp_path / "whole" / "report.json").read_text())
    assert report["at"] == [1, 2, 4, 8] and ("differential" in report["method"].values()) == (line is VIT)
    net = snnfast.load_checkpoint(tmp_path / "whole" / "model.pt")
    assert net.config["activation"] == "hns-qcfs" and net.config["image_size"] == 32
    log = [json.loads(row) for row in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert [row["stage"] for row in log] == [1, 2] and all(math.isfinite(row["loss"]) for row in log)
    assert main([*line, str(tmp_path / "whole")]) == 2 and "holds a training already" in capsys.readouterr().err
    assert main([*line, str(tmp_path / "whole"), "--resume"]) == 0


def test_a_resumed_training_with_a_warm_up_is_that_of_one_go(tmp_path):
    settings = settings_of(parser().parse_args([*VIT, "x", "--epochs", "3", "1"]))[0]
    assert settings.warmup == 2 and settings.optimiser == "adamw"
    data = snnfast.data.load("digits")
    data.train = torch.utils.data.Subset(data.train, range(256))
    whole = loop.train(settings, data, tmp_path / "whole")
    run = loop.Training(settings, data, tmp_path / "part", "cpu", 0)
    run.start()
    run.save(run.one_epoch())
    run.save(run.one_epoch())
    part = loop.train(settings, data, tmp_path / "part", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), part.state_dict().values()))


def test_schedule():
    def rates(epochs, warmup):
        optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.8)
        schedule, found = warmed_cosine(optimiser, epochs, warmup), []
        for _ in range(epochs):
            found.append(optimiser.param_groups[0]["lr"])
            optimiser.step()
            schedule.step()
        return found

    assert rates(6, 2) == pytest.approx([0.8 / 3, 0.8 * 2 / 3, *(0.4 * (1 + math.cos(math.pi * i / 4)) for i in range(4))])
    assert rates(3, 0) == pytest.approx([0.4 * (1 + math.cos(math.pi * i / 3)) for i in range(3)])
    assert rates(1, 5) == [0.8] and len(rates(3, 10)) == 3


def test_recipe():
    r = recipes.recipe("thesis", "vit_small", "cifar100")
    assert (r.optimiser, r.lr, r.levels, r.theta, r.warmup, r.weight_decay) == ("adamw", (1e-4, 1e-3), 16, 3.0, 10, 0.05)
    assert recipes.recipe("thesis", "vgg16", "cifar10").optimiser == "sgd"
    with pytest.raises(ValueError, match="recipe 'srp' is of convolutional networks"):
        recipes.recipe("srp", "swin_tiny", "cifar10")


@pytest.mark.parametrize(
    "given, message",
    [
        (["--heads", "5"], "24 features do not go into 5 heads"),
        (["--heads", "3", "3"], "--heads takes one number for vit_tiny, got 3 3"),
        (["--window", "4"], "window: vit_tiny has no such argument"),
        (["--patch-size", "5"], "image_size must be a multiple of patch_size, 5; got 32"),
        (["--activation", "cs-qcfs"], "two stages start layer-wise (qcfs, s-qcfs, e-qcfs), got activation 'cs-qcfs'"),
        (["--masking", "1"], "masking must be in [0, 1), got 1.0"),
        (["--stem", "imagenet"], "stem is of the ResNets, vit_tiny has none"),
        (["--recipe", "cos"], "recipe 'cos' is of convolutional networks"),
    ],
)
def test_bad_arguments(given, message, tmp_path, capsys):
    assert main([*VIT, str(tmp_path / "out"), *given]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "out").exists()

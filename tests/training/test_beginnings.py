"""A training that starts from the weights of an earlier one."""

import dataclasses

import pytest
import torch
from test_train import small_data

import snnfast
from snnfast.cli.main import main, parser
from snnfast.cli.train import settings_of
from snnfast.training import loop
from snnfast.training.beginnings import take_over

NONE = loop.Settings("resnet20", "digits", "s-qcfs", 4, 2.0, (0,), (0.05,), 32, width=0.125)  # no epoch: what it starts from


@pytest.fixture(scope="module")
def data():
    return small_data()


@pytest.fixture(scope="module")
def earlier(data, tmp_path_factory):
    return loop.train(dataclasses.replace(NONE, epochs=(1,), seed=3), data, tmp_path_factory.mktemp("earlier"))


def thresholds(net):
    return [m.threshold().detach() for m in net.modules() if isinstance(m, snnfast.nn.Quantised)]


def test_it_starts_as_the_earlier_one_ended(data, earlier, tmp_path):
    before = {name: t.clone() for name, t in earlier.state_dict().items()}
    net = loop.train(NONE, data, tmp_path / "a", earlier=earlier)
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items()) and len(before) == len(net.state_dict())
    fresh = loop.train(NONE, data, tmp_path / "b")
    assert not torch.equal(fresh.state_dict()["conv1.0.weight"], before["conv1.0.weight"])
    once = loop.train(dataclasses.replace(NONE, epochs=(1,)), data, tmp_path / "c", earlier=earlier)
    assert not torch.equal(once.state_dict()["conv1.0.weight"], before["conv1.0.weight"])
    assert all(torch.equal(t, before[name]) for name, t in earlier.state_dict().items()), "the earlier network was changed"


@pytest.mark.parametrize("change", [dict(activation="qcfs"), dict(activation="cs-qcfs")])
def test_other_activations_keep_their_own_thresholds(data, earlier, tmp_path, change):
    net = loop.train(dataclasses.replace(NONE, **change), data, tmp_path, earlier=earlier)
    assert torch.equal(net.conv1[0].weight, earlier.conv1[0].weight) and torch.equal(net.fc.bias, earlier.fc.bias)
    assert all(torch.allclose(theta, torch.full_like(theta, 2.0)) for theta in thresholds(net))
    assert not all(torch.allclose(theta, torch.full_like(theta, 2.0), rtol=0, atol=0) for theta in thresholds(earlier))


def test_other_levels_keep_the_thresholds_that_were_learnt(data, earlier, tmp_path):
    net = loop.train(dataclasses.replace(NONE, levels=8), data, tmp_path, earlier=earlier)
    assert all(map(torch.equal, thresholds(net), thresholds(earlier))) and {m.levels for m in net.modules() if hasattr(m, "levels")} == {8}


def test_a_network_that_was_trained_as_a_spiking_one(data):
    make = lambda seed: (torch.manual_seed(seed), snnfast.models.plif_mnist(in_channels=1, num_classes=10))[1]
    net, earlier = make(0), make(1)
    take_over(net, earlier)
    assert all(map(torch.equal, net.state_dict().values(), earlier.state_dict().values()))


def test_another_network_is_refused_and_nothing_is_left(data, earlier, tmp_path):
    with pytest.raises(
        ValueError, match=r"earlier, the weights to start from, are of another network: conv1.0.weight has shape \(2, 1, 3, 3\)"
    ):
        loop.train(dataclasses.replace(NONE, width=0.25), data, tmp_path / "a", earlier=earlier)
    assert not (tmp_path / "a").exists()
    net = snnfast.models.resnet20(width=0.125, num_classes=7, in_channels=1)
    before = {name: t.clone() for name, t in net.state_dict().items()}
    with pytest.raises(ValueError, match=r"fc.weight has shape \(10, 8\), not \(7, 8\)"):
        take_over(net, earlier)
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())


def test_the_command(data, earlier, tmp_path, capsys):
    snnfast.save_checkpoint(tmp_path / "e.pt", earlier, data="digits")
    line = "train --arch resnet20 --width 0.125 --epochs 1 --lr 1e-6 --stages 1 --T 2 --weights".split() + [str(tmp_path / "e.pt")]
    assert main([*line, "--out", str(tmp_path / "a")]) == 0
    net = snnfast.load_checkpoint(tmp_path / "a/model.pt")
    assert torch.allclose(net.conv1[0].weight, earlier.conv1[0].weight, rtol=0, atol=1e-3)  # a step of 1e-6 each
    assert len(net.facts["training"]["weights"]) == 64
    snnfast.save_checkpoint(tmp_path / "snn.pt", snnfast.convert(earlier))
    snnfast.save_checkpoint(tmp_path / "e.pt", net, data="digits")  # another file of this name
    for arguments, message in (
        ([*line, "--out", str(tmp_path / "a"), "--resume"], "holds another training: weights was"),
        ([*line[:2], "vgg11", *line[3:], "--out", str(tmp_path / "b")], "e.pt holds a network of arch resnet20, not vgg11"),
        ([*line[:-1], str(tmp_path / "none.pt"), "--out", str(tmp_path / "b")], "none.pt: No such file or directory"),
        ([*line[:3], "--width", "0.25", *line[5:], "--out", str(tmp_path / "b")], "e.pt holds a network of width 0.125, not 0.25"),
        ([*line[:-1], str(tmp_path / "a/best.pt"), "--out", str(tmp_path / "a"), "--resume"], "best.pt lies in --out"),
        ([*line, "--weight-decay", "-1", "--out", str(tmp_path / "b")], "weight_decay must be >= 0, got -1.0"),
        ([*line, "--weight-decay", "nan", "--out", str(tmp_path / "b")], "weight_decay must be"),
        (
            [*line[:-1], str(tmp_path / "snn.pt"), "--out", str(tmp_path / "b")],
            "holds a converted network: give the network that it was converted from",
        ),
    ):
        capsys.readouterr()
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("how", ["ours", "theirs"])
def test_the_command_of_a_spiking_network(tmp_path, monkeypatch, capsys, how):
    monkeypatch.chdir(tmp_path)
    earlier = snnfast.models.sdt_cifar(1, 32, 4, T=2, num_classes=10, in_channels=1)
    snnfast.save_checkpoint("e.pt", earlier, data="digits") if how == "ours" else torch.save(earlier.state_dict(), "e.pt")
    line = "train --arch sdt_cifar --depth 1 --dim 32 --heads 4 --T 2 --epochs 0 --weights e.pt --out a".split()
    assert main(line) == 0
    net = snnfast.load_checkpoint("a/model.pt")
    assert all(map(torch.equal, net.state_dict().values(), earlier.state_dict().values()))
    assert "starts from the weights of e.pt" in capsys.readouterr().out


def test_another_optimiser_wants_a_rate_of_its_own():
    given = lambda *more: settings_of(parser().parse_args(["train", "--arch", "vgg11", "--out", "x", *more]))[0]
    settings = given("--optimizer", "adamw", "--lr", "0.001", "--weight-decay", "0.05")
    assert (settings.optimiser, settings.lr, settings.weight_decay) == ("adamw", (0.001, 0.0001), 0.05)
    assert given("--optimiser", "sgd").lr == given().lr
    with pytest.raises(ValueError, match="--optimiser adamw wants its own --lr: the recipe's, 0.05 0.005, is of sgd"):
        given("--optimiser", "adamw")

"""Networks trained as spiking ones, by their authors' recipes: losses by their definitions, resumed without a difference."""

import json

import pytest
import torch
from torch.nn import functional as F

import snnfast
from snnfast.cli.main import main
from snnfast.data import load
from snnfast.models.direct import BY_NAME
from snnfast.training import direct_recipes, loop
from snnfast.training.losses import Loss
from snnfast.training.optimisers import optimiser_of, parameter_groups

SMALL = ["--depth", "1", "--dim", "32", "--heads", "4", "--T", "2"]


class Outputs(torch.nn.Module):
    """A network whose outputs at every step are x [T, B, C]."""

    T = 3

    def logits(self, x):
        return x

    def forward(self, x):
        return x.mean(0)


def test_losses_are_their_definitions():
    draw = torch.Generator().manual_seed(0)
    o, y = torch.randn(3, 4, 5, generator=draw).double(), torch.tensor([1, 0, 4, 4])
    log = o.log_softmax(-1)
    each = -torch.stack([log[t][torch.arange(4), y] for t in range(3)])
    loss, logits = Loss(5, tet=0.25)(Outputs(), o, y)
    assert torch.allclose(loss, 0.75 * each.mean() + 0.25 * ((o - 1) ** 2).mean()) and torch.equal(logits, o.mean(0))
    shares = torch.rand(4, 5, generator=draw).double()
    shares /= shares.sum(1, keepdim=True)
    mixed, _ = Loss(5, tet=0.0)(Outputs(), o, shares)
    assert torch.allclose(mixed, -(log * shares).sum(-1).mean())
    plain, _ = Loss(5, smoothing=0.1)(Outputs(), o, y)
    of_mean = o.mean(0).log_softmax(-1)
    assert torch.allclose(plain, -(0.9 * of_mean[torch.arange(4), y] + 0.1 * of_mean.mean(1)).mean())
    votes, _ = Loss(5, votes=True)(Outputs(), o, y)
    assert torch.allclose(votes, ((o.mean(0) / 3 - F.one_hot(y, 5)) ** 2).mean())


def test_mixed_images_and_their_labels():
    """Images of one value each: what is mixed says which labels, and how much of each."""
    torch.manual_seed(0)
    x, y = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 1, 8, 8).clone(), torch.arange(6)
    for loss in (Loss(6, mixup=0.5), Loss(6, cutmix=1.0)):
        seen = [loss.mixed(x, y) for _ in range(5)]
        for images, shares in seen:
            assert shares.shape == (6, 6) and torch.allclose(shares.sum(1), torch.ones(6))
            assert torch.allclose(images.mean((1, 2, 3)), shares @ torch.arange(6.0), atol=1e-5)
        assert any(float(shares.max()) < 1 for _, shares in seen)
    assert Loss(6).mixed(x, y)[0] is x and Loss(6, mixup=0.5, mixing=3).mixed(x, y, 3)[0] is x
    assert Loss(6, mixup=0.5, mixing=3).mixed(x, y, 2)[0] is not x
    frames = torch.stack([x, x + 10, x + 20], 1)  # [B, T, C, H, W]: all frames are mixed alike
    for loss in (Loss(6, mixup=0.5), Loss(6, cutmix=1.0)):
        mixed, shares = loss.mixed(frames, y)
        assert mixed.shape == frames.shape and torch.allclose(mixed[:, 2] - mixed[:, 0], torch.tensor(20.0), atol=1e-4)
        assert torch.allclose(mixed[:, 0].mean((1, 2, 3)), shares @ torch.arange(6.0), atol=1e-5)
    torch.manual_seed(0)
    both = [Loss(6, mixup=0.5, cutmix=1.0).mixed(x, y)[0] for _ in range(12)]
    assert {bool((images == images.round()).all()) for images in both} == {
        True,
        False,
    }  # mixed values are new ones, parts of others are not


def test_every_network_has_a_recipe():
    for arch in BY_NAME:
        full, digits = direct_recipes.recipe(arch, "cifar10"), direct_recipes.recipe(arch, "digits")
        assert (
            full.epochs[0] >= (64 if "dvs" in arch else 125)
            and digits.epochs == (20,)
            and full.activation == digits.activation == "spiking"
        )
    found = direct_recipes.recipe("spikformer_cifar", "cifar10")
    assert (found.weight_decay, found.mixing, found.augment["re_prob"]) == (0.06, 200, 0.25)
    assert not direct_recipes.recipe("spikformer_cifar", "digits").augment
    assert direct_recipes.recipe("mine:net", "cifar10") == direct_recipes.recipe("spikformer_cifar", "cifar10")
    assert (
        direct_recipes.recipe("sdt", "imagefolder").optimiser == "lamb"
        and direct_recipes.recipe("sdt_cifar", "cifar10").optimiser == "adamw"
    )
    assert direct_recipes.recipe("plif_cifar10", "cifar10").votes and direct_recipes.recipe("ms_resnet18", "imagefolder").smoothing == 0.1
    assert direct_recipes.recipe("spiking_resnet34", "imagefolder").optimiser == "sgd"
    assert direct_recipes.recipe("sew_dvs_gesture", "dvs-gesture").lr == (1e-3,)
    found = [direct_recipes.recipe("sdt_dvs", data) for data in ("dvs-gesture", "cifar10-dvs")]
    assert [(r.optimiser, r.tet, r.batch_size) for r in found] == [("lamb", None, 16), ("adamw", 1e-3, 32)]


def test_lamb_is_timms():
    timm = pytest.importorskip("timm.optim")
    torch.manual_seed(0)
    nets = [torch.nn.Sequential(torch.nn.Conv1d(3, 4, 1), torch.nn.BatchNorm1d(4)) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    groups = [parameter_groups(net, 0.1) for net in nets]
    assert [len(group["params"]) for group in groups[0]] == [1, 3]  # a decay of weights alone, of every convolution
    x = torch.randn(5, 3, 7)
    for net, descent in zip(nets, (optimiser_of("lamb", groups[0], 0.01), timm.Lamb(groups[1], lr=0.01))):
        for _ in range(2):
            net(x).square().mean().backward()
            descent.step()
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters()))


def settings(**given):
    own = dict(arch="spikformer_cifar", data="digits", activation="spiking", levels=0, theta=0.0, epochs=(2,), lr=(0.01,), batch_size=32,
               optimiser="adamw", options=dict(depth=1, dim=32, heads=4, T=2), mixup=0.5, tet=0.05)  # fmt: skip
    return loop.Settings(**own | given)


def few(images=96):
    data = load("digits")
    data.train, data.test = (torch.utils.data.Subset(part, range(images)) for part in (data.train, data.test))
    return data


def test_a_training_that_was_stopped_is_the_same(tmp_path):
    data = few()
    whole = loop.train(settings(), data, tmp_path / "whole")

    class Stopped(Exception):
        pass

    def stop(entry):
        raise Stopped

    with pytest.raises(Stopped):
        loop.train(settings(), data, tmp_path / "parts", on_epoch=stop)
    parts = loop.train(settings(), data, tmp_path / "parts", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), parts.state_dict().values()))
    losses = [json.loads(line)["loss"] for line in (tmp_path / "parts/log.jsonl").read_text().splitlines()]
    assert len(losses) == 2 and losses[1] < losses[0]
    kept = snnfast.load_checkpoint(tmp_path / "parts/model.pt")
    x = torch.stack([data.test[i][0] for i in range(4)])
    with torch.no_grad():
        assert kept.T == 2 and torch.equal(kept(x), whole(x))
    with pytest.raises(ValueError, match="holds another training: tet was 0.05, is None"):
        loop.train(settings(tet=None), data, tmp_path / "parts", resume=True)


def test_steps_in_chunks(tmp_path):
    """A chunk of all steps changes nothing; a shorter one trains by the statistics of each chunk, which the log and the file are of."""
    data = few()
    whole, same = (loop.train(settings(chunk=chunk), data, tmp_path / f"{chunk}") for chunk in (None, 2))
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), same.state_dict().values()))
    plans = []
    net = loop.train(settings(options=dict(depth=1, dim=32, heads=4, T=6), chunk=2), data, tmp_path / "six", on_plan=plans.append)
    log = [json.loads(line) for line in (tmp_path / "six/log.jsonl").read_text().splitlines()]
    assert net.T == 6 and log[1]["loss"] < log[0]["loss"]
    assert log[-1]["test_accuracy"] == loop.accuracy(net, data.test, "cpu", 32)


@pytest.mark.parametrize(("loss", "name", "options"), [
    (dict(), "csnn_cifar10", dict(channels=(4, 4, 4), hidden=8)), (dict(tet=0.3), "csnn_cifar10", dict(channels=(4, 4, 4), hidden=8)),
    (dict(votes=True), "plif_mnist", dict(in_channels=3)),
])  # fmt: skip
def test_losses_in_chunks(loss, name, options):
    torch.manual_seed(0)
    net = getattr(snnfast.models, name)(T=6, **options).double().eval()
    size = 28 if name == "plif_mnist" else 32
    x, y, found = torch.rand(3, 3, size, size, dtype=torch.float64), torch.tensor([1, 2, 3]), []
    for chunk in (None, 2):
        net.zero_grad()
        value, logits = Loss(10, chunk=chunk, **loss)(net, x, y)
        value.backward()
        found.append((value.detach(), logits.detach(), *(p.grad for p in net.parameters() if p.grad is not None)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-11, atol=1e-12 * float(a.abs().max()))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(epochs=(2, 1), lr=(0.1, 0.1)), "a network that is trained as a spiking one has one stage"),
        (dict(arch="spikformer"), None),
        (dict(arch="none"), "arch must be one of"),
        (dict(options=dict(width=2)), "width: spikformer_cifar has no such argument"),
        (dict(tet=1.5), "tet must be"),
        (dict(mixup=-1.0), "mixup must be >= 0, got -1.0"),
        (dict(smoothing=2.0), "smoothing must be"),
        (dict(chunk=0), "chunk must be >= 1, got 0"),
        (dict(arch="sew_dvs_gesture", options={}), "sew_dvs_gesture takes frames of events, and the data are images"),
        (dict(arch="plif_cifar10", options={}, votes=True, tet=None, smoothing=0.1), "smoothing is of a cross-entropy"),
        (dict(arch="plif_cifar10", options={}, votes=True), "tet is of outputs of a last layer, and this network's are votes"),
    ],
)
def test_wrong_settings(given, message, tmp_path):
    if message is None:
        settings(**given).check()
        return
    with pytest.raises(ValueError, match=message):
        loop.train(settings(**given), few(8), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("snnfast.cli.train.data_sets.load", lambda *given, **how: few(64))
    assert main(["train", "--arch", "sdt_cifar", *SMALL, "--epochs", "1", "--out", "sdt"]) == 0
    report = json.loads((tmp_path / "sdt/report.json").read_text())
    log = [json.loads(line) for line in (tmp_path / "sdt/log.jsonl").read_text().splitlines()]
    assert report["at"] == [1, 2] and report["method"] == {**report["method"], "method": "direct", "arch": "sdt_cifar"}
    assert report["accuracy"][-1] == log[-1]["test_accuracy"]  # run by chunks, the network answers as it did
    (tmp_path / "mine.py").write_text(
        "import snnfast\ndef net(num_classes):\n    return snnfast.models.sdt_cifar(1, 32, 4, in_channels=1)\n"
        "def kd():\n    return snnfast.models.sdt_v2((16, 32, 32, 32), (1, 1), 4, kd=True, num_classes=10, in_channels=1)\n"
    )
    assert main(["train", "--model", "mine:net", "--recipe", "authors", "--T", "3", "--epochs", "1", "--out", "own"]) == 0
    assert json.loads((tmp_path / "own/report.json").read_text())["at"] == [1, 2, 3]
    assert main(["train", "--model", "mine:net", "--recipe", "authors", "--T", "2", "--epochs", "1", "--out", "own", "--resume"]) == 2
    assert "own holds another training: options was {'T': 3}, is {'T': 2}" in capsys.readouterr().err
    for flags, told in (
        (["--arch", "sdt_cifar", "--levels", "4"], "--levels is of quantised activations, and sdt_cifar is trained as a spiking network"),
        (["--arch", "sdt_cifar", "--recipe", "qcfs"], "sdt_cifar is trained as a spiking network: --recipe qcfs is of others"),
        (["--arch", "sdt_cifar", "--lr", "0.1", "0.2"], "--lr takes a number for each of one stage, got 2"),
        (["--model", "mine:kd", "--recipe", "authors"], "net has a second last layer (kd=True), which learns from a teacher"),
        (["--arch", "vgg11", "--recipe", "authors"], "vgg11 has quantised activations: --recipe authors is of others"),
        (["--arch", "sdt_cifar", "--width", "2"], "--width is of networks with quantised activations"),
        (["--arch", "sdt_cifar", "--depth", "1", "2"], "depth must be an int, got list"),
        (["--arch", "vgg11", "--chunk", "2"], "chunk is of networks that are trained as spiking ones"),
        (["--arch", "vgg11", "--tet", "0.1"], "tet is of networks that are trained as spiking ones"),
        (["--arch", "sdt_cifar", "--T", "0"], "T must be >= 1, got 0"),
        (["--model", "mine:net", "--recipe", "authors", "--T", "0"], "T must be >= 1, got 0"),
        (["--model", "mine:net"], "mine:net returns a network that is trained as a spiking one: give --recipe authors"),
    ):
        assert main(["train", *flags, "--epochs", "1", "--out", "no"]) == 2
        assert told in capsys.readouterr().err
        assert not (tmp_path / "no").exists()

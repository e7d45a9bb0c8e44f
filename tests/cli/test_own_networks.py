"""`snnfast eval --model package.module:function`: networks of others with their weights in files of any trainer, on folders of pictures."""

import contextlib
import json

import command
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import snnfast
from snnfast.cli import own_network
from snnfast.cli.main import main

OWN = """
import torch
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    def __init__(self, num_classes=3):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 5, 4), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, num_classes)

    def forward(self, x):
        h = F.relu(self.norm(self.conv(x)))
        return {"logits": self.head(h.mean((2, 3))), "map": h}


def net(num_classes=3):
    torch.manual_seed(0)
    return Net(num_classes)


def asks(something):
    return Net()


def gives():
    return 3


class Digits(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(1024, 32), nn.ReLU(), nn.Linear(32, 10))


class Functions(Digits):
    def forward(self, x):
        return super().forward(F.relu(x))


class Gelus(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(1024, 8), nn.ReLU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 10))


def sized(**given):
    return nn.Sequential(nn.Conv2d(1, 4, 5, 4), nn.ReLU(), nn.Flatten(), nn.Linear(196, given["num_classes"]))


def wide():
    return nn.Sequential(nn.Flatten(), nn.Linear(1024, 8), nn.ReLU(), nn.Linear(8, 7))
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a module, pictures of three classes, and others that set thresholds; the command runs in it."""
    (tmp_path / "my_nets.py").write_text(OWN)
    rng = np.random.default_rng(0)
    for i in range(12):
        for part in ("val", "other"):
            folder = tmp_path / "pictures" / part / f"class{i % 3}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "my_nets", raising=False)
    return tmp_path


BASE = ["--data", "imagefolder", "--data-dir", "pictures", "--image-size", "32", "--T", "16"]


def weights(here, wrap=lambda state: state):
    torch.manual_seed(5)
    import importlib.util

    spec = importlib.util.spec_from_file_location("made", here / "my_nets.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    torch.manual_seed(5)
    net = made.Net()
    torch.save(wrap(net.state_dict()), here / "weights.pt")
    return net


def test_a_model_of_timm_by_its_name(here, capsys):
    pytest.importorskip("timm", reason="timm is not installed")
    given = [*BASE, "--num-classes", "3", "--calibrate", "pictures/other", "--out", "timm"]
    assert main(["eval", "--model", "timm:resnet10t.c3_in1k", *given]) == 0, capsys.readouterr().err
    assert command.report(here / "timm")["facts"]["model"] == "timm:resnet10t.c3_in1k"
    assert main(["eval", "--model", "timm:resnet0", *given, "--overwrite"]) == 2
    assert "--model: timm has no function resnet0" in capsys.readouterr().err


def test_a_network_of_ones_own(here, capsys):
    net = weights(here, lambda state: {"epoch": 3, "state_dict": {f"module._orig_mod.{k}": t for k, t in state.items()}})
    told = ["--model", "my_nets:net", *BASE, "--calibrate", "pictures/other", "--read", "logits", "--percentile", "100", "--statistics"]
    assert main(["eval", "weights.pt", *told]) == 0, capsys.readouterr().err
    report = command.report(here / "runs/eval/weights-net-imagefolder-T16")
    assert report["images"] == 12 and report["facts"]["model"] == "my_nets:net" and report["facts"]["preprocessing"]["crop"] == 32
    test = snnfast.data.load("imagefolder", "pictures", preprocessing=report["facts"]["preprocessing"], train=False).test
    x, y = (torch.stack([torch.as_tensor(row[i]) for row in test]) for i in (0, 1))
    with torch.no_grad():
        assert report["ann"] == pytest.approx(100 * float((net.eval()(x)["logits"].argmax(1) == y).double().mean()))
    assert report["distance"][-1] < report["distance"][0]


def test_the_same_thresholds_as_convert_gives(here):
    """Images of the folder, prepared as those of the test set are; levels in mode differential."""
    net = weights(here).eval()
    told = [
        "--model",
        "my_nets:net",
        *BASE,
        "--calibrate",
        "pictures/other",
        "--read",
        "logits",
        "--mode",
        "differential",
        "--neuron-levels",
        "8",
    ]
    assert main(["eval", "weights.pt", *told, "--save-predictions", "--out", "e"]) == 0
    found = np.load(here / "e/predictions.npz")
    prepared = snnfast.data.load(
        "imagefolder", "pictures", preprocessing=command.report(here / "e")["facts"]["preprocessing"], train=False
    ).test
    from snnfast.data import folders

    images = torch.stack(list(folders.Pictures("pictures/other", prepared.transform)))
    snn = snnfast.convert(net, calibrate=images, levels=8, mode="differential", read="logits")
    x = torch.stack([row[0] for row in prepared])
    assert np.array_equal(found["predicted"][:, -1], snn(x, T=16).argmax(1).numpy())


def test_a_network_of_torchvision(here):
    torchvision = pytest.importorskip("torchvision")
    torch.save(torchvision.models.squeezenet1_1(num_classes=3).state_dict(), here / "weights.pt")
    told = ["--model", "torchvision.models:squeezenet1_1", "--num-classes", "3", *BASE[:4], "--image-size", "64", "--T", "4"]
    assert main(["eval", "weights.pt", *told, "--calibrate", "pictures/other", "--out", "e"]) == 0
    assert command.report(here / "e")["images"] == 12


def test_without_a_file_and_on_digits(here):
    assert main(["eval", "--model", "my_nets:Digits", "--data", "digits", "--calibrate", "train", "--T", "8", "--images", "20"]) == 0
    assert command.report(here / "runs/eval/Digits-digits-T8")["images"] == 20


@pytest.mark.parametrize("given, message", (
    (["--model", "my_nets"], "--model takes package.module:function, got 'my_nets'"),
    (["--model", "no_such:net"], "--model: there is no module no_such, neither installed nor in"),
    (["--model", "my_nets:nothing"], "--model: my_nets has no function nothing"),
    (["--model", "my_nets:asks"], "--model: my_nets:asks is called without arguments: missing a required argument: 'something'"),
    (["--model", "my_nets:gives"], "--model: my_nets:gives must return a torch.nn.Module, got int"),
    (["--model", "my_nets:net"], "net has no quantised activations: --calibrate gives images"),
    (["--model", "my_nets:net", "--calibrate", "nowhere"], "--calibrate takes 'train' or a folder of pictures, and nowhere is none"),
    (["--model", "my_nets:net", "--calibrate", "pictures/other"], "an accuracy needs one output, and net gives logits, map"),
    (["--model", "my_nets:net", "--calibrate", "pictures/other", "--read", "x"], "read must be one of logits, map, the outputs of net, got 'x'"),
    (["--model", "my_nets:net", "--levels", "8"], "--levels is for a checkpoint that holds a network of snnfast.models, and --model gives"),
    (["--model", "my_nets:net", "--arch", "vgg11"], "--arch is for a checkpoint that holds a network of snnfast.models"),
    (["--model", "my_nets:net", "--key", "ema"], "--key names an entry of a file of weights: give CHECKPOINT"),
    ([], "give a CHECKPOINT, or --model package.module:function"),
))  # fmt: skip
def test_what_is_wrong_is_told_in_one_line(here, capsys, given, message):
    assert main(["eval", *given, *BASE]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"snnfast: {message}") and error.count("\n") == 1
    assert not (here / "runs").exists()


def test_options_of_own_networks_ask_for_one(checkpoint, capsys):
    assert main(["eval", str(checkpoint), "--calibrate", "train"]) == 2
    assert "--calibrate is for a network of your own: give --model" in capsys.readouterr().err
    assert main(["eval", str(checkpoint), "--percentile", "0"]) == 2
    assert "--percentile is for a network of your own: give --model" in capsys.readouterr().err


def test_data_must_be_named(here, capsys):
    assert main(["eval", "--model", "my_nets:net"]) == 2
    assert "--model says nothing of its images: give --data" in capsys.readouterr().err


def test_weights_of_any_trainer(tmp_path):
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    state = net.state_dict()
    for i, file in enumerate(
        ({f"model.{k}": t for k, t in state.items()}, {"model_ema": state}, {"net": {**state, "total_ops": torch.ones(1)}})
    ):
        torch.save(file, tmp_path / f"{i}.pt")
        new = snnfast.load_weights(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), tmp_path / f"{i}.pt")
        assert all(torch.equal(t, new.state_dict()[k]) for k, t in state.items())
    other = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(2, 2))
    before = {k: t.clone() for k, t in other.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"does not hold the weights of Sequential: 2.weight is missing; 2.bias is missing; 0.weight has shape \(4, 3\)"
    ):
        snnfast.load_weights(other, tmp_path / "0.pt")
    assert all(torch.equal(t, before[k]) for k, t in other.state_dict().items())


def test_weights_in_several_files(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    parts = {"a.safetensors": ["0.weight", "0.bias"], "b.safetensors": ["1.weight", "1.bias"]}
    for name, keys in parts.items():
        safetensors.save_file({k: net.state_dict()[k] for k in keys}, tmp_path / name)
    index = {"metadata": {}, "weight_map": {k: name for name, keys in parts.items() for k in keys}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    new = snnfast.load_weights(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), tmp_path / "model.safetensors.index.json")
    assert torch.equal(new[1].weight, net[1].weight)


def test_an_index_of_parts_stays_in_its_folder(tmp_path):
    net = nn.Linear(3, 2)
    for k in ("weight", "bias"):
        torch.save({k: net.state_dict()[k]}, tmp_path / f"{k}.pt")
    path = tmp_path / "x.index.json"
    path.write_text(json.dumps({"weight_map": {"weight": "weight.pt", "bias": "bias.pt"}}))
    assert torch.equal(snnfast.load_weights(nn.Linear(3, 2), path).weight, net.weight)
    for text, message in (
        ('{"weight_map": {"weight": "../weight.pt"}}', "which is no file beside it"),
        ("[]", "is no index of a file"),
        ("{", "is no index"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            snnfast.load_weights(net, path)


class Held(nn.Module):
    """Its own names begin as those of wrappers do."""

    def __init__(self):
        super().__init__()
        self.model = nn.Linear(3, 2)
        self.twin = nn.Linear(3, 2)
        self.twin.weight = self.model.weight


def test_weights_behind_prefixes_and_beside_others(tmp_path):
    net = Held()
    for prefix, more in (("module.", {}), ("module._orig_mod.", {}), ("student.", {"criterion.weight": torch.ones(3)})):
        torch.save({**{prefix + k: t for k, t in net.state_dict().items()}, **more}, tmp_path / "w.pt")
        with pytest.warns(UserWarning, match="left out: criterion.weight") if more else contextlib.nullcontext():
            new = snnfast.load_weights(Held(), tmp_path / "w.pt")
        assert torch.equal(new.model.weight, net.model.weight)
    torch.save({k: t for k, t in net.state_dict().items() if k != "twin.weight"}, tmp_path / "tied.pt")
    assert torch.equal(snnfast.load_weights(Held(), tmp_path / "tied.pt").twin.weight, net.model.weight)
    torch.save({f"module.{k}": t for k, t in net.state_dict().items() if k != "model.weight"}, tmp_path / "tied.pt")
    assert torch.equal(snnfast.load_weights(Held(), tmp_path / "tied.pt").model.weight, net.model.weight)


def test_counts_of_a_norm_are_loaded(tmp_path):
    net = nn.BatchNorm1d(4).train()
    net(torch.randn(8, 4)), net(torch.randn(8, 4))
    for prefix in ("", "module."):
        torch.save({prefix + k: t for k, t in net.state_dict().items()}, tmp_path / "w.pt")
        assert snnfast.load_weights(nn.BatchNorm1d(4), tmp_path / "w.pt").num_batches_tracked == 2


@pytest.mark.parametrize("spoilt, message", (
    (lambda t: (100 * t).to(torch.int8), "model.weight has dtype int8, not float32"), (lambda t: t.to(torch.complex64), "dtype complex64"),
    (lambda t: t * float("nan"), "model.weight has numbers that are not finite"),
))  # fmt: skip
def test_weights_that_are_none_are_refused(tmp_path, spoilt, message):
    net = Held()
    torch.save({k: spoilt(t) for k, t in net.state_dict().items()}, tmp_path / "w.pt")
    before = net.model.weight.clone()
    with pytest.raises(ValueError, match=message):
        snnfast.load_weights(net, tmp_path / "w.pt")
    assert torch.equal(net.model.weight, before)


SHORT = ["--data", "digits", "--epochs", "2", "1", "--lr", "0.02", "0.002", "--T", "8"]


def test_training_a_network_of_ones_own(here, capsys):
    """From its weights to a checkpoint that `eval --model` takes; a second start goes on."""
    assert main(["train", "--model", "my_nets:Digits", "--out", "run", *SHORT]) == 0, capsys.readouterr().err
    log = [json.loads(line) for line in (here / "run/log.jsonl").read_text().splitlines()]
    assert [entry["stage"] for entry in log] == [1, 1, 2] and log[-1]["loss"] < log[0]["loss"]
    report = command.report(here / "run")
    assert report["facts"]["training"]["arch"] == "my_nets:Digits"
    assert main(["eval", "run/model.pt", "--model", "my_nets:Digits", "--data", "digits", "--T", "8", "--out", "e"]) == 0
    again = command.report(here / "e")
    assert (again["ann"], again["accuracy"]) == (report["ann"], report["accuracy"])
    assert main(["train", "--model", "my_nets:Digits", "--out", "run", *SHORT]) == 2
    assert "holds a training already" in capsys.readouterr().err
    assert main(["train", "--model", "my_nets:Digits", "--out", "run", "--resume", *SHORT]) == 0
    assert main(["eval", "run/model.pt"]) == 2
    assert "none of snnfast.models (Digits)" in capsys.readouterr().err


def test_training_starts_from_weights_and_knows_the_classes(here, capsys, monkeypatch):
    monkeypatch.syspath_prepend(here)
    from my_nets import sized

    net = sized(num_classes=10)
    torch.save({"state_dict": net.state_dict()}, here / "start.pt")
    given = ["train", "--model", "my_nets:sized", "--weights", "start.pt", "--out", "run", "--data", "digits", "--T", "4", "--stages", "1"]
    assert main([*given, "--epochs", "0"]) == 0, capsys.readouterr().err  # not trained at all: the weights are those of the file
    held = torch.load(here / "run/model.pt")["state_dict"]
    assert all(torch.equal(held[name], t) for name, t in net.state_dict().items()) and set(held) - set(net.state_dict()) == {"1.lam"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["--model", "my_nets:Functions"],
            "net calls ReLUs as functions, in whose place no activation can be put: relu in net (Functions)",
        ),
        (["--model", "my_nets:Gelus"], "(GELU) "),
        (["--model", "my_nets:wide"], "gives [1, 7] for an image; training takes logits [1, 10]"),
        (["--model", "my_nets:net"], "net does not run on an image of --data= ([1, 1, 32, 32]"),
        (["--model", "my_nets:Digits", "--width", "2"], "--width is of networks of snnfast.models: --arch"),
        (["--model", "my_nets:Digits", "--patch-size", "2"], "--patch-size is of networks of snnfast.models: --arch"),
        (["--model", "my_nets:Digits", "--activation", "c-qcfs"], "two stages start layer-wise"),
        (["--arch", "vgg11", "--weights", "x.pt"], "--weights x.pt: No such file or directory"),
        (["--model", "my_nets:Digits", "--weights", "none.pt"], "none.pt"),
    ],
)
def test_what_cannot_be_trained_is_told_before_it_begins(here, capsys, given, message):
    assert main(["train", *given, "--out", "run", *SHORT]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert not (here / "run").exists()


def test_a_network_that_is_a_spiking_one_already(tmp_path, monkeypatch, capsys):
    """Its T is the default, its neurons stay, and what is of a conversion is refused by name."""
    (tmp_path / "spiking_net.py").write_text(
        "import snnfast\ndef sdt():\n    return snnfast.models.sdt_cifar(1, 32, 4, T=3, num_classes=10, in_channels=1)\n"
    )
    monkeypatch.chdir(tmp_path)
    given = ["--model", "spiking_net:sdt", "--data", "digits", "--images", "8"]
    assert main(["eval", *given, "--statistics"]) == 0
    report = json.loads((tmp_path / "runs/eval/sdt-digits-T3/report.json").read_text())
    assert report["at"] == [1, 2, 3] and report["method"]["method"] == "direct" and "yao2023spike" in report["bibtex"]
    torch.manual_seed(0)
    images = torch.stack([x for x, _ in torch.utils.data.Subset(snnfast.data.digits()[1], range(8))])
    found = snnfast.operations(own_network.made("spiking_net:sdt", {}), [(images, None)], "sdt")
    told = report["facts"]["operations"]
    assert set(told) == {"own", "spikingformer", "resformer", "sdt"} and told["sdt"]["MACs"] == pytest.approx(found.MACs)
    assert all(each["energy_mJ"] > 0 for each in told.values()) and "operations, sdt:" in capsys.readouterr().out
    for flags, told in (
        (["eval", *given, "--method", "srp"], "whose neurons stay: --method is for others"),
        (["eval", *given, "--percentile", "9"], "whose neurons stay: --percentile is for others"),
        (["eval", *given, "--inputs", "poisson"], "whose neurons stay: --inputs is for others"),
        (["diagnose", *given], "diagnose compares a spiking network with the one that it was converted from; eval runs it as it is"),
        (["convert", *given, "--method", "if"], "its neurons stay, and its own file is what save_checkpoint writes"),
    ):
        capsys.readouterr()
        assert main([*flags, "--T", "5"]) == 2
        assert told in capsys.readouterr().err


def test_a_file_of_a_network_that_is_a_spiking_one(tmp_path, monkeypatch, capsys):
    """What the file does not say is asked for; our own file says all."""
    monkeypatch.chdir(tmp_path)
    net = snnfast.models.spikformer_cifar(1, 32, 4, T=3, in_channels=1)
    torch.save({"state_dict": net.state_dict()}, "net.pth")
    snnfast.save_checkpoint("ours.pt", net, data="digits")
    given = ["eval", "net.pth", "--arch", "spikformer_cifar", "--data", "digits", "--images", "8"]
    assert main(given) == 2 and "net.pth does not say heads and T of spikformer_cifar: give heads=, T=" in capsys.readouterr().err
    assert main([*given, "--heads", "4", "--T", "3"]) == 0 and main(["eval", "ours.pt", "--images", "8"]) == 0
    runs = [json.loads((tmp_path / "runs/eval" / run / "report.json").read_text()) for run in ("net-digits-T3", "ours-T3")]
    assert runs[0]["loss"] == runs[1]["loss"] and runs[0]["at"] == [1, 2, 3]
    assert main(["trace", "ours.pt", "--T", "3", "--neurons", "2", "--out", "traced"]) == 0
    capsys.readouterr()
    assert main(["eval", "ours.pt", "--images", "8", "--method", "srp"]) == 2
    assert "whose neurons stay: --method is for others" in capsys.readouterr().err

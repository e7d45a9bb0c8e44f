"""A converted network in a file: the same bits after loading, and nothing in a file can run what is not known."""

import copy
import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import snnfast
from snnfast.conversion import Poisson
from snnfast.conversion.methods import COS, SRP

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.LayerNorm(4)
        self.bn, self.pool, self.qkv, self.h = nn.BatchNorm2d(4), nn.MaxPool2d(2), nn.Linear(4, 12), nn.Linear(4, 3)
        self.token = nn.Parameter(torch.randn(1, 1, 4))

    def forward(self, x):
        h = F.gelu(self.bn(self.b(F.relu(self.a(x)))))
        tokens = torch.cat([self.token.expand(x.size(0), -1, -1), self.norm(self.pool(h).flatten(2).transpose(1, 2))], 1)
        q, k, v = self.qkv(tokens).chunk(3, -1)
        return F.log_softmax(self.h((q @ k.transpose(1, 2)).softmax(-1) @ v)[:, 0], -1)


def plain():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding_mode="circular", padding=1), nn.ReLU()
    return nn.Sequential(*layers, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))


MADE = {
    "from images": lambda: snnfast.convert(plain(), calibrate=X, per_channel=True),
    "attention": lambda: snnfast.convert(Attention(), mode="differential", calibrate=X, levels=8),
    "resnet20, srp": lambda: snnfast.convert(snnfast.models.resnet20(width=0.25), SRP(tau=3)),
    "resnet20, cos, captured": lambda: snnfast.convert(snnfast.models.resnet20(width=0.25), COS(rho=2), sample=torch.randn(1, 3, 32, 32)),
    "vit": lambda: snnfast.convert(snnfast.models.vit_tiny(image_size=8, patch_size=4, depth=2)),
    "swin": lambda: snnfast.convert(snnfast.models.swin_tiny(image_size=32, patch_size=2, window=4, depths=(1, 1), heads=(2, 4), dim=24)),
    "poisson, gated": lambda: snnfast.convert(plain(), "stbif", calibrate=X, inputs=Poisson(seed=3), maxpool="gated", v0={"1": 0.25}),
    "masks": lambda: snnfast.convert(
        snnfast.models.swin_tiny(image_size=32, patch_size=2, window=4, depths=(1, 1), heads=(2, 4), dim=24, masking=0.5), mode="per_step"
    ),
}


def images(snn, made):
    first = next(m for m in snn.gm.modules() if isinstance(m, nn.Conv2d))
    size = 32 if made.startswith(("resnet", "swin", "masks")) else 8
    return torch.randn(4, first.in_channels, size, size, generator=torch.Generator().manual_seed(3))


@pytest.mark.filterwarnings("ignore:T is too small")
@pytest.mark.parametrize("made", MADE)
def test_the_same_network_after_loading(tmp_path, made):
    snn = MADE[made]()
    x = images(snn, made)
    snnfast.save_checkpoint(tmp_path / "snn.pt", snn, data="none", of=made)
    again = snnfast.load_checkpoint(tmp_path / "snn.pt")
    assert isinstance(again, snnfast.SpikingNetwork) and again.saved == {"data": "none", "of": made} and again.facts() == snn.facts()
    assert torch.equal(again.logits(x, 12, chunk=5), snn.logits(x, 12, chunk=5)) and torch.equal(again(x, T=9), snn(x, T=9))
    assert [n for n, _ in again.neurons()] == [n for n, _ in snn.neurons()] and again.levels == snn.levels
    assert {k: v.dtype for k, v in again.state_dict().items()} == {k: v.dtype for k, v in snn.state_dict().items()}
    a, b = (snnfast.evaluate(s, [(x, torch.zeros(4, dtype=torch.long))], T=8, statistics=True) for s in (snn, again))
    assert a.layers == b.layers and a.accuracy == b.accuracy
    snnfast.save_checkpoint(tmp_path / "twice.pt", again)
    assert torch.equal(snnfast.load_checkpoint(tmp_path / "twice.pt")(x, T=9), snn(x, T=9))


def content(tmp_path, change):
    snnfast.save_checkpoint(tmp_path / "snn.pt", snnfast.convert(plain(), calibrate=X))
    file = torch.load(tmp_path / "snn.pt", weights_only=True)
    change(file)
    torch.save(file, tmp_path / "changed.pt")
    return tmp_path / "changed.pt"


def call(target, *args):
    """Puts a call of a function in place of the first node behind the image."""

    def change(file):
        file["graph"].insert(1, ["call_function", "evil", target, {"is": "list", "of": list(args)}, {"is": "dict", "of": []}, {}])

    return change


HOSTILE = {
    "a function of torch that reads files": call("torch.load", "/etc/passwd"),
    "an operator that maps files": call("aten.from_file.default", "/etc/passwd"),
    "a function of the system": call("os.system", "true"),
    "an attribute": call("getattr", {"is": "node", "of": 0}, "__class__"),
    "a method": lambda file: file["graph"].insert(
        1, ["call_method", "evil", "backward", {"is": "list", "of": [{"is": "node", "of": 0}]}, {"is": "dict", "of": []}, {}]
    ),  # fmt: skip
    "a class": lambda file: next(iter(file["layers"].values())).__setitem__(0, "Module.__init__"),
    "a class of another kind": lambda file: next(iter(file["layers"].values())).__setitem__(0, "Parameter"),
    "a setting in place of a function": lambda file: next(iter(file["layers"].values()))[1].update(forward=3),
    "a layer missing": lambda file: file["layers"].pop(next(iter(file["layers"]))),
    "a weight missing": lambda file: file["state"].pop("0.weight"),
    "a weight of text": lambda file: file["state"].update({"0.weight": "text"}),
    "a node of the future": lambda file: file["graph"][1].__setitem__(3, {"is": "list", "of": [{"is": "node", "of": 99}]}),
    "a method unknown": lambda file: file["method"].__setitem__(0, "mine"),
    "no graph": lambda file: file.pop("graph"),
    "NaN": lambda file: file["state"]["0.weight"].fill_(float("nan")),
    "a threshold of 0": lambda file: file["state"].update({k: t * 0 for k, t in file["state"].items() if k.endswith("theta")}),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_files_that_are_damaged_or_hostile(tmp_path, what):
    with pytest.raises(ValueError, match="is damaged|is refused|not finite|NaN|must be > 0"):
        snnfast.load_checkpoint(content(tmp_path, HOSTILE[what]))


def test_numbers_of_numpy(tmp_path):
    """An fp64 of numpy's is a float, and is saved as Python's."""
    net = torch.nn.Sequential(torch.nn.Linear(4, 6), snnfast.nn.QCFS(4, 1.0), torch.nn.Linear(6, 3)).eval()
    for v0 in (np.float64(0.25), {"1": np.float64(0.25)}):
        snn = snnfast.convert(net, "srp", v0=v0, tau=3)
        snnfast.save_checkpoint(tmp_path / "n.pt", snn)
        x = torch.rand(2, 4)
        assert torch.equal(snnfast.load_checkpoint(tmp_path / "n.pt")(x, 8), snn(x, 8))


def test_what_cannot_be_saved_is_refused_by_name(tmp_path):
    snn = snnfast.convert(plain(), calibrate=X)
    other = copy.deepcopy(snn)
    other.gm.add_submodule("mine", type("Mine", (nn.Module,), {"forward": lambda self, x: x})())
    with pytest.raises(ValueError, match=r"mine \(Mine\) is no layer that a file can hold"):
        snnfast.save_checkpoint(tmp_path / "snn.pt", other)
    with pytest.raises(ValueError, match="says itself what it holds, and takes no levels"):
        snnfast.save_checkpoint(tmp_path / "snn.pt", snn)
        snnfast.load_checkpoint(tmp_path / "snn.pt", levels=4)
    with pytest.raises(TypeError, match="net must be a torch.nn.Module, got list"):
        snnfast.save_checkpoint(tmp_path / "snn.pt", [nn.Linear(2, 2)])


def test_the_commands_take_a_converted_network_as_it_is(tmp_path, monkeypatch, capsys):
    from snnfast.cli.main import main

    monkeypatch.chdir(tmp_path)
    net = snnfast.models.vgg11(width=0.0625, in_channels=1, image_size=32)
    snn = snnfast.convert(net, "cos", rho=2)
    snnfast.save_checkpoint("snn.pt", snn, data="digits", T=4)
    assert main(["eval", "snn.pt", "--images", "20", "--statistics", "--out", "e"]) == 0
    report = json.loads((tmp_path / "e/report.json").read_text())
    test = torch.utils.data.Subset(snnfast.data.digits()[1], range(20))
    expected = snnfast.evaluate(snn, test, T=4)
    assert report["at"] == [1, 2, 4] and report["loss"] == expected.loss and report["ann"] is None
    assert report["method"]["method"] == "cos" and report["facts"]["saved"] == {"data": "digits", "T": 4}
    assert main(["diagnose", "snn.pt", "--T", "4", "--images", "4"]) == 0 and main(["trace", "snn.pt", "--T", "4"]) == 0
    for line, message in (
        (["eval", "--T", "4", "--method", "srp"], "is converted already, whose neurons stay: --method is for others"),
        (["eval", "--T", "4", "--levels", "4"], "says itself what it holds, and takes no levels"),
        (["convert", "--T", "4"], "holds a network that is converted already: eval, diagnose and trace take it as it is"),
        (["eval", "--data", "n-mnist"], "snn.pt takes images, and n-mnist has frames"),
    ):
        capsys.readouterr()
        assert main([line[0], "snn.pt", *line[1:]]) == 2
        error = capsys.readouterr().err
        assert message in error or "data-dir" in error, error
        assert error.count("\n") == 1

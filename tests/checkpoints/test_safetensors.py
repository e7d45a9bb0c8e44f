"""Our formats in safetensors files: what goes in comes out, others can read the tensors, and damage is told."""

import importlib.util
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import snnfast
from snnfast.checkpoints import safetensor_files


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.safetensors"


def test_a_network_comes_back(path):
    torch.manual_seed(0)
    net = snnfast.models.vgg11(width=0.05, levels=8).eval()
    snnfast.save_checkpoint(path, net, data="digits", sizes=[1, 2], mean=(0.5, 0.25))
    new, x = snnfast.load_checkpoint(path), torch.randn(2, 3, 32, 32)
    assert new.config == net.config and new.facts == {"data": "digits", "sizes": [1, 2], "mean": (0.5, 0.25)}
    assert torch.equal(new(x), net(x))
    others = load_file(path)  # as any program reads them
    assert others.keys() == net.state_dict().keys() and all(torch.equal(others[key], t) for key, t in net.state_dict().items())


def test_start_voltages_of_each_neuron_come_back(path):
    """Which are tensors among the method's numbers."""
    net, x = nn.Sequential(nn.Linear(6, 8), snnfast.nn.QCFS(8, 1.0), nn.Linear(8, 3)), torch.randn(5, 6)
    snn = snnfast.convert(net, "if", v0={"1": torch.rand(8)})
    snnfast.save_checkpoint(path, snn)
    new = snnfast.load_checkpoint(path)
    assert torch.equal(new(x, T=20), snn(x, T=20)) and torch.equal(new.method.v0["1"], snn.method.v0["1"])
    assert new.state_dict().keys() == snn.state_dict().keys()


@pytest.mark.parametrize("how", [dict(method="srp"), dict(method="stbif", caps=(0, 5)), dict(mode="differential")])
def test_a_converted_network_comes_back(path, how):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), snnfast.nn.QCFS(8, 1.0), nn.Linear(8, 8), snnfast.nn.QCFS(4, 0.5), nn.Linear(8, 3))
    snn, x = snnfast.convert(net, **how), torch.randn(5, 6)
    snnfast.save_checkpoint(path, snn, accuracy=91.5)
    pt = path.with_suffix(".pt")
    snnfast.save_checkpoint(pt, snn, accuracy=91.5)
    one, other = snnfast.load_checkpoint(path), snnfast.load_checkpoint(pt)
    assert torch.equal(one(x, T=20), snn(x, T=20)) and one.facts() == other.facts() == snn.facts() and one.saved == other.saved
    assert one.method == snn.method and one.levels == snn.levels


def test_a_network_trained_as_a_spiking_one_comes_back(path):
    net, x = snnfast.models.csnn_cifar10((8, 8, 8), hidden=16).eval(), torch.randn(1, 3, 32, 32)
    snnfast.save_checkpoint(path, net)
    assert torch.equal(snnfast.load_checkpoint(path)(x), net(x)) and load_file(path).keys() == net.state_dict().keys()


def test_weights_of_ones_own_network_and_tied_ones(path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.act, self.b = nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(self.act(self.a(x)))

    net = snnfast.to_quantised(Tied(), levels=8)
    snnfast.save_checkpoint(path, net)
    new, x = snnfast.load_weights(Tied(), path), torch.randn(3, 4)
    assert torch.equal(new.eval()(x), net.eval()(x)) and new.b.weight is new.a.weight


def test_every_dtype_comes_back(path):
    dtypes = torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.int64, torch.bool
    tensors = {str(dtype): torch.randn(3, 5).mul(3).to(dtype) for dtype in dtypes}
    tensors |= {"empty": torch.zeros(0, 3), "number": torch.tensor(2.5), "turned": torch.randn(4, 3).t(), "view": torch.ones(1).expand(3)}
    content = {"format": "x", "state_dict": tensors}
    safetensor_files.save(content, path)
    new = safetensor_files.read(path)
    assert all(
        torch.equal(new["state_dict"][key], t) and new["state_dict"][key].dtype == t.dtype for key, t in content["state_dict"].items()
    )


@pytest.mark.parametrize("at", ["weights", "metadata", "end"])
def test_damage_is_told(path, at):
    snnfast.save_checkpoint(path, snnfast.models.vgg11(width=0.05), data="digits")
    raw = bytearray(path.read_bytes())
    if at == "end":
        raw = raw[: len(raw) // 2]
    else:
        place = raw.index(b"digits") if at == "metadata" else len(raw) - 100
        raw[place] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="is damaged: its checksum" if at != "end" else "is not a readable checkpoint"):
        snnfast.load_checkpoint(path)


@pytest.mark.parametrize(
    "entry", ["", "[]", "[1]", '[1, "{}"]', '[1, "[]"]', "[" * 10**5, '[1, "{\\"held\\": []}"]', '[0, "{\\"held\\": \\"x\\"}"]']
)
def test_hostile_metadata_is_refused(path, entry):
    save_file({"a": torch.zeros(2)}, path, {safetensor_files.ENTRY: entry})
    with pytest.raises(ValueError, match="is damaged"):
        snnfast.load_checkpoint(path)


def test_files_of_others_load_as_before(path):
    net = nn.Linear(3, 2)
    save_file(net.state_dict(), path, {"format": "pt"})
    assert torch.equal(snnfast.load_weights(nn.Linear(3, 2), path).weight, net.weight)


def test_a_file_with_the_ending_of_another_kind_is_told(tmp_path):
    net = snnfast.models.vgg11(width=0.05)
    snnfast.save_checkpoint(tmp_path / "a.SafeTensors", net)
    snnfast.save_checkpoint(tmp_path / "b.pt", net)
    assert snnfast.load_checkpoint(tmp_path / "a.SafeTensors").config == net.config
    (tmp_path / "b.pt").rename(tmp_path / "c.safetensors")
    with pytest.raises(ValueError, match="is a file of torch.save: give it another ending"):
        snnfast.load_checkpoint(tmp_path / "c.safetensors")
    (tmp_path / "a.SafeTensors").rename(tmp_path / "d.pt")
    with pytest.raises(ValueError, match="is a safetensors file: give it the ending .safetensors"):
        snnfast.load_checkpoint(tmp_path / "d.pt")


def test_metadata_without_end_is_refused_before_it_is_read(path):
    save_file({}, path, {safetensor_files.ENTRY: json.dumps([0, "[" + "[]," * 2_100_000 + "[]]"])})
    with pytest.raises(ValueError, match="larger than any that snnfast writes"):
        snnfast.load_checkpoint(path)


def test_what_cannot_be_written_is_refused(path, monkeypatch):
    net = snnfast.models.vgg11(width=0.05)
    with pytest.raises(ValueError, match="facts.steps has the key 1; a safetensors file keeps texts alone as keys"):
        snnfast.save_checkpoint(path, net, steps={1: 2})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None)
    with pytest.raises(ValueError, match="wants the package safetensors: pip install safetensors"):
        snnfast.save_checkpoint(path, net)
    assert not path.exists()


def test_the_metadata_is_json(path):
    snnfast.save_checkpoint(path, snnfast.models.vgg11(width=0.05), data="digits")
    with safe_open(path, "pt") as file:
        _, text = json.loads(file.metadata()["snnfast"])
    assert json.loads(text)["format"] == "snnfast-1" and json.loads(text)["config"]["arch"] == "vgg11"

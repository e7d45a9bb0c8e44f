"""ONNX files in ONNX Runtime: quantised networks, and spiking ones as an answer after T steps and step by step.

Weights, images and thresholds are multiples of 1/16 and powers of two, so that every sum is exact in any order: the runtime's bits are ours.
"""

import numpy as np
import pytest
import torch
from shares import quick
from torch import nn

import snnfast

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.filterwarnings("ignore:T is too small")
X = (torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(7)) * 16).round() / 16


def conv(inputs=4):
    return nn.Conv2d(inputs, 4, 3, padding=1)


@torch.no_grad()
def exact(net):
    for p in net.parameters():
        p.copy_((p * 16).round() / 16)
    return net.eval()


def network(activation=nn.ReLU, *middle):
    torch.manual_seed(0)
    net = nn.Sequential(conv(3), activation(), *middle, conv(), activation(), nn.Flatten(), nn.Linear(64 if middle else 256, 5))
    return exact(net)


def spiking(net, *method, **how):
    snn = snnfast.convert(net, *method, calibrate=X, percentile=100, **how)
    for _, neuron in snn.neurons():
        neuron.theta.copy_(2.0 ** neuron.theta.log2().ceil())
    return snn


def run(path, **given):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in given.items()})


def step_by_step(paths, x, T):
    """The outputs of T steps, by the two files."""
    first, later = (onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in paths)
    y, *state = first.run(None, {"x": x.numpy()})
    assert len(later.get_inputs()) == 1 + len(state)
    yield y
    for _ in range(T - 1):
        y, *state = later.run(None, {"x": x.numpy(), **{f"v_{i}": v for i, v in enumerate(state)}})
        yield y


QUANTISED = {
    "QCFS": lambda: network(lambda: snnfast.nn.QCFS(4, 1.0)),
    "CQCFS": lambda: network(lambda: snnfast.nn.CQCFS(4, 4, theta=2.0)),
    "function": lambda: network(lambda: Function()),
    "pooling": lambda: network(lambda: snnfast.nn.QCFS(4, 1.0), nn.MaxPool2d(2)),
}


class Function(nn.Module):
    def forward(self, x):
        return snnfast.qcfs(x, 1.0, 4)


@pytest.mark.parametrize("name", quick(QUANTISED, "QCFS"))
def test_a_quantised_network(name, tmp_path):
    net = QUANTISED[name]()
    (path,) = snnfast.export_onnx(net, X, tmp_path / "net.onnx")
    for images in (X, X[:1]):
        (y,) = run(path, x=images)
        assert np.array_equal(y, net(images).detach().numpy())


def test_torchs_own_exporter_takes_it_too(tmp_path):
    net = QUANTISED["QCFS"]()
    torch.onnx.export(net, (X,), tmp_path / "net.onnx", input_names=["x"], verbose=False)
    assert np.array_equal(run(tmp_path / "net.onnx", x=X)[0], net(X).detach().numpy())


SPIKING = {
    "if": lambda: spiking(network()),
    "max pooling": lambda: spiking(network(nn.ReLU, nn.MaxPool2d(2))),
    "gated pooling": lambda: spiking(network(nn.ReLU, nn.MaxPool2d(2)), maxpool="gated"),
    "stbif": lambda: spiking(network(), "stbif"),
    "snm": lambda: spiking(network(), "snm"),
    "quanta": lambda: spiking(network(), "quanta", m=4),
    "group": lambda: spiking(network(), "group"),
    "differential": lambda: spiking(network(), mode="differential", levels=8),
}


@pytest.mark.parametrize("name", quick(SPIKING, "max pooling"))
def test_a_spiking_network(name, tmp_path):
    snn = SPIKING[name]()
    wanted = snn.logits(X, 8)
    paths = snnfast.export_onnx(snn, X[:1], tmp_path / "net.v1")
    assert [p.name for p in paths] == ["net.v1.first.onnx", "net.v1.later.onnx"]
    outputs = np.stack(list(step_by_step(paths, X, 8)))
    assert np.array_equal(outputs, wanted.numpy()) and np.abs(outputs).max() > 0
    (path,) = snnfast.export_onnx(snn, X, tmp_path / "whole.onnx", T=3)
    for images in (X, X[:1]):
        assert np.array_equal(run(path, x=images)[0], snn(images, T=3).numpy())
    assert [output.name for output in onnxruntime.InferenceSession(path).get_outputs()] == ["y"]


@pytest.mark.thorough
def test_networks_with_rounding(tmp_path):
    """Products, softmax and layer norm round as the runtime rounds: 1e-5 of values of about 1, where no spike moves."""
    torch.manual_seed(0)
    vit = snnfast.models.vit_tiny(dim=24, depth=2, heads=3, patch_size=4, image_size=8, num_classes=5).eval()
    direct, images = snnfast.models.csnn_cifar10(channels=(8, 8, 8), hidden=8, T=4).eval(), torch.randn(3, 3, 32, 32)
    for snn, x in ((snnfast.convert(vit, mode="differential"), X), (snnfast.convert(direct, sample=images), images)):
        outputs = np.stack(list(step_by_step(snnfast.export_onnx(snn, x, tmp_path / "net.onnx"), x, 6)))
        assert np.allclose(outputs, snn.logits(x, 6).numpy(), atol=1e-5)


def test_what_it_does_not_take(tmp_path, monkeypatch):
    snn, path = spiking(network()), tmp_path / "net.onnx"
    for error, told, call in (
        (TypeError, "net must be a torch.nn.Module, got str", lambda: snnfast.export_onnx("net", X, path)),
        (TypeError, "sample must be a torch.Tensor", lambda: snnfast.export_onnx(snn, [1], path)),
        (ValueError, "sample must be images", lambda: snnfast.export_onnx(snn, X[:0], path)),
        (ValueError, "T must be >= 1", lambda: snnfast.export_onnx(snn, X, path, T=0)),
        (ValueError, "T is of spiking networks", lambda: snnfast.export_onnx(network(), X, path, T=2)),
        (
            ValueError,
            "opset must be a version that torch's exporter writes, got 99",
            lambda: snnfast.export_onnx(network(), X, path, opset=99),
        ),
        (ValueError, "is a folder", lambda: snnfast.export_onnx(snn, X, tmp_path)),
        (TypeError, "path must be a str or a path, got NoneType", lambda: snnfast.export_onnx(snn, X, None)),
        (ValueError, "opset must be >= 18, got 3", lambda: snnfast.export_onnx(snn, X, path, opset=3)),
        (ValueError, "there is no folder", lambda: snnfast.export_onnx(snn, X, tmp_path / "no" / "net.onnx")),
        (ValueError, "method 'power'", lambda: snnfast.export_onnx(spiking(network(), "power", m=4), X, path)),
        (ValueError, "method 'srp'", lambda: snnfast.export_onnx(spiking(network(), "srp"), X, path)),
        (TypeError, "give snnfast.convert", lambda: snnfast.export_onnx(snnfast.models.sew_resnet18(), X, path)),
        (ValueError, "net cannot become ONNX", lambda: snnfast.export_onnx(Sorted(), X, path)),
        (ValueError, "sample does not fit net: ", lambda: snnfast.export_onnx(network(), X.double(), path)),
    ):
        with pytest.raises(error, match=told):
            call()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"wants the package onnx: pip install onnx onnxscript, or snnfast\[onnx\]"):
        snnfast.export_onnx(snn, X, path)
    assert not list(tmp_path.iterdir())


class Sorted(nn.Module):
    """What ONNX has no operator for."""

    def forward(self, x):
        return torch.linalg.eigvals(x)


def test_no_other_call_asks_the_exporter(monkeypatch):
    """Outside of an export no op asks torch.onnx anything, traced or not."""
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: pytest.fail("asked"))
    assert snnfast.qcfs(X, 1.0, 4).shape == X.shape
    torch.func.vmap(lambda x: snnfast.qcfs(x, 1.0, 4))(X)

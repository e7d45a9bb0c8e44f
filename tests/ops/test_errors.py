"""Bad input: ValueError or TypeError that names the argument, what was given and what is allowed; nothing half-done."""

import pytest
import torch

import snnfast
from snnfast import nn

X = torch.randn(5, 4, 3)
STATE = snnfast.iaf(X, 1.0)[1]

IAF = [
    (TypeError, "x must be a torch.Tensor, got list", dict(x=[1.0])),
    (TypeError, "x has dtype int64; allowed: float16", dict(x=torch.ones(3, 4, dtype=torch.int64))),
    (TypeError, "x has dtype complex64", dict(x=torch.ones(3, 4, dtype=torch.complex64))),
    (ValueError, "x has no time steps", dict(x=torch.zeros(0, 4))),
    (ValueError, "x must be .T, .* without dimensions", dict(x=torch.tensor(1.0))),
    (ValueError, "T must be >= 1, got 0", dict(T=0)),
    (ValueError, "T must be >= 1, got -3", dict(T=-3)),
    (TypeError, "T must be an int, got float", dict(T=4.0)),
    (TypeError, "T must be an int, got bool", dict(T=True)),
    (ValueError, "theta must be > 0 and finite, got 0", dict(theta=0)),
    (ValueError, "theta must be > 0 and finite, got -1.0", dict(theta=-1.0)),
    (ValueError, "theta must be > 0 and finite, got nan", dict(theta=float("nan"))),
    (TypeError, "theta must be a number, got str", dict(theta="1")),
    (ValueError, r"theta has shape \(5,\), which does not broadcast over one step of shape \(4, 3\)", dict(theta=torch.ones(5))),
    (ValueError, r"theta has shape \(1, 4, 3\)", dict(theta=torch.ones(1, 4, 3))),
    (TypeError, "theta has dtype int64", dict(theta=torch.ones(3, dtype=torch.int64))),
    (ValueError, "theta is on meta, but x is on cpu", dict(theta=torch.ones(3, device="meta"))),
    (ValueError, "v0 must be finite, got inf", dict(v0=float("inf"))),
    (ValueError, "v0 has shape", dict(v0=torch.ones(7))),
    (ValueError, "reset must be one of 'soft', 'hard'; got 'gentle'", dict(reset="gentle")),
    (ValueError, "negative must be one of None, 'stbif', 'snm'; got 'st'", dict(negative="st")),
    (ValueError, "unit must be one of", dict(unit="mV")),
    (ValueError, "spikes must be one of 'scaled', 'unit', 'int8', 'bits', 'count'; got 'int4'", dict(spikes="int4")),
    (ValueError, "surrogate must be one of 'zif'", dict(surrogate="relu")),
    (ValueError, "gamma must be > 0", dict(gamma=0.0)),
    (ValueError, "caps limit the spike count of a neuron with negative spikes", dict(caps=(0, 4))),
    (ValueError, r"caps must be \(n_min, p_max\), got 4", dict(caps=4, negative="stbif")),
    (ValueError, "caps must satisfy n_min <= 0 <= p_max", dict(caps=(1, 4), negative="stbif")),
    (TypeError, "mask has dtype float32; allowed: bool", dict(mask=torch.ones(4, 3))),
    (ValueError, "mask has shape", dict(mask=torch.ones(2, 3, dtype=torch.bool))),
    (TypeError, "state must be the IAFState", dict(state=torch.zeros(4, 3))),
    (ValueError, r"state.v has shape \(4, 2\), but one step of x has shape \(4, 3\)", dict(state=(torch.zeros(4, 2), STATE.count))),
    (TypeError, "state.v has dtype float64; allowed: float32", dict(state=(STATE.v.double(), STATE.count))),
    (TypeError, "state.count has dtype int64; allowed: int32", dict(state=(STATE.v, STATE.count.long()))),
    (ValueError, r"out has shape \(4, 3\), but the result for spikes='scaled' has shape \(5, 4, 3\)", dict(out=torch.zeros(4, 3))),
    (TypeError, "out has dtype float32; allowed: int8", dict(out=torch.zeros(5, 4, 3), spikes="int8")),
    (ValueError, "out must be dense and lie in memory as x does", dict(out=torch.zeros(5, 3, 4).transpose(1, 2))),
    (ValueError, "out overlaps the memory of x", dict(out=X)),
    (ValueError, r"out has shape \(5, 2\), but the result for spikes='bits' has shape \(5, 1\)",
     dict(out=torch.zeros(5, 2, dtype=torch.int32), spikes="bits")),
    (ValueError, "out= has no autograd", dict(x=X.clone().requires_grad_(), out=torch.zeros(5, 4, 3))),
]  # fmt: skip


@pytest.mark.parametrize("kind, message, given", IAF, ids=[m[:40] for _, m, _ in IAF])
def test_iaf(kind, message, given):
    before = X.clone()
    arguments = dict(x=X, theta=1.0) | given
    out = arguments.get("out")
    held = None if out is None else out.detach().clone()
    with pytest.raises(kind, match=message):
        snnfast.iaf(**arguments)
    assert torch.equal(X, before) and (out is None or torch.equal(out, held)), "something was changed before the error"


def test_overlap_within_one_storage():
    buffer = torch.zeros(2 * X.numel())
    x, out = buffer[: X.numel()].view(X.shape), buffer[X.numel() // 2 :][: X.numel()].view(X.shape)
    with pytest.raises(ValueError, match="out overlaps the memory of x"):
        snnfast.iaf(x, 1.0, out=out)
    snnfast.iaf(x, 1.0, out=buffer[X.numel() :].view(X.shape))  # beside it is fine


QCFS = [
    (ValueError, "levels must be >= 1, got 0", dict(levels=0)),
    (TypeError, "levels must be an int, got float", dict(levels=4.0)),
    (ValueError, "grad must be one of 'qcfs', 'srp', 'paper'; got 'ste'", dict(grad="ste")),
    (ValueError, "theta must be > 0 and finite, got -2", dict(theta=-2)),
    (ValueError, "theta has shape", dict(theta=torch.ones(7))),
    (TypeError, "x has dtype int32", dict(x=torch.ones(3, dtype=torch.int32))),
]


@pytest.mark.parametrize("kind, message, given", QCFS, ids=[m[:40] for _, m, _ in QCFS])
def test_qcfs(kind, message, given):
    with pytest.raises(kind, match=message):
        snnfast.qcfs(**(dict(x=X, theta=1.0, levels=4) | given))


def test_layers():
    with pytest.raises(ValueError, match="theta must be > 0"):
        nn.SQCFS(4, theta=-1.0)
    with pytest.raises(ValueError, match="theta must be > 0 and finite, got 0.0 .1 of 2"):
        nn.IF(theta=torch.tensor([1.0, 0.0]))
    with pytest.raises(TypeError, match="unexpected options: vreset"):
        nn.IF(theta=1.0, vreset=0)
    with pytest.raises(ValueError, match="either theta=... or the QCFS authors' arguments"):
        nn.IF(4, theta=1.0)
    with pytest.raises(ValueError, match=r"6 thresholds per channel need \[B, 6, ...\]"):
        nn.CSQCFS(6)(torch.zeros(2, 5, 3, 3))
    with pytest.raises(ValueError, match=r"x of shape \(10, 3\) has no multiple of T = 4 rows"):
        nn.IF(T=4)(torch.zeros(10, 3))


def test_networks(tiny):
    net, x = tiny
    with pytest.raises(ValueError, match="image_size must be a multiple of 32"):
        snnfast.models.vgg11(image_size=40)
    with pytest.raises(ValueError, match="activation must be one of 'qcfs', 's-qcfs'"):
        snnfast.models.vgg11(activation="relu")
    with pytest.raises(ValueError, match="method must be one of 'if'"):
        snnfast.convert(net, "magic")
    with pytest.raises(ValueError, match="no quantised activation"):
        snnfast.convert(torch.nn.Sequential(torch.nn.Linear(3, 3)))
    with pytest.raises(ValueError, match=r"2 \(ReLU\) has no spiking form"):
        snnfast.convert(torch.nn.Sequential(torch.nn.Linear(3, 3), nn.QCFS(), torch.nn.ReLU()))
    with pytest.raises(ValueError, match="layer-wise network"):
        snnfast.to_channelwise(net)
    snn = snnfast.convert(net)
    for given, message in ((dict(T=0), "T must be >= 1"), (dict(T=8, chunk=-1), "chunk must be >= 1"), (dict(T=8, at=[4, 2]), "increasing steps"),
                           (dict(T=8, at=[9]), "between 1 and T = 8"), (dict(T=8, at=[]), "at must be")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            snn.logits(x, **given)
    with pytest.raises(ValueError, match="batch of images"):
        snn.logits(x[:0], 4)
    with pytest.raises(TypeError, match=r"loader must give \(images, labels\), got Tensor"):
        snnfast.evaluate(snn, [x], T=2)
    with pytest.raises(ValueError, match=r"labels must be a tensor \[B\] beside images"):
        snnfast.evaluate(snn, [(x, torch.zeros(2, dtype=torch.long))], T=2)
    with pytest.raises(ValueError, match="loader gave no images"):
        snnfast.evaluate(snn, [], T=4)


def test_a_threshold_below_zero_is_named():
    """Plain QCFS can train a threshold below 0: conversion names the layer."""
    net = snnfast.models.vgg11(width=0.0625, activation="qcfs")
    with torch.no_grad():
        net.layer3[2].thresh.fill_(-0.25)
    with pytest.raises(ValueError, match=r"threshold of layer3.2 must be > 0 and finite, got -0.25 \(1 of 1 thresholds\)"):
        snnfast.convert(net)


def test_checkpoints(tmp_path, tiny):
    net, x = tiny
    snnfast.save_checkpoint(tmp_path / "a.pt", net, note="x")
    again = snnfast.load_checkpoint(tmp_path / "a.pt")
    assert again.facts == {"note": "x"} and torch.equal(again(x), net(x))
    (tmp_path / "b.pt").write_bytes((tmp_path / "a.pt").read_bytes()[:1000])
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        snnfast.load_checkpoint(tmp_path / "b.pt")
    torch.save({"w": x}, tmp_path / "c.pt")
    with pytest.raises(ValueError, match="does not hold exactly the names of one network"):
        snnfast.load_checkpoint(tmp_path / "c.pt")
    with pytest.raises(FileNotFoundError):
        snnfast.load_checkpoint(tmp_path / "none.pt")


def test_a_loaded_threshold_is_checked():
    layer = snnfast.nn.IF(theta=torch.tensor([0.5, 1.0]), channelwise=True)
    with pytest.raises(ValueError, match="0.theta must be > 0 and finite, got -1.0"):
        torch.nn.Sequential(layer).load_state_dict({"0.theta": torch.tensor([0.5, -1.0])})
    assert layer.theta.tolist() == [0.5, 1.0]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"reset": "firm"}, "reset must be one of"),
        ({"gamma": -1.0}, "gamma must be > 0"),
        ({"spikes": "floats"}, "spikes must be one of"),
        ({"caps": (0, 3)}, "caps limit the spike count"),
        ({"v0": float("nan")}, "v0 must be finite"),
        ({"mask": torch.ones(3)}, "mask has dtype float32"),
    ],
)
def test_a_layer_refuses_wrong_options_when_it_is_made(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        snnfast.nn.IF(theta=1.0, **options)

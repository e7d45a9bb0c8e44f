"""ReLU and clamp in every spelling are neurons; what only looks like one is not."""

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import snnfast

RELU = {
    "relu": F.relu, "method": lambda h: h.relu(), "clamp": lambda h: h.clamp(min=0), "clamp_min": lambda h: h.clamp_min(0.0),
    "clip": lambda h: torch.clip(h, 0), "threshold": lambda h: F.threshold(h, 0, 0), "maximum": lambda h: torch.maximum(h, torch.zeros(())),
    "where": lambda h: torch.where(h > 0, h, 0.0), "where, at least": lambda h: torch.where(h >= 0, h, torch.zeros(())),
    "masked_fill": lambda h: h.masked_fill(h < 0, 0.0),
}  # fmt: skip
CLAMP = {
    "clamp": lambda h: h.clamp(0, 0.6), "clip": lambda h: torch.clip(h, 0, 0.6), "hardtanh": lambda h: F.hardtanh(h, 0.0, 0.6),
    "relu, then clamp": lambda h: F.relu(h).clamp(max=0.6), "relu, then clamp_max": lambda h: F.relu(h).clamp_max(0.6),
    "clamp, then relu": lambda h: F.relu(h.clamp(max=0.6)), "relu, then minimum": lambda h: torch.minimum(F.relu(h), torch.tensor(0.6)),
    "minimum, then relu": lambda h: F.relu(torch.minimum(torch.tensor(0.6), h)), "relu6, then clamp": lambda h: F.relu6(h).clamp(max=0.6),
}  # fmt: skip


class Net(nn.Module):
    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.function, self.a, self.c = function, nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x):
        return self.c(self.function(self.a(x)))


X = 2 * torch.randn(64, 6, generator=torch.Generator().manual_seed(0))


def converted(function):
    return snnfast.convert(Net(function).eval(), calibrate=X, percentile=100.0)


@functools.cache
def of_the_plain_one(function):
    return converted(function)


@pytest.mark.parametrize("function, same", [
    *(pytest.param(f, RELU["relu"], id=f"ReLU: {name}") for name, f in RELU.items()),
    *(pytest.param(f, CLAMP["clamp"], id=f"clamp: {name}") for name, f in CLAMP.items()),
])  # fmt: skip
def test_every_spelling_is_a_neuron(function, same):
    snn, plain = converted(function), of_the_plain_one(same)
    assert snn.clock.mode == "per_step" and len(snn.neurons()) == 1
    assert torch.equal(snn(X, T=32), plain(X, T=32))


def test_relu6_is_cut_off_at_6():
    net, x = Net(F.relu6).eval(), 20 * X
    snn = snnfast.convert(net, calibrate=x, percentile=100.0)
    assert (snn(x, T=512) - net(x)).norm() < 0.01 * net(x).norm() and len(snn.neurons()) == 1


@pytest.mark.parametrize("function", [
    lambda h: torch.where(h > 0.2, h, 0.0), lambda h: torch.where(h > 0, h, 0.1), lambda h: torch.where(h < 0, h, 0.0),
    lambda h: h.masked_fill(h > 0, 0.0), lambda h: torch.where(h.roll(1, 1) > 0, h, 0.0), lambda h: h.masked_fill(h < -0.1, 0.0),
], ids=["another bound", "another value", "below", "above", "of something else", "a negative bound"])  # fmt: skip
def test_what_is_no_relu_becomes_none(function):
    with pytest.raises(ValueError, match="no ReLU to put neurons in place of|has no spiking form"):
        converted(function)

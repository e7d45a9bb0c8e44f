"""Mode "differential" of networks without quantised activations: neurons with levels from images, in place of ReLUs and behind other activations."""

import pytest
import torch
from shares import every
from torch import nn
from torch.nn import functional as F

import snnfast
from snnfast.conversion import Percentile

X = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def conv(inputs=4):
    return nn.Conv2d(inputs, 4, 3, padding=1)


class Gated(nn.Module):
    """A ReLU, an activation, a squeeze-and-excitation gate, and attention over places."""

    def __init__(self, act):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c, self.se, self.act, self.norm = conv(3), conv(), conv(), nn.Linear(4, 4), act, nn.LayerNorm(4)
        self.qkv, self.head = nn.Linear(4, 12), nn.Linear(4, 3)

    def forward(self, x):
        h = self.act(self.b(F.relu(self.a(x))))
        h = h * torch.sigmoid(self.se(h.mean((2, 3))))[:, :, None, None]
        tokens = self.norm(self.c(h).flatten(2).transpose(1, 2))
        q, k, v = self.qkv(tokens).chunk(3, -1)
        return self.head(F.scaled_dot_product_attention(q, k, v).mean(1))


ACTIVATIONS = {
    "SiLU": nn.SiLU(), "GELU": nn.GELU(), "LeakyReLU": nn.LeakyReLU(0.2), "PReLU": nn.PReLU(), "Hardswish": nn.Hardswish(), "Mish": nn.Mish(),
    "SELU": nn.SELU(), "ELU": nn.ELU(), "Softplus": nn.Softplus(), "Tanh": nn.Tanh(), "Hardtanh": nn.Hardtanh(-1.0, 1.0),
}  # fmt: skip


def errors(net, levels, T, **how):
    """|| output - network || / || network || for each number of levels."""
    net = net.double().eval()
    with torch.no_grad():
        wanted = net(X)
        for many in levels:
            snn = snnfast.convert(net, mode="differential", calibrate=X, percentile=100, levels=many, **how)
            yield float((snn(X, T=T) - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("name", every(2, ACTIVATIONS))
def test_every_activation_converges_with_its_levels(name):
    few, many = errors(Gated(ACTIVATIONS[name]), (8, 256), T=1200)
    assert many < 0.003 and many < few / 8


def test_thresholds_per_channel_and_the_network_rounded():
    """Levels, thresholds and signs are those of the object; after draining the output is that of the network with rounded activations."""
    net = nn.Sequential(conv(3), nn.SiLU(), conv(), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).double().eval()
    snn = snnfast.convert(net, mode="differential", calibrate=Percentile(X, q=100, per="channel", levels=16))
    (silu, behind), (relu, own) = snn.neurons()
    with torch.no_grad():
        y = net[:2](X)
        most = y.abs().amax((0, 2, 3)) / 16
        assert torch.allclose(behind.theta, most) and behind.options["caps"] == (-16, 16) and own.options["caps"] == (0, 16)
        rounded = torch.floor(y / most[:, None, None] + 0.5).clamp(-16, 16) * most[:, None, None]
        z, theta = net[2](rounded), own.theta[:, None, None]
        z = torch.floor(z / theta + 0.5).clamp(0, 16) * theta
        assert torch.allclose(snn(X, T=400), net[5](z.flatten(1)), atol=1e-12)  # sums of 400 steps in fp64
    assert list(snn.levels) == [silu, relu] and list(snn.levels.values()) == [32, 16]


def test_the_default_leaves_the_choice_to_the_caller():
    net = nn.Sequential(conv(3), nn.ReLU(), conv(), nn.GELU(), nn.Flatten(), nn.Linear(144, 3)).double()
    with pytest.raises(ValueError, match=r"3 \(GELU\) has no spiking form that commutes with rates: say mode='differential'"):
        snnfast.convert(net, calibrate=X)
    with pytest.raises(ValueError, match=r"GELU.* has no spiking form .* say mode='differential' with calibrate= images"):
        snnfast.convert(net[2:], calibrate=torch.randn(2, 4, 6, 6, dtype=torch.float64))
    gate = nn.Sequential(conv(3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 8), nn.Softmax(1), nn.Linear(8, 3)).double()
    assert snnfast.convert(gate, calibrate=X).clock.differential
    for given, error in ((0, ValueError), (2.5, TypeError)):
        with pytest.raises(error, match="levels"):
            snnfast.convert(net, mode="differential", calibrate=X, levels=given)
    with pytest.raises(ValueError, match="levels are of calibrate="):
        snnfast.convert(net, levels=8)


def test_statistics_and_memory_plans_take_them():
    net = Gated(nn.SiLU()).double().eval()
    snn = snnfast.convert(net, mode="differential", calibrate=X, levels=16)
    report = snnfast.evaluate(snn, [(X, torch.zeros(8, dtype=torch.long))], T=200, ann=net, statistics=True)
    assert [row["layer"] for row in report.layers] == ["image", *(name for name, _ in snn.neurons())]
    assert all(row["case1"] + row["case2"] + row["case3"] < 1 for row in report.layers[1:])  # in %: drained
    assert report.distance[-1] < 0.02


def test_what_stays_analog_is_told_and_refused_on_request():
    net = nn.Sequential(conv(3), nn.LeakyReLU(), conv(), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).double().eval()
    with pytest.warns(UserWarning, match=r"stays analog.*: 1 \(LeakyReLU\)"):
        snn = snnfast.convert(net, calibrate=X)
    assert snn.analog == ["1 (LeakyReLU)"]
    report = snnfast.evaluate(snn, [(X, torch.zeros(8, dtype=torch.long))], T=4)
    assert any("analog" in note and "LeakyReLU" in note for note in report.notes())
    with pytest.raises(ValueError, match=r"stays analog.*: 1 \(LeakyReLU\)"):
        snnfast.convert(net, calibrate=X, strict=True)
    assert not snnfast.convert(net, mode="differential", calibrate=X, strict=True).analog

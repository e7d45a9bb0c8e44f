"""Activation functions that are written out, and gates: one function each, with a neuron behind it."""

import math

import pytest
import torch
from shares import quick
from torch import nn
from torch.nn import functional as F

import snnfast
from snnfast.graph import pointwise
from snnfast.graph.prepare import prepared

pytestmark = pytest.mark.filterwarnings("ignore:T is too small")  # where runs of a few steps are compared

X = torch.randn(6, 3, 6, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
ROOT = math.sqrt(2 / math.pi)


class Own(nn.Module):
    """Two layers with an activation of one's own, and a head."""

    def __init__(self, act):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.act = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), act
        self.head = nn.Linear(144, 5)

    def forward(self, x):
        return self.head(self.act(self.b(self.act(self.a(x)))).flatten(1))


class Tokens(nn.Module):
    """A block of a transformer's second half: a norm, layers with a gate, and the sum with what came in."""

    def __init__(self, gate, inner=nn.Identity):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.norm, self.g, self.x = nn.Linear(36, 8), nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(8, 16)
        self.inner, self.out, self.head, self.gate = inner(), nn.Linear(16, 8), nn.Linear(8, 5), gate

    def forward(self, x):
        h = self.embed(x.flatten(2))
        for _ in range(2):
            n = self.norm(h)
            h = h + self.out(self.inner(self.gate(self.g(n)) * self.x(n)))
        return self.head(h.mean(1))


def converted(net, levels=128, T=900, **how):
    """(relative error, the network)"""
    net = net.double().eval()
    snn = snnfast.convert(net, calibrate=X, percentile=100, levels=levels, **how)
    with torch.no_grad():
        wanted = net(X)
        return float((snn(X, T=T) - wanted).norm() / wanted.norm()), snn


WRITTEN_OUT = {
    "swish": lambda x: x * torch.sigmoid(x),
    "swish by exp": lambda x: x / (1 + torch.exp(-x)),
    "quick GELU": lambda x: x * torch.sigmoid(1.702 * x),
    "GELU": lambda x: 0.5 * x * (1.0 + torch.erf(x / math.sqrt(2.0))),
    "GELU by tanh": lambda x: 0.5 * x * (1 + torch.tanh(ROOT * (x + 0.044715 * torch.pow(x, 3)))),
    "GELU by products": lambda x: 0.5 * x * (1 + torch.tanh(ROOT * (x + 0.044715 * x * x * x))),
    "Mish": lambda x: x * torch.tanh(F.softplus(x)),
    "hard swish": lambda x: x * F.relu6(x + 3) / 6,
    "leaky ReLU": lambda x: torch.max(x, 0.1 * x),
    "leaky by where": lambda x: torch.where(x > 0, x, 0.2 * x),
    "ELU by where": lambda x: torch.where(x > 0, x, torch.exp(x) - 1),
    "softsign": lambda x: x / (1 + x.abs()),
    "sine": torch.sin,
    "bell": lambda x: torch.exp(-x * x),
    "squared ReLU": lambda x: F.relu(x) ** 2,
    "gated linear unit": lambda x: F.glu(torch.cat([x, x.roll(1, 1)], 1), 1),
}


@pytest.mark.parametrize(
    "name", quick(WRITTEN_OUT, "swish", "GELU by tanh", "Mish", "hard swish", "leaky by where", "softsign", "gated linear unit")
)
def test_what_is_written_out_converges_with_its_levels(name):
    few, _ = converted(Own(WRITTEN_OUT[name]), 16, mode="differential")
    many, snn = converted(Own(WRITTEN_OUT[name]), 256, mode="differential")
    assert many < 0.015 and many < few / 6
    assert len(snn.neurons()) == 2 and not snn.analog


@pytest.mark.parametrize(
    "gate, inner", [(F.silu, nn.Identity), (F.silu, lambda: nn.LayerNorm(16)), (torch.sigmoid, nn.Identity), (F.gelu, nn.Identity),
                    (lambda a: a * torch.sigmoid(a), nn.Identity)], ids=["SwiGLU", "EVA", "GLU", "GEGLU", "SwiGLU written out"])  # fmt: skip
def test_gates_fire_as_products(gate, inner):
    few, _ = converted(Tokens(gate, inner), 16, mode="differential")
    many, snn = converted(Tokens(gate, inner), 256, mode="differential")
    assert many < 0.01 and many < few / 6
    assert len(snn.neurons()) == 2 and all("mul" in name for name, _ in snn.neurons())


RELUS = {
    "times its sign": lambda h: h * (h > 0),
    "times its sign as a number": lambda h: h * (h >= 0).to(h.dtype),
    "half of the sum": lambda h: (h + h.abs()) / 2,
    "half of the sum, times": lambda h: 0.5 * (h + torch.abs(h)),
    "maximum of two": lambda h: torch.maximum(h, h - h),
}


@pytest.mark.parametrize("name", quick(RELUS, "times its sign as a number", "half of the sum"))
def test_relus_in_other_words(name):
    """The same thresholds and the same bits as ReLUs, in every mode."""
    own, relu = Own(RELUS[name]), Own(F.relu)
    for mode in (None, "per_step", "differential"):
        (error, a), (_, b) = (converted(net, T=400, mode=mode) for net in (own, relu))
        assert error < 0.02 and a.clock.mode == b.clock.mode
        assert [n.theta.tolist() for _, n in a.neurons()] == [n.theta.tolist() for _, n in b.neurons()]
        assert torch.equal(a(X, T=20), b(X, T=20))


def test_a_relu_is_proved_and_not_tried():
    """Functions that are ReLUs at -1, 0 and 1, and nowhere else."""
    for act in (lambda h: h * h * (h > 0), lambda h: torch.where(h > -0.5, h, 0 * h), lambda h: (h + h * h) / 2, lambda h: h * (h > 0.5)):
        with pytest.raises(ValueError, match="no ReLU"):
            converted(Own(act))


def regions(net):
    gm = prepared(net.double().eval(), [X[:1]])
    pointwise.write_relus(gm)
    pointwise.mark(gm, alone=False)
    return [n.name for n in gm.graph.nodes if n.op == "call_module" and n.target.endswith("_function")]


@pytest.mark.parametrize(
    "act",
    [
        lambda h: F.relu(h) / 3 + 1,
        lambda h: F.relu(F.relu(h)).clamp(max=1.5),
        lambda h: torch.exp(h - h.amax(1, keepdim=True)) / torch.exp(h - h.amax(1, keepdim=True)).sum(1, keepdim=True),
        lambda h: (h - h.mean(1, keepdim=True)) / torch.sqrt(h.var(1, keepdim=True) + 1e-5),
        lambda h: F.relu(h) * torch.sigmoid(h.mean((2, 3), keepdim=True)),
        lambda h: F.silu(h) + 1,
        lambda h: F.relu(h) ** 2,
        lambda h: F.relu(h) * h - F.relu(-h),
        lambda h: torch.sin(F.relu(h) + 1),
        lambda h: F.relu(h) / (F.relu(h).pow(2).sum(1, keepdim=True).sqrt() + 1e-10),
        lambda h: F.avg_pool2d(F.relu(h).pow(3), 3, 1, 1).pow(1 / 3),
        lambda h: h,
    ],
    ids=[
        "scaled",
        "clipped twice",
        "a softmax",
        "a norm",
        "squeeze and excite",
        "known",
        "a square",
        "sums",
        "a sine",
        "length 1",
        "GeM",
        "nothing",
    ],
)
def test_what_is_none_stays_as_it_is(act):
    assert regions(Own(act)) == []


def test_an_image_is_prepared_without_neurons():
    class Prepared(Own):
        def forward(self, x):
            return super().forward(torch.sqrt(x * x + 1) - x.abs() / 3)

    assert regions(Prepared(F.relu)) == []
    error, snn = converted(Prepared(F.relu), T=600)
    assert error < 0.01 and len(snn.neurons()) == 2


def test_one_value_used_twice():
    """A ReLU that a layer takes and that is a factor too: one neuron for it, one for the product."""

    class Twice(Own):
        def forward(self, x):
            h = F.relu(self.a(x))
            return self.head((self.b(h) + h * torch.tanh(h)).flatten(1))

    error, snn = converted(Twice(None), 256, mode="differential")
    assert error < 0.01 and len(snn.neurons()) == 2


def test_thresholds_per_channel_and_a_constant_per_channel():
    error, snn = converted(Own(Leak()), 256, mode="differential", per_channel=True)
    assert error < 0.01 and all(n.theta.shape == (4,) for _, n in snn.neurons())


def test_saved_and_loaded(tmp_path):
    for net in (Own(WRITTEN_OUT["leaky by where"]), Own(RELUS["times its sign"]), Tokens(F.silu)):
        _, snn = converted(net, T=20, mode="differential")
        snnfast.save_checkpoint(tmp_path / "snn.pt", snn)
        assert torch.equal(snnfast.load_checkpoint(tmp_path / "snn.pt")(X, T=30), snn(X, T=30))


def test_chunks_batches_and_gradients():
    error, snn = converted(Own(WRITTEN_OUT["quick GELU"]), mode="differential")
    one = snn.logits(X, 40, chunk=1)
    assert torch.allclose(snn.logits(X, 40, chunk=7), one, atol=1e-12)  # fp64 sums of a convolution in another order
    assert torch.allclose(snn.logits(X[:2], 40), one[:, :2], atol=1e-12)


def test_step_by_step_it_is_refused_or_asked_for():
    with pytest.raises(ValueError, match="mode='differential'"):
        converted(Own(WRITTEN_OUT["swish"]))
    with pytest.raises(ValueError, match="no ReLU"):
        converted(Own(WRITTEN_OUT["swish"]), mode="per_step")


BEHIND_RELUS = {
    "length 1": lambda s, h: h / (h.pow(2).sum(1, keepdim=True).sqrt() + 1e-10),
    "variance as a difference": lambda s, h: (
        (h - h.mean(1, keepdim=True)) / torch.sqrt((h**2).mean(1, keepdim=True) - h.mean(1, keepdim=True) ** 2 + 1e-5)
    ),
    "hard swish": lambda s, h: s.b(h) * F.relu6(s.b(h) + 3) / 6,
    "pixel attention": lambda s, h: h * torch.sigmoid(s.b(h)),
    "logarithm": lambda s, h: torch.log1p(h),
    "sine": lambda s, h: torch.sin(s.b(h)),
    "leaky": lambda s, h: torch.maximum(s.b(h), 0.1 * s.b(h)),
}


@pytest.mark.parametrize("name", quick(BEHIND_RELUS, "variance as a difference", "pixel attention", "leaky"))
def test_networks_of_relus_convert_as_ever(name):
    """Without a mode that is asked for: "differential" by itself, a neuron for each ReLU, functions without neurons."""

    class Net(Own):
        def forward(self, x):
            return self.head(BEHIND_RELUS[name](self, F.relu(self.a(x))).flatten(1))

    few, _ = converted(Net(None), 16)
    many, snn = converted(Net(None), 256)
    assert snn.clock.differential and many < few / 3 and all("function" not in name for name, _ in snn.neurons())


def test_regions_inside_of_regions():
    class Nested(Own):
        def forward(self, x):
            h = self.a(x)
            g = h * torch.sigmoid(1.7 * h)
            r = h * (h > 0)
            return self.head((self.b(g) + g * torch.tanh(g) + self.b(r) + torch.sqrt(r + 1) * r).flatten(1))

    few, _ = converted(Nested(None), 16, mode="differential")
    many, _ = converted(Nested(None), 256, mode="differential")
    assert many < 0.01 and many < few / 6


class Lying(nn.Module):
    """Tokens [B, N, C] whose images lie along another dimension where the activation is."""

    def __init__(self, act, way):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.head, self.act, self.way = nn.Linear(12, 12), nn.Linear(12, 5), act, way

    def forward(self, x):
        x = x.flatten(1).reshape(-1, 9, 12)
        B, N, C = x.shape
        h = x.transpose(0, 1).reshape(N * B, C) if self.way == "merged" else x.transpose(0, 1)
        h = self.head(self.act(self.a(h)))
        return h.reshape(N, B, 5).transpose(0, 1).mean(1) if self.way == "merged" else h.mean(0)


def test_images_that_do_not_come_first():
    for mode in (None, "differential"):
        for act in (F.relu, lambda h: h * (h > 0)):
            error, snn = converted(Lying(act, "second"), mode=mode)
            assert error < 0.02 and len(snn.neurons()) == 1
            with pytest.raises(ValueError, match="do not come before|cannot fire|no ReLU"):
                converted(Lying(act, "merged"), mode=mode)


class Leak(nn.Module):
    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.rand(4, 1, 1))

    def forward(self, h):
        return torch.where(h > 0, h, self.slope * h)


def test_weights_inside_are_trained():
    _, snn = converted(Own(Leak()), 8, mode="differential")
    snn.requires_grad_()
    snn(X, T=10).sum().backward()
    (slope,) = (p for p in snn.parameters() if p.shape == (4, 1, 1))
    assert slope.grad is not None and bool(slope.grad.any())


def test_what_stays_analog_is_named():
    class Prepared(Own):
        def forward(self, x):
            return super().forward(torch.erf(F.avg_pool2d(x, 3, 1, 1)) * 2)

    with pytest.warns(UserWarning, match="what stays analog.*erf"):
        converted(Prepared(F.silu), mode="differential")


def test_without_images_for_thresholds_nothing_is_written_anew():
    act = Own(lambda h: (h + h.abs()) / 2)
    net = nn.Sequential(nn.Conv2d(3, 3, 1), snnfast.nn.QCFS(8, 1.0), act, snnfast.nn.QCFS(8, 1.0), nn.Linear(5, 3)).double().eval()
    snn = snnfast.convert(net, sample=X)
    assert len(snn.neurons()) == 2

"""Activations of one's own: what `snnfast.nn.Quantised` asks of them, what is refused, and layers of other packages."""

import pytest
import torch
from torch import nn

import snnfast


class PACT(snnfast.nn.Quantised):
    """Clipped at a learned alpha (Choi et al., 2018)."""

    def __init__(self, bits=4, alpha=2.0):
        super().__init__(levels=2**bits - 1, theta=alpha)
        self.alpha = nn.Parameter(torch.tensor([alpha]))

    def threshold(self):
        return self.alpha

    def quantised(self, x):
        step = self.alpha / self.levels
        y = torch.minimum(x.clamp(min=0), self.alpha) / step
        return (y + (y.round() - y).detach()) * step


class Signed(snnfast.nn.Quantised):
    """Three levels of either sign, each channel with its own size."""

    def __init__(self, channels):
        super().__init__(levels=3, many=channels)
        self.size = nn.Parameter(torch.linspace(0.2, 0.5, channels))

    def rungs(self):
        return self.size, -3, 3

    def threshold(self):
        return 3 * self.size

    def quantised(self, x):
        size = self.size.view(-1, *[1] * (x.dim() - 2))
        return (x / size + 0.5).floor().clamp(-3, 3) * size


def network(act, channels=8):
    return nn.Sequential(nn.Conv2d(3, channels, 3), act, nn.Conv2d(channels, channels, 3), act, nn.Flatten(), nn.Linear(channels * 16, 4))


def off(net, mode, T, **how):
    x = torch.randn(5, 3, 8, 8)
    net = net.double().eval()
    y, wanted = snnfast.convert(net, sample=x.double(), mode=mode, **how)(x.double(), T=T), net(x.double()).detach()
    return float((y - wanted).norm() / wanted.norm())


def test_it_converges_to_its_network():
    assert off(network(PACT(bits=8)), "per_step", 2048) < 0.02 and off(network(PACT()), "differential", 64) < 1e-9
    assert off(network(Signed(8)), "differential", 64) < 1e-9


def test_levels_below_zero_are_of_the_differential_mode():
    with pytest.raises(ValueError, match="1 has levels below 0, which have a spiking form in mode='differential' alone"):
        off(network(Signed(8)), "per_step", 4)


class Given(PACT):
    """Brings its neuron: one that starts at 0."""

    def spiking(self, theta, options):
        return snnfast.nn.IF(theta=theta, axis=1, **{**options, "v0": 0.0})


def test_it_may_bring_its_neuron():
    x = torch.randn(5, 3, 8, 8)
    of = lambda act, **how: snnfast.convert(network(act).eval(), sample=x, **how).logits(x, T=16)
    torch.manual_seed(1)
    own = of(Given())
    torch.manual_seed(1)
    assert torch.equal(own, of(PACT(), v0=0.0)) and not torch.equal(own, of(PACT()))


class Wrong(PACT):
    def spiking(self, theta, options):
        return nn.ReLU()


def test_what_it_brings_must_be_a_neuron():
    with pytest.raises(TypeError, match=r"1 \(Wrong\).spiking\(\) must give a snnfast.nn.IF\(theta=...\) or None, got ReLU"):
        snnfast.convert(network(Wrong()))


class Floor(PACT):
    """Without the half: another function than its levels say."""

    def quantised(self, x):
        step = self.alpha / self.levels
        return (torch.minimum(x.clamp(min=0), self.alpha) / step).floor() * step


class Shifted(snnfast.nn.QCFS):
    def forward(self, x):
        return super().forward(x) - 0.1


class Narrow(PACT):
    """Its threshold is not its largest value."""

    def threshold(self):
        return self.alpha / 2

    def rungs(self):
        return self.alpha / self.levels, 0, self.levels


class Nothing(snnfast.nn.Quantised):
    pass


class Odd(PACT):
    def rungs(self):
        return 0.25, 0, 4


@pytest.mark.parametrize("act, message", (
    (Floor(), r"1 \(Floor\) is not the activation of its levels: 0.07333 gives 0, and its neuron 0.1333; rungs\(\) says levels of 0.1333, 0 to 15"),
    (Shifted(4, 1.0), r"1 \(Shifted\) is not the activation of its levels: .* gives -0.1, and its neuron 0"),
    (Narrow(), r"1 \(Narrow\): threshold\(\) is 1, and its highest level is 2"),
    (Odd(), r"1 \(Odd\): its size of a level is a float; rungs\(\) must give \(size of a level, a tensor"),
))  # fmt: skip
@pytest.mark.parametrize("sample", (None, torch.randn(2, 3, 8, 8)))
def test_another_function_than_its_levels_is_refused(act, message, sample):
    with pytest.raises((ValueError, TypeError), match=message):
        snnfast.convert(network(act), sample=sample)


def test_what_it_lacks_is_named():
    with pytest.raises(TypeError, match=r"1 \(Nothing\): Nothing has no threshold\(\): it gives theta"):
        snnfast.convert(network(Nothing(levels=4)))
    with pytest.raises(TypeError, match=r"Nothing has no quantised\(x\)"):
        Nothing(levels=4)(torch.ones(2))


class Foreign(nn.Module):
    """As other packages have it: no base of ours."""

    def __init__(self, bits=3, scale=0.25):
        super().__init__()
        self.bits, self.scale = bits, scale

    def forward(self, x):
        return torch.fake_quantize_per_tensor_affine(x, self.scale, 0, 0, 2**self.bits - 1)


def test_layers_of_other_packages():
    snnfast.nn.register_quantised(Foreign, lambda m: (torch.tensor([m.scale]), 0, 2**m.bits - 1))
    x = torch.randn(5, 3, 8, 8)
    net = network(Foreign()).eval()
    snn = snnfast.convert(net, sample=x, mode="differential")
    assert snn.levels == {"1": 7}
    assert snnfast.convert(network(type("Derived", (Foreign,), {})()), sample=x, mode="differential").levels == {"1": 7}
    assert (snn(x, T=64) - net(x)).abs().max() < 1e-4
    snnfast.nn.register_quantised(Foreign, lambda m: (torch.tensor([m.scale]), 0, 2**m.bits))
    with pytest.raises(ValueError, match=r"1 \(Foreign\) is not the activation of its levels"):
        snnfast.convert(net, sample=x)
    with pytest.raises(TypeError, match="cls must be a class of layers, a torch.nn.Module, got 3"):
        snnfast.nn.register_quantised(3, len)


class Tokens(nn.Module):
    """Layer-wise activations behind a convolution, and behind a layer of tokens."""

    def __init__(self):
        super().__init__()
        self.stem, self.a = nn.Conv2d(3, 6, 4, 4), snnfast.nn.SQCFS(4, 1.0)
        self.mix, self.b, self.head = nn.Linear(6, 10), snnfast.nn.QCFS(8, 2.0), nn.Linear(10, 3)

    def forward(self, x):
        h = self.a(self.stem(x)).flatten(2).transpose(1, 2)
        return self.head(self.b(self.mix(h)).mean(1))


def test_any_network_becomes_channelwise():
    net, x = Tokens().train(), torch.randn(2, 3, 8, 8)
    new = snnfast.to_channelwise(net, sample=x)
    assert type(new.a).__name__ == "CSQCFS" and new.a.lam.shape == (6,) and type(new.b).__name__ == "NQCFS" and new.b.thresh.shape == (10,)
    assert torch.equal(new(x), net(x)) and new.training and type(net.a).__name__ == "SQCFS"
    new(x).sum().backward()
    assert new.a.lam.grad.shape == (6,)
    last = snnfast.to_channelwise(net, 1, x)
    assert type(last.a).__name__ == "SQCFS" and type(last.b).__name__ == "NQCFS"
    with pytest.raises(ValueError, match="net is none of snnfast.models: give sample="):
        snnfast.to_channelwise(net)
    with pytest.raises(ValueError, match=r"net has no layer-wise activation \(QCFS, SQCFS, EQCFS\)"):
        snnfast.to_channelwise(new, sample=x)


class Placed(PACT):
    """Another function at other places: what one value in each channel does not show."""

    def __init__(self, how):
        super().__init__()
        self.how = how

    def quantised(self, x):
        if self.how == "channels":
            x = x + (torch.arange(x.size(1)) > 0).view(-1, *[1] * (x.dim() - 2))
        elif self.how == "tokens" and x.dim() == 4:
            x = 0.5 * x
        elif self.how == "far":
            x = x * (x < 100)
        return super().quantised(x)


@pytest.mark.parametrize("how", ("channels", "tokens", "far"))
def test_it_is_compared_on_the_images_of_its_network(how):
    with pytest.raises(ValueError, match=r"1 \(Placed\) is not the activation of its levels"):
        snnfast.convert(network(Placed(how)), sample=torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize("given", (4.5, None, "two"))
def test_levels_that_are_none(given):
    class R(Foreign):
        pass

    answers = {4.5: (torch.tensor([0.25]), 0, 4.5), None: None, "two": (torch.tensor([0.25]), 4)}
    snnfast.nn.register_quantised(R, lambda m: answers[given])
    with pytest.raises((ValueError, TypeError), match=r"1 \(R\): .*rungs\(\) must give \(size of a level"):
        snnfast.convert(network(R()), sample=torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float32))
def test_roundings_of_a_format_are_no_other_function(dtype):
    for bits in (4, 20):
        snnfast.convert(network(PACT(bits)).to(dtype))


class Forgets(PACT):
    def spiking(self, theta, options):
        return snnfast.nn.IF(theta=theta)


def test_a_neuron_that_would_not_converge_is_refused():
    with pytest.raises(ValueError, match=r"1 \(Forgets\).spiking\(\) must give an IF of theta and of all options in mode 'differential'"):
        snnfast.convert(network(Forgets()), sample=torch.randn(2, 3, 8, 8), mode="differential")


def test_channels_lie_where_the_layer_before_has_them():
    """Of maps [B, C, L] along dimension 1, of maps [B, H, W, C] behind a linear layer along the last; a shared layer stays shared."""
    signal = nn.Sequential(nn.Conv1d(3, 8, 3, padding=1), snnfast.nn.QCFS(4, 1.0))
    assert snnfast.to_channelwise(signal, sample=torch.randn(2, 3, 9))[1].thresh.shape == (8,)
    last = snnfast.to_channelwise(nn.Sequential(nn.Linear(3, 8), snnfast.nn.QCFS(4, 1.0)), sample=torch.randn(2, 6, 6, 3))[1]
    assert type(last).__name__ == "NQCFS" and last.thresh.shape == (8,)
    act = snnfast.nn.QCFS(4, 1.0)
    new = snnfast.to_channelwise(nn.Sequential(act, nn.Linear(3, 3), act), sample=torch.randn(2, 3))
    assert new[0] is new[2] and type(new[0]).__name__ == "CQCFS"

"""Conversion and the run in time: the neurons of the network are the definition, whatever the chunk; shapes, keys, drop-in layers."""

import copy

import pytest
import torch

import snnfast
from snnfast import nn


def by_hand(net, x, T):
    """The converted VGG as a user would write it: step by step, unfolded batch norms, one neuron loop per layer. Logits of each step."""
    net = copy.deepcopy(net).eval()
    v, out = {}, []
    for _ in range(T):
        y = x
        for name, m in net.named_modules():
            if isinstance(m, nn.Quantised):
                theta = m.threshold().detach().view(-1, *(1,) * (y.dim() - 2))
                u = v.get(name, 0.5 * theta + torch.zeros_like(y)) + y
                s = (u >= theta).to(y.dtype)
                v[name] = u - s * theta
                y = s * theta
            elif not list(m.children()):
                y = m(y)
        out.append(y)
    return torch.stack(out)


def test_network_is_the_loop_over_layers(tiny):
    """fp64, where the order of a convolution's sum moves no potential across a threshold: per-step logits agree to rounding."""
    net, x = copy.deepcopy(tiny[0]).double(), tiny[1].double()
    snn = snnfast.convert(net)
    with torch.no_grad():
        expected = by_hand(net, x, 12)
    got = snn.logits(x, 12, chunk=5)
    assert got.shape == (12, 6, 10)
    assert torch.allclose(got, expected, rtol=1e-9, atol=1e-9)


def test_chunks_change_nothing(tiny):
    """Whatever the chunk, the spikes of every neuron are the same, so far as the convolutions before them give the same currents: in fp64
    they do, and the counts of all layers are compared exactly."""
    net, x = copy.deepcopy(tiny[0]).double(), tiny[1].double()
    snn = snnfast.convert(net)
    found = []
    for chunk in (24, 1, 5):
        counts, outputs = [], []
        for y, states in snn.run(x, 24, chunk):
            outputs.append(y)
            counts = [s.count.clone() for s in states.values()]
        found.append((torch.cat(outputs), counts))
    for y, counts in found[1:]:
        assert torch.allclose(y, found[0][0], rtol=1e-9, atol=1e-9)
        assert all(torch.equal(a, b) for a, b in zip(counts, found[0][1], strict=True))
    assert sum(int(c.sum()) for c in found[0][1]) > 1000


def test_read_out_is_the_mean_so_far(tiny):
    net, x = tiny
    snn = snnfast.convert(net)
    steps = snn.logits(x, 20)
    means = snn.logits(x, 20, at=[1, 3, 20])
    for t, m in zip((1, 3, 20), means, strict=True):
        assert torch.allclose(m, steps[:t].double().mean(0).float(), rtol=1e-6, atol=1e-7)  # rounded to fp32 once
    assert torch.equal(snn(x, T=20), means[-1])


def test_rates_are_the_activation(tiny):
    """The first layer's rate after T steps is QCFS with L = T (closed form, fp64); the logits approach the network with many levels as T grows."""
    net, x = copy.deepcopy(tiny[0]).double(), tiny[1].double()
    snn = snnfast.convert(net)
    name, _ = snn.neurons()[0]
    for _, states in snn.run(x, 8, 8):
        count = states["layer1_2"].count
    with torch.no_grad():
        current = net.layer1[1](net.layer1[0](x))
        theta = net.layer1[2].threshold().detach().view(-1, 1, 1)
    rate, expected = count * theta / 8, snnfast.qcfs(current, theta, 8)
    # Folding a batch norm rounds the current: a neuron within 1e-9 of a step may fall on its other side.
    assert name == "layer1.2" and int(((rate - expected).abs() > 1e-9).sum()) <= 2
    for m in net.modules():
        if isinstance(m, nn.Quantised):
            m.levels = 4096
    with torch.no_grad():
        y = net(x)
    far, near = ((snn.logits(x, T, at=[T])[0] - y).abs().max() for T in (2, 1024))
    assert near < 0.25 * far


def test_net_is_not_changed(tiny):
    net, x = tiny
    before, mode = copy.deepcopy(net.state_dict()), net.training
    snnfast.convert(net).logits(x, 3)
    assert net.training == mode and list(before) == list(net.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(before.values(), net.state_dict().values(), strict=True))


def test_first_convolution_runs_once(tiny):
    net, x = tiny
    snn = snnfast.convert(net)
    calls = []
    convs = [m for m in snn.modules() if isinstance(m, torch.nn.Conv2d)]
    for i, m in enumerate(convs):
        m.register_forward_hook(lambda m, a, y, i=i: calls.append((i, y.size(0))))
    snn.logits(x, 8, chunk=2)
    assert calls.count((0, 6)) == 1 and sum(i == 0 for i, _ in calls) == 1
    assert calls.count((1, 12)) == 4


def test_any_traceable_module_converts():
    """A residual network of the user's own, with a shortcut that mixes a constant and a spiking value."""

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = torch.nn.Conv2d(2, 4, 3, padding=1), torch.nn.Conv2d(4, 4, 3, padding=1), torch.nn.Conv2d(2, 4, 1)
            self.bn, self.act, self.out = torch.nn.BatchNorm2d(4), nn.SQCFS(4, theta=1.0), nn.CSQCFS(4, theta=1.0)
            self.fc = torch.nn.Linear(4, 3)

        def forward(self, x):
            y = self.bn(self.b(self.act(self.a(x)))) + self.c(x)
            return self.fc(self.out(y).mean((2, 3)))

    net, x = Block().double().eval(), torch.randn(3, 2, 6, 6, dtype=torch.float64)
    snn = snnfast.convert(net)
    with torch.no_grad():
        assert torch.allclose(snn(x, T=3000), net(x), atol=0.02)  # T steps against L = 4 levels, both coarse
    assert torch.allclose(
        snn.logits(x, 9, chunk=4), snn.logits(x, 9, chunk=9), rtol=1e-10, atol=1e-12
    )  # a matrix product may sum in another order


def test_keys_of_the_qcfs_authors():
    """Names and counts of SEMANTICS section 6 for VGG-16, and both image sizes."""
    keys = snnfast.models.vgg16(activation="qcfs").state_dict()
    assert len(keys) == 112 and sum(k.endswith(".thresh") for k in keys) == 15
    expected = {f"layer{i}.{j}.weight" for i, n in zip(range(1, 6), (2, 2, 3, 3, 3)) for j in range(0, 4 * n, 4)}
    assert expected <= set(keys) and keys["layer1.2.thresh"].shape == (1,)
    assert keys["classifier.1.weight"].shape == (4096, 512) and "classifier.7.bias" in keys
    large = snnfast.models.vgg11(image_size=224, width=0.0625, num_classes=7)
    assert large.classifier[1].weight.shape == (256, 32 * 49) and large(torch.zeros(1, 3, 224, 224)).shape == (1, 7)
    for arch, convs in (("vgg11", 8), ("vgg13", 10), ("vgg16", 13), ("vgg19", 16)):
        net = snnfast.models.BY_NAME[arch](width=0.0625)
        assert sum(isinstance(m, torch.nn.Conv2d) for m in net.modules()) == convs


@pytest.mark.parametrize("kind, other", [("qcfs", "c-qcfs"), ("s-qcfs", "cs-qcfs")])
def test_stage_two_starts_where_stage_one_ended(kind, other):
    net = snnfast.models.vgg11(width=0.0625, activation=kind, theta=1.5).eval()
    new = snnfast.to_channelwise(net)
    x = torch.randn(2, 3, 32, 32)
    assert new.config["activation"] == other and torch.equal(new(x), net(x))
    assert all(m.threshold().numel() > 1 for m in new.modules() if isinstance(m, nn.Quantised))


def authors_if(x, thresh, T, gama):
    """What the QCFS authors' layer computes for T > 0 on merged input, from SEMANTICS section 1."""
    x, mem, out = x.unflatten(0, (T, -1)), 0.5 * thresh, []
    for t in range(T):
        mem = mem + x[t]
        spike = (mem >= thresh).to(x.dtype) * thresh
        mem = mem - spike
        out.append(spike)
    return torch.stack(out).flatten(0, 1)


def test_if_is_a_drop_in():
    layer = nn.IF(4, 8, 0.75, 1.0, 1.0)
    x = torch.randn(12, 5, 3)
    assert torch.equal(layer(x), authors_if(x, 0.75, 4, 1.0))
    layer.T, layer.L = 0, 4
    assert torch.equal(layer(x), snnfast.qcfs(x, layer.thresh, 4))
    layer(x).sum().backward()
    assert layer.thresh.grad is not None and list(layer.state_dict()) == ["thresh"]
    layer.T, layer.thresh.grad = 4, None
    y = x.clone().requires_grad_()
    layer(y).sum().backward()
    assert y.grad is not None and layer.thresh.grad is None, "as in the authors' code, theta gets no gradient in spiking mode"
    assert nn.IF().T == 0 and nn.IF().L == 8 and nn.IF().thresh.item() == 8.0


def test_if_with_its_own_options():
    x = torch.randn(9, 2, 4, 3)
    theta = torch.rand(4) + 0.5
    layer = nn.IF(theta=theta, channelwise=True, negative="stbif", v0=0.3)
    assert torch.equal(layer(x), snnfast.iaf(x, theta.view(4, 1), 0.3, negative="stbif")[0])
    assert torch.equal(layer(x), layer(x)), "without carry each call starts anew"
    layer.carry = True
    assert torch.equal(torch.cat([layer(x[:4]), layer(x[4:])]), snnfast.iaf(x, theta.view(4, 1), 0.3, negative="stbif")[0])
    layer.reset()
    assert layer.state is None


def test_parity_is_normalised_units(tiny):
    net, x = tiny
    units = {m.options["unit"] for _, m in snnfast.convert(net, parity=True).neurons()}
    assert units == {"normalised"}
    assert {m.options["unit"] for _, m in snnfast.convert(net).neurons()} == {"volts"}

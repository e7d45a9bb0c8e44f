"""What a stranger tries: other people's networks and habits. Each was wrong once, or could be."""

import copy
import pickle
import sys
import threading

import pytest
import torch
from torch.nn import functional as F
from torch.nn.utils import prune

import snnfast
from snnfast import nn


class Net(torch.nn.Module):
    """Layers by name, and a forward given as a function of (self, x)."""

    def __init__(self, forward, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.body = forward

    def forward(self, x):
        return self.body(self, x)


def linear(a=4, b=4):
    return torch.nn.Linear(a, b).double()


def act(theta=1.0, levels=4):
    return nn.QCFS(levels, theta).double()


X = torch.randn(3, 4, dtype=torch.float64)


def test_expanded_input_has_a_gradient_per_step():
    """Direct coding by expand: x has stride 0 in time, but its gradient has T rows."""
    row = torch.randn(1, 40).requires_grad_()
    snnfast.iaf(row.expand(6, 40), 0.75)[0].sum().backward()
    other = row.detach().repeat(6, 1).requires_grad_()
    snnfast.iaf(other, 0.75)[0].sum().backward()
    assert torch.allclose(row.grad[0], other.grad.sum(0), rtol=1e-6)  # summed by torch in another order


def test_an_activation_used_twice_is_two_neurons():
    torch.manual_seed(0)
    a, b, c, shared = linear(), linear(), linear(4, 2), act(0.5)
    once = Net(lambda s, x: s.c(s.act(s.b(s.act(s.a(x))))), a=a, b=b, c=c, act=shared)
    twice = Net(lambda s, x: s.c(s.act2(s.b(s.act(s.a(x))))), a=a, b=b, c=c, act=shared, act2=copy.deepcopy(shared))
    assert torch.equal(snnfast.convert(once).logits(X, 9, chunk=2), snnfast.convert(twice).logits(X, 9, chunk=2))


def test_runs_do_not_disturb_each_other(tiny):
    snn, x = snnfast.convert(tiny[0]), tiny[1]
    expected = snn.logits(x, 6, chunk=1)
    one, two = snn.chunks(x, 6, chunk=1), snn.chunks(x, 6, chunk=1)
    pairs = [(next(one).clone(), next(two).clone()) for _ in range(6)]
    assert torch.equal(torch.cat([p[0] for p in pairs]), expected) and torch.equal(torch.cat([p[1] for p in pairs]), expected)
    left = snn.chunks(x, 6, chunk=1)
    next(left)
    other = snn.chunks(x, 6, chunk=1)
    first = next(other).clone()
    del left
    assert torch.equal(torch.cat([first, *other]), expected)
    found = [None] * 3
    threads = [threading.Thread(target=lambda i=i: found.__setitem__(i, snn.logits(x, 6, chunk=1))) for i in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert all(torch.equal(f, expected) for f in found)


def test_a_network_that_ends_in_a_neuron():
    snn = snnfast.convert(torch.nn.Sequential(linear(4, 5), act()))
    assert torch.equal(snn.logits(X, 8, chunk=2), snn.logits(X, 8, chunk=8))
    means = snn.logits(X, 8, at=[1, 4, 8], chunk=2)
    assert torch.allclose(means[2], snn.logits(X, 8).mean(0), rtol=1e-12)  # torch sums in another order


def test_a_layer_used_twice_keeps_its_batch_norm_apart():
    bn = torch.nn.BatchNorm1d(4).double()
    bn(torch.randn(50, 4, dtype=torch.float64) * 3 + 1)
    net = Net(lambda s, x: s.c(s.a2(s.l(s.a1(s.b(s.l(x)))))), l=linear(), b=bn, a1=act(2.0, 1024), a2=act(2.0, 1024), c=linear(4, 2)).eval()
    with torch.no_grad():
        assert torch.allclose(net(X), snnfast.convert(net)(X, T=2048), atol=0.02)  # the error of T steps and 1,024 levels


def test_parameters_in_forward_are_not_images():
    net = Net(
        lambda s, x: F.linear(s.act(s.a(x)), s.w, s.b) * s.g, a=linear(), act=act(0.5), w=torch.nn.Parameter(torch.randn(3, 4).double())
    )
    net.b, net.g = torch.nn.Parameter(torch.randn(3).double()), torch.nn.Parameter(torch.tensor(1.5).double())
    snn = snnfast.convert(net)
    y = snn.logits(X, 8, chunk=3)
    assert y.shape == (8, 3, 3) and torch.allclose(y, snn.logits(X, 8, chunk=8), rtol=1e-12)  # a matrix product may too


REFUSED = {
    "relu": lambda s, x: F.relu(s.act(s.a(x))),
    "tanh": lambda s, x: torch.tanh(s.act(s.a(x))),
    "mul": lambda s, x: (lambda h: h * h)(s.act(s.a(x))),
    "truediv": lambda s, x: 1 / s.act(s.a(x)),
    "softmax": lambda s, x: s.act(s.a(x)).softmax(1) * 2,
    "layer_norm": lambda s, x: F.layer_norm(s.act(s.a(x)), (4,)),
    "mean": lambda s, x: s.act(s.a(x)).mean(0, keepdim=True),
    "getitem": lambda s, x: (lambda h: h[:1] + h)(s.act(s.a(x))),
    "transpose": lambda s, x: s.act(s.a(x)).transpose(0, 1).reshape(-1, 4),
    "reshape": lambda s, x: s.act(s.a(x)).reshape(1, -1),
    "cat": lambda s, x: torch.cat([s.act(s.a(x))] * 2),
    "div": lambda s, x: torch.div(s.act(s.a(x)), 2.0, rounding_mode="floor"),
    "size of the image": lambda s, x: s.act(s.a(x)).view(x.shape[0], -1),
    "does not depend on any quantised activation": lambda s, x: s.a(x) if s.act(s.a(x)) is not None else x,
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_commute_is_refused_by_name(what):
    with pytest.raises(ValueError, match=what):
        snnfast.convert(Net(REFUSED[what], a=linear(), act=act()), "if")


@pytest.mark.parametrize(
    "layer", [torch.nn.LeakyReLU(), torch.nn.SiLU(), torch.nn.AdaptiveMaxPool1d(2), torch.nn.Softplus(), torch.nn.GroupNorm(2, 4)]
)
def test_layers_without_a_spiking_form_are_refused(layer):
    with pytest.raises(ValueError, match=rf"2 \({type(layer).__name__}\) has no spiking form"):
        snnfast.convert(torch.nn.Sequential(linear(), act(), layer), "if")


class InPlace(torch.nn.Module):
    """The same function written with results and in place; relu of h stands behind the shortcut too."""

    def __init__(self, inplace):
        super().__init__()
        torch.manual_seed(1)
        self.l, self.m, self.out, self.r, self.inplace = linear(), linear(), linear(), torch.nn.ReLU(inplace=inplace), inplace

    def forward(self, x):
        h = self.l(x)
        if self.inplace:
            self.r(h)
            g = self.m(h)
            g.mul_(3)
            g += h
            F.relu(g, inplace=True)
            return self.out(g)
        h = self.r(h)
        return self.out(F.relu(self.m(h) * 3 + h))


def test_what_is_written_in_place_is_not_lost():
    a, b = InPlace(True), InPlace(False)
    x = torch.randn(20, 4, dtype=torch.float64)
    one, other = (snnfast.convert(net, calibrate=x, percentile=100) for net in (a, b))
    assert len(one.neurons()) == 2 and torch.equal(one(x, T=64), other(x, T=64))
    with torch.no_grad():
        assert torch.equal(a(x), b(x)) and (one(x, T=2048) - b(x)).abs().max() < 0.01
    part = Net(lambda s, x: (lambda h: s.c(h + h[:, :4].relu_()))(s.a(x)), a=linear(), c=linear())
    wanted = part(x).detach()  # which writes a part of h
    assert (snnfast.convert(part, calibrate=x, percentile=100)(x, T=2048) - wanted).abs().max() < 0.01


def test_a_batch_norm_behind_a_linear_layer_may_run_along_another_dimension():
    torch.manual_seed(0)
    net = torch.nn.Sequential(act(1.0, 1024), linear(6, 8), torch.nn.BatchNorm1d(8).double(), act(1.0, 1024), linear(8, 3))
    x = torch.rand(20, 8, 6, dtype=torch.float64)
    net(x)
    net.eval()
    with torch.no_grad():
        assert (snnfast.convert(net)(x, T=1024) - net(x)).abs().max() < 0.02


def test_a_softmax_keeps_its_dimension():
    net = torch.nn.Sequential(linear(), act(), linear(4, 4), torch.nn.Softmax(-1))
    y = snnfast.convert(net)(torch.randn(2, 3, 4, dtype=torch.float64), T=5)
    assert torch.allclose(y.sum(-1), torch.ones(2, 3, dtype=torch.float64))


def test_layouts_that_change_with_the_chunk():
    class Skip(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.c, self.a, self.b, self.fc = torch.nn.Conv2d(2, 3, 3), nn.QCFS(4, 1.0), nn.QCFS(4, 1.0), torch.nn.Linear(108, 2)

        def forward(self, x):
            y = self.c(x)
            return self.fc(self.b(y + self.a(y)).flatten(1))

    net = Skip().to(memory_format=torch.channels_last).eval()
    x = torch.randn(2, 2, 8, 8).contiguous(memory_format=torch.channels_last)
    whole = snnfast.convert(net).logits(x, 9, chunk=9)
    for chunk in (1, 2, 8):
        assert torch.allclose(snnfast.convert(net).logits(x, 9, chunk=chunk), whole, rtol=1e-5, atol=1e-6)  # another order of summation
    assert torch.isfinite(snnfast.convert(net, "cos").logits(x, 5, chunk=1)).all()


def test_what_only_a_run_can_see_is_refused_by_name(monkeypatch):
    for forward, message in (
        (lambda s, x: s.c(s.act(s.a(x)) * x.mean()), r"mean \(node mean\) does not give a value per image"),
        (lambda s, x: s.c(s.act(s.a(x)).mean(-2, keepdim=True)), r"mean \(node mean\) does not give a value per image"),
    ):
        net = Net(forward, a=linear(), act=act(), c=linear())
        with pytest.raises(ValueError, match="captured, it gives other outputs"):
            snnfast.convert(net)
        with monkeypatch.context() as without, pytest.raises(ValueError, match=message):
            without.setattr(sys.modules["snnfast.conversion.convert"], "doubt", lambda gm, net: None)  # the comparison, which sees it first
            snnfast.convert(net).logits(X, 4, chunk=2)
    with pytest.raises(ValueError, match="activation of a parameter"):
        w = torch.nn.Parameter(torch.rand(4, 4).double())
        net = Net(lambda s, x: F.linear(s.act(s.a(x)), s.other(s.w)), a=linear(), act=act(), other=act(), w=w)
        snnfast.convert(net)
    twice = Net(lambda s, x: (lambda h: torch.mul(h, other=h))(s.act(s.a(x))), a=linear(), act=act())
    with pytest.raises(ValueError, match="mul .* has no spiking form"):
        snnfast.convert(twice)
    with pytest.raises(ValueError, match=r"1 \(GELU\) has no spiking form"):
        snnfast.convert(torch.nn.Sequential(linear(), torch.nn.GELU()), "if", calibrate=X)


def test_unit_spikes_have_no_gradient():
    x = torch.randn(5, 8, requires_grad=True)
    s, state = snnfast.iaf(x, 0.7, spikes="unit")
    assert not s.requires_grad and state.v.requires_grad


def test_statistics_belong_to_one_network_and_one_T(tiny):
    from snnfast.evaluation.statistics import Statistics

    one, other = snnfast.convert(tiny[0]), snnfast.convert(tiny[0])
    collected = Statistics(one)
    batch = [(tiny[1], torch.zeros(6, dtype=torch.long))]
    with pytest.raises(ValueError, match="statistics are of another network"):
        snnfast.evaluate(other, batch, T=2, statistics=collected)
    snnfast.evaluate(one, batch, T=2, statistics=collected)
    with pytest.raises(ValueError, match="statistics of T = 2 cannot take in a run of T = 3"):
        snnfast.evaluate(one, batch, T=3, statistics=collected)


def test_inplace_layers_leave_the_image_alone():
    x = X.clone()
    snn = snnfast.convert(torch.nn.Sequential(torch.nn.Hardtanh(inplace=True), linear(), act()))
    assert torch.equal(snn.logits(x, 4, chunk=1), snn.logits(x, 4, chunk=4)) and torch.equal(x, X)


def test_activation_called_by_keyword():
    layer, neuron = linear(), act(0.5)
    a, b = Net(lambda s, z: s.act(x=s.a(z)), a=layer, act=neuron), Net(lambda s, x: s.act(s.a(x)), a=layer, act=neuron)
    assert torch.equal(snnfast.convert(a).logits(X, 5), snnfast.convert(b).logits(X, 5))


def test_a_converted_network_can_be_copied_and_pickled(tiny):
    snn, x = snnfast.convert(tiny[0]), tiny[1]
    expected = snn.logits(x, 5)
    assert torch.equal(copy.deepcopy(snn).logits(x, 5), expected)
    assert torch.equal(pickle.loads(pickle.dumps(snn)).logits(x, 5), expected)


def test_channels_last_with_a_slice():
    net = Net(lambda s, x: s.act(s.a(x)[:, :2]).mean((2, 3)), a=torch.nn.Conv2d(3, 4, 3), act=nn.SQCFS(4, 1.0))
    net, x = net.to(memory_format=torch.channels_last), torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    assert snnfast.convert(net).logits(x, 5, chunk=2).shape == (5, 2, 2)


@pytest.mark.parametrize("shape, theta", [((3, 2, 4, 0, 0), (4, 1, 1)), ((3, 0, 4), (0, 1)), ((3, 4, 0), (4, 0)), ((3, 0), (1,))])
def test_empty_with_thresholds(shape, theta):
    x, th = torch.zeros(shape, requires_grad=True), torch.ones(theta, requires_grad=True)
    s, _ = snnfast.iaf(x, th)
    (s.sum() + snnfast.qcfs(x[0], th, 4).sum()).backward()
    assert s.shape == shape and x.grad.shape == shape and not th.grad.any()


def test_dtype_is_kept(tmp_path):
    net = snnfast.models.vgg11(width=0.0625, in_channels=1).double().eval()
    x = torch.randn(1, 1, 32, 32, dtype=torch.float64)
    assert torch.equal(snnfast.to_channelwise(net)(x), net(x))
    snnfast.save_checkpoint(tmp_path / "m.pt", net)
    assert torch.equal(snnfast.load_checkpoint(tmp_path / "m.pt")(x), net(x))


def test_thresholds_are_checked_when_loaded(tmp_path):
    net = snnfast.models.vgg11(width=0.0625, activation="qcfs")
    with torch.no_grad():
        net.layer2[2].thresh.fill_(-1.0)
    snnfast.save_checkpoint(tmp_path / "m.pt", net)
    with pytest.raises(ValueError, match="threshold of layer2.2 in .* must be > 0"):
        snnfast.load_checkpoint(tmp_path / "m.pt")
    with pytest.raises(TypeError, match="fact when is a set"):
        snnfast.save_checkpoint(tmp_path / "n.pt", net, when={1})


def test_second_derivatives_are_refused():
    x = torch.randn(5, 8, requires_grad=True)
    for y in (snnfast.iaf(x, 0.7)[0], snnfast.qcfs(x, 0.7, 4)):
        (g,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="differentiable once"):
            g.sum().backward()


def test_compile_with_numbers_and_sizes_that_vary():
    torch.compiler.reset()
    f = torch.compile(lambda x, t: snnfast.iaf(x, t)[0] + snnfast.qcfs(x, t, 4), fullgraph=True, backend="aot_eager")
    x = torch.randn(4, 2, 3, 5, 5)
    for t in (1.0, 0.7, 0.6):
        assert torch.equal(f(x, t), snnfast.iaf(x, t)[0] + snnfast.qcfs(x, t, 4))
    layer = nn.CSQCFS(4)
    g = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for shape in ((2, 4, 5, 5), (3, 4, 5, 5), (3, 4, 6, 6), (2, 4, 7, 6)):
        z = torch.randn(shape)
        assert torch.equal(g(z), layer(z))


def test_one_shot_loader_and_mode(tiny):
    net, x = tiny
    batches = iter([(x, torch.zeros(6, dtype=torch.long))])
    net.train()
    report = snnfast.evaluate(snnfast.convert(net), batches, T=2, ann=net)
    assert report.ann is not None and net.training
    net.eval()
    with pytest.raises(TypeError, match="snn must be what snnfast.convert returned"):
        snnfast.evaluate(net, [], T=2)


def test_tensor_options_of_a_neuron_are_its_buffers():
    layer = nn.IF(theta=0.75, v0=torch.tensor([0.25, 0.75]), carry=True)
    assert set(layer.state_dict()) == {"theta", "v0"}
    x = torch.randn(5, 2, requires_grad=True)
    assert torch.equal(layer(x), snnfast.iaf(x, 0.75, torch.tensor([0.25, 0.75]))[0])
    assert copy.deepcopy(layer).state is None and layer.state is not None


@pytest.mark.parametrize("name", ["weight_norm", "spectral_norm", "orthogonal"])
def test_weights_that_are_parametrised_become_plain_ones(name):
    torch.manual_seed(0)
    wrap = getattr(torch.nn.utils.parametrizations, name)
    conv, last = torch.nn.Conv2d(3, 4, 3).double(), linear(4 * 36, 8)
    net = torch.nn.Sequential(
        wrap(conv), torch.nn.BatchNorm2d(4).double(), act(), torch.nn.Flatten(), wrap(last), torch.nn.LayerNorm(8).double()
    )
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    net.train()(x)
    net.eval()
    snn = snnfast.convert(net, mode="differential")
    with torch.no_grad():
        assert (snn.logits(x, 32, at=[32])[0] - net(x)).abs().max() < 1e-12
    assert torch.nn.utils.parametrize.is_parametrized(net[0]) and net[0].weight.requires_grad  # the original is as it was
    net.train()(x).sum().backward()


def test_a_hook_on_what_gets_differences_is_refused():
    net = torch.nn.Sequential(linear(), act(), linear(4, 4), torch.nn.LayerNorm(4).double(), act(), linear(4, 3))
    x = torch.randn(5, 4, dtype=torch.float64)
    hook = net[2].register_forward_hook(lambda module, inputs, y: y + 1)
    with pytest.raises(ValueError, match="2 has a forward hook, which a differential run would call with differences"):
        snnfast.convert(net)
    hook.remove()
    for layer in (net[0], net[3]):  # before the first spike, and behind a function, which is called with sums
        layer.register_forward_hook(lambda module, inputs, y: y * 2 + 1)
    with torch.no_grad():
        assert (snnfast.convert(net).logits(x, 40, at=[40])[0] - net(x)).abs().max() < 1e-12


@pytest.mark.parametrize("computed", ["pruned", "weight_norm"])
@pytest.mark.parametrize("given", ["calibrate", "sample", "neither"])
def test_weights_that_a_hook_computes(computed, given):
    """torch keeps such a weight as the result of a calculation with a gradient, which deepcopy refuses."""
    net = torch.nn.Sequential(linear(), torch.nn.ReLU() if given == "calibrate" else act(), linear())
    if computed == "pruned":
        prune.l1_unstructured(net[0], "weight", 0.5)
    else:
        with pytest.warns(FutureWarning, match="weight_norm"):
            torch.nn.utils.weight_norm(net[0])
    options = dict(calibrate=X) if given == "calibrate" else dict(mode="differential") | ({} if given == "neither" else dict(sample=X))
    y = net.eval()(X)
    assert float((snnfast.convert(net, **options)(X, 2048) - y).norm() / y.norm()) < 0.02

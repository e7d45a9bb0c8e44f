"""What a stranger tries: other people's networks and habits. Each was wrong once, or could be."""

import copy
import pickle
import threading

import pytest
import torch
from torch.nn import functional as F

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
    "add_": lambda s, x: s.a(x).add_(s.act(s.a(x))),
    "size of the image": lambda s, x: s.act(s.a(x)).view(x.shape[0], -1),
    "does not depend on any quantised activation": lambda s, x: s.a(x) if s.act(s.a(x)) is not None else x,
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_commute_is_refused_by_name(what):
    with pytest.raises(ValueError, match=what):
        snnfast.convert(Net(REFUSED[what], a=linear(), act=act()))


@pytest.mark.parametrize(
    "layer", [torch.nn.LeakyReLU(), torch.nn.SiLU(), torch.nn.AdaptiveMaxPool1d(2), torch.nn.Softplus(), torch.nn.GroupNorm(2, 4)]
)
def test_layers_without_a_spiking_form_are_refused(layer):
    with pytest.raises(ValueError, match=rf"2 \({type(layer).__name__}\) has no spiking form"):
        snnfast.convert(torch.nn.Sequential(linear(), act(), layer))


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

"""accelerate(model, fuse=True): batch norms that wait for their neuron, in our networks and in SpikingJelly's, against the same model without."""

import copy
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import snnfast
from snnfast.nn import deferred
from snnfast.nn.deferred import Deferred, Pending, computed


@pytest.fixture(autouse=True)
def small_ones_too(monkeypatch):
    monkeypatch.setattr(deferred, "SMALL", 0)


def test_small_ones_run_as_before(monkeypatch):
    monkeypatch.setattr(deferred, "SMALL", 1 << 17)
    plain, waits, x = waiting()
    assert not isinstance(waits(x), Deferred) and torch.equal(waits(x), plain(x))
    assert isinstance(waits.eval()(x), Deferred)  # not in training, where the batch must not decide
    assert isinstance(waits.train()(torch.randn(600, 3, 10, 10)), Deferred)


NETS = {
    "sew_resnet18": lambda: snnfast.models.sew_resnet18(num_classes=10),
    "spiking_resnet18": lambda: snnfast.models.spiking_resnet18(num_classes=10),
    "ms_resnet18": lambda: snnfast.models.ms_resnet18(num_classes=10),
    "csnn": lambda: snnfast.models.csnn_cifar10((8, 8, 16), 32),
    "spikformer": lambda: snnfast.models.spikformer_cifar(1, 32, 2),
    "spikingformer": lambda: snnfast.models.spikingformer_cifar(1, 32, 2),
    "sdt": lambda: snnfast.models.sdt_cifar(1, 32, 2),
    "plif": lambda: snnfast.models.plif_cifar10(),
    "of layers": lambda: OfLayers(),
}


class OfLayers(nn.Module):
    """A network that its user wrote with layers of snnfast.nn: x [B, 3, H, W], 5 steps."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fire = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), snnfast.nn.LIF(2.0, 1.0, surrogate="atan")
        self.line, self.flat_norm, self.last = nn.Linear(6, 10), nn.BatchNorm1d(10), snnfast.nn.PLIF(2.0, 1.0, surrogate="atan")
        self.pool = nn.MaxPool2d(2)

    def forward(self, x):
        x = self.norm(self.conv(x)).unsqueeze(0).expand(5, -1, -1, -1, -1)
        x = self.pool(self.fire(x).flatten(0, 1)).mean((-1, -2))
        return self.last(self.flat_norm(self.line(x)).view(5, -1, 10)).mean(0)


def step(net, x, y):
    net.zero_grad()
    torch.manual_seed(1)  # of dropouts
    out = net(x)
    F.cross_entropy(out, y).backward()
    return out.detach(), {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}


def assert_equal_steps(plain, fused, x, y):
    """In fp64: the same spikes, so the same outputs; gradients and running statistics but for the order of sums."""
    (out, grads), (other, others) = step(plain, x, y), step(fused, x, y)
    assert torch.allclose(out, other, rtol=1e-9, atol=1e-9)
    largest = max(float(g.abs().max()) for g in grads.values())
    assert largest > 0 and grads.keys() == others.keys()
    for name, g in grads.items():
        # A bias in front of a batch norm has the gradient 0, but for rounding.
        assert torch.allclose(g, others[name], rtol=1e-7, atol=1e-9 * largest), name
    for (name, a), (_, b) in zip(plain.named_buffers(), fused.named_buffers(), strict=True):
        assert torch.allclose(a, b, rtol=1e-9), name


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.thorough] if n == "plif" else []) for n in NETS])
def test_our_networks(name):
    torch.manual_seed(0)
    plain = NETS[name]().double()
    fused = copy.deepcopy(plain)
    done = snnfast.accelerate(fused, fuse=True)
    norms = [n for n, m in plain.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert {r[0] for r in done.replaced} >= set(norms) and not done.left
    B = 1 if name == "plif" else 4  # whose channels are as many as its authors'
    x, y = torch.randn(B, 3, 32, 32, dtype=torch.float64), torch.randint(10, (B,))
    for training in (True, False):
        assert_equal_steps(plain.train(training), fused.train(training), x, y)
    assert plain.state_dict().keys() == fused.state_dict().keys()
    done.undo()
    assert [type(m) for m in fused.modules()] == [type(m) for m in plain.modules()]


def test_that_they_run_together(monkeypatch):
    """Every batch norm whose output goes to a neuron and nowhere else; of a vanilla block the last one meets the shortcut first."""
    x = torch.randn(2, 3, 32, 32)
    for make, alone in ((NETS["sew_resnet18"], "nothing"), (NETS["spiking_resnet18"], r"conv2|downsample"), (NETS["of layers"], "nothing")):
        net = make()
        snnfast.accelerate(net, fuse=True)
        ran, of, own = [], {m: n for n, m in net.named_modules()}, Pending.parts
        with monkeypatch.context() as patch:
            patch.setattr(Pending, "parts", lambda self, of=of, ran=ran, own=own: (ran.append(of[self.norm]), own(self))[1])
            net(x)
        norms = {n for n, m in net.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}

        assert set(ran) == {n for n in norms if not re.search(alone, n)} and len(ran) == len(set(ran))


@pytest.mark.parametrize("mode", ["container", "steps"])
def test_spikingjelly(mode, monkeypatch):
    pytest.importorskip("spikingjelly")
    from spikingjelly.activation_based import functional, layer, neuron, surrogate

    def lif(kind=neuron.LIFNode, **how):
        return kind(v_threshold=0.5, surrogate_function=surrogate.ATan(), detach_reset=True, step_mode="m", **how)

    if mode == "container":
        body = [layer.SeqToANNContainer(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)), lif(tau=2.0),
                layer.SeqToANNContainer(nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)), lif(neuron.IFNode)]  # fmt: skip
    else:
        body = [layer.Conv2d(3, 8, 3, padding=1), layer.BatchNorm2d(8), lif(neuron.ParametricLIFNode), layer.MaxPool2d(2),
                layer.Conv2d(8, 8, 3), layer.BatchNorm2d(8, momentum=None), lif(neuron.IFNode)]  # fmt: skip
    torch.manual_seed(0)
    plain = nn.Sequential(*body).double()
    functional.set_step_mode(plain, "m")
    fused = copy.deepcopy(plain)
    done = snnfast.accelerate(fused, fuse=True)
    assert len(done.replaced) == 5 and not done.left, done
    together, own = [], Pending.parts
    monkeypatch.setattr(Pending, "parts", lambda self: (together.append(self.norm), own(self))[1])
    for i in range(3):
        g = torch.Generator().manual_seed(i)
        found = []
        for net in (plain, fused):
            functional.reset_net(net)
            x = torch.randn(4, 2, 3, 8, 8, dtype=torch.float64, generator=g.manual_seed(i)).requires_grad_()
            net.zero_grad()
            s = net.train(i < 2)(x)
            (s * torch.arange(s.size(-1))).sum().backward()
            found.append([s.detach(), x.grad, *(p.grad for p in net.parameters())])
        assert len(together) == 2 * (i + 1)  # both batch norms ran with their neurons
        assert torch.equal(found[0][0], found[1][0]) and found[0][0].any()
        for a, b in zip(*found):
            assert torch.allclose(a, b, rtol=1e-7, atol=1e-9 * max(float(t.abs().max()) for t in found[0]))
        for a, b in zip(plain.buffers(), fused.buffers()):
            assert torch.allclose(a.double(), b.double(), rtol=1e-9)


class Wrapped(torch.autograd.Function):
    """What torch.utils.checkpoint's first form does: a module inside of a function of its own."""

    @staticmethod
    def forward(ctx, run, x):
        return run(x)

    @staticmethod
    def backward(ctx, g):
        return None, g


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints(reentrant):
    from torch.utils.checkpoint import checkpoint

    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).double()
    fused = nn.Sequential(copy.deepcopy(plain), snnfast.nn.LIF(2.0, 0.5, surrogate="atan"))
    snnfast.accelerate(fused, fuse=True)
    x = torch.randn(8, 3, 9, 9, dtype=torch.float64, requires_grad=True)
    grads = []
    for body in (plain, fused[0]):
        y = checkpoint(body, x, use_reentrant=reentrant)
        fused[1](y.unflatten(0, (2, 4))).pow(2).sum().backward()
        grads.append([p.grad for p in body.parameters()])
    assert grads[0][1].abs().max() < 1e-9  # a bias in front of a batch norm
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-9) for a, b in zip(*grads)) and grads[1][0].any()


def test_a_gradient_that_would_get_lost_is_refused():
    _, waits, x = waiting()
    for use in (lambda y: (y * 2).sum(), lambda y: snnfast.nn.LIF(2.0)(y.unflatten(0, (2, 2))).sum()):
        with pytest.raises(RuntimeError, match="waits for its neuron went to code that is not torch's"):
            use(Wrapped.apply(waits.eval(), x.requires_grad_()))


def test_what_changes_before_the_neuron_comes_is_refused():
    for training in (True, False):
        for change in (lambda n, x: x.mul_(0.5), lambda n, x: n.weight.add_(1)):
            _, waits, x = waiting()
            y = waits.train(training)(x)
            with torch.no_grad():
                change(waits, x)
            with pytest.raises(RuntimeError, match="was changed before the neuron came"):
                snnfast.nn.LIF(2.0)(y.unflatten(0, (2, 2)))
            with pytest.raises(RuntimeError, match="was changed before the neuron came"):
                computed(y)
    plain, waits, x = waiting()
    y, z = waits(x), plain(x)
    waits.eval()
    assert torch.equal(y + 0, z)  # what it was asked for, in training


def test_recalibration_needs_no_output():
    plain, waits, x = waiting()
    with torch.no_grad():
        for _ in range(3):
            plain(x), waits(x)
    assert waits.num_batches_tracked == 3 and all(torch.allclose(a, b, rtol=1e-6) for a, b in zip(plain.buffers(), waits.buffers()))


def test_a_whole_model_gives_values():
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), snnfast.nn.LIF(2.0), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    plain, done = copy.deepcopy(encoder), snnfast.accelerate(encoder, fuse=True)
    x = torch.randn(4, 3, 9, 9)
    assert type(encoder(x)) is torch.Tensor and not encoder[4]._forward_hooks
    done.undo()
    assert type(encoder[1]) is nn.BatchNorm2d and not encoder._forward_hooks and plain(x).shape == encoder(x).shape


def test_watched_layers_run_as_before():
    """By hooks, as for maps of gradients."""
    seen = []
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), snnfast.nn.LIF(2.0, 0.5, surrogate="atan"))
    snnfast.accelerate(net, fuse=True)
    net[1].register_full_backward_hook(lambda m, gi, go: seen.append(go[0].shape))
    net(torch.randn(4, 3, 8, 8)).sum().backward()
    assert seen == [(4, 4, 6, 6)]


def test_converted_afterwards():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), snnfast.nn.QCFS(4, 1.0), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5), snnfast.nn.LIF(2.0)
    )
    body = net[:6].eval()
    before, x = snnfast.convert(body), torch.randn(2, 3, 8, 8)
    snnfast.accelerate(net, fuse=True)
    assert torch.equal(snnfast.convert(body).logits(x, 4), before.logits(x, 4)) and type(body[1]) is not nn.BatchNorm2d


def test_functions_take_it():
    plain, waits, _ = waiting(nn.BatchNorm1d(3))
    x = torch.randn(6, 3)
    for f in (lambda y: snnfast.iaf(y, 0.5)[0], lambda y: snnfast.plif(y)[0], lambda y: snnfast.quanta(y, 0.2, m=4)[0]):
        y, z = f(waits(x)), f(plain(x))
        assert torch.equal(y, z)
        y.sum().backward()
    assert waits.weight.grad is not None


def test_layouts():
    """A view of what torch's batch norm makes contiguous."""
    plain, waits, _ = waiting(nn.BatchNorm1d(5))
    x = torch.randn(4, 3, 5).transpose(-1, -2)
    assert torch.equal(waits(x).view(4, -1), plain(x).view(4, -1))


def waiting(norm=None, x=None):
    """A batch norm of torch, the same that waits, and what both are given."""
    plain = norm or nn.BatchNorm2d(3)
    both = nn.Sequential(copy.deepcopy(plain), snnfast.nn.LIF(2.0))
    snnfast.accelerate(both, fuse=True)
    return plain, both[0], torch.randn(4, 3, 5, 5) if x is None else x


def test_whoever_else_takes_it_gets_the_batch_norms_own_bits():
    for use in (
        lambda y: y + 1, lambda y: y.relu_(), lambda y: torch.cat([y, y]), lambda y: y.mean((2, 3)), lambda y: y[0], lambda y: F.relu(y),
        lambda y: y.flatten(1), lambda y: y.view(2, 2, 3, 5, 5).sum(0), lambda y: torch.as_tensor(y.tolist()), lambda y: y.transpose(0, 1) * 2,
    ):  # fmt: skip
        plain, waits, x = waiting()
        y = waits(x)
        assert isinstance(y, Deferred) and y.shape == x.shape and y.requires_grad and y.dtype == x.dtype
        assert torch.equal(use(y), use(plain(x)))
        for a, b in zip(plain.buffers(), waits.buffers()):  # running statistics, once; their sums are in fp64
            assert torch.allclose(a, b, rtol=1e-6)
        assert torch.equal(computed(y), computed(y))


def test_used_twice():
    """By the neuron and beside it: one set of running statistics, both right."""
    for neuron_first in (True, False):
        plain, waits, x = waiting()
        y, fire = waits(x).unflatten(0, (2, 2)), snnfast.nn.LIF(2.0, surrogate="atan")
        s, beside = (fire(y), y * 2) if neuron_first else (y * 2, fire(y))[::-1]
        z = plain(x).unflatten(0, (2, 2))
        assert torch.equal(s, fire(z)) and torch.equal(beside, z * 2)
        for a, b in zip(plain.buffers(), waits.buffers()):
            assert torch.allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("norm", [
    nn.BatchNorm2d(3, momentum=None), nn.BatchNorm2d(3, track_running_stats=False), nn.BatchNorm2d(3, affine=False), nn.BatchNorm2d(3).eval(),
    nn.BatchNorm2d(3, track_running_stats=False).eval(), nn.BatchNorm2d(3, eps=0.1, momentum=0.5),
], ids=str)  # fmt: skip
def test_settings(norm):
    norm, x = norm.double(), torch.randn(3, 4, 3, 5, 5, dtype=torch.float64) * 2 + 1
    plain, waits, _ = waiting(norm)
    for _ in range(3):
        ours, theirs = (snnfast.nn.LIF(2.0)(n(x.flatten(0, 1)).unflatten(0, (3, 4))) for n in (waits, plain))
        assert torch.equal(ours, theirs) and ours.any()
    for a, b in zip(plain.buffers(), waits.buffers()):
        assert torch.allclose(a.double(), b.double(), rtol=1e-12)


def test_neurons_that_cannot_take_it():
    """Negative spikes, an offset, normalised units: they get the value."""
    for how in (dict(negative="snm"), dict(offset=0.25), dict(unit="normalised")):
        plain, waits, x = waiting(nn.BatchNorm2d(3).eval(), torch.randn(4, 2, 3, 5, 5))
        fire = snnfast.nn.IF(theta=0.5, **how)
        assert torch.equal(fire(waits(x.flatten(0, 1)).unflatten(0, (4, 2))), fire(plain(x.flatten(0, 1)).unflatten(0, (4, 2))))


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, g):
        return g * 2


def test_a_function_below_torchs_is_told():
    _, waits, x = waiting()
    y = Double.apply(waits(x))  # a value that torch's functions found inside; its gradient would end there
    with pytest.raises(RuntimeError, match="waits for its neuron went to code that is not torch's.*call undo()"):
        y.sum().backward()


def test_bad_input_is_the_batch_norms_own():
    _, waits, _ = waiting()
    for bad in (torch.randn(4, 5, 6, 6), torch.randn(4, 3), torch.zeros(2, 3, 4, 4, dtype=torch.int64)):
        with pytest.raises((ValueError, RuntimeError)) as told:
            computed(waits(bad)).sum()
        with pytest.raises((ValueError, RuntimeError)) as plain:
            nn.BatchNorm2d(3)(bad)
        assert str(told.value) == str(plain.value)
    one = torch.randn(1, 3, 1, 1)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        waits.train()(one)


def test_what_is_left():
    net = nn.Sequential(nn.SyncBatchNorm(3), nn.MaxPool2d(2, ceil_mode=True), snnfast.nn.LIF(2.0), nn.BatchNorm2d(3))
    left = {name: why for name, _, why in snnfast.accelerate(net, fuse=True).left}
    large = nn.Sequential(nn.MaxPool2d(16), nn.MaxPool2d((2,)), snnfast.nn.LIF(2.0))
    assert len(snnfast.accelerate(large, fuse=True).left) == 2
    assert left.keys() == {"0", "1"} and "not those of torch.nn.BatchNorm" in left["0"] and "ceil_mode" in left["1"]
    alone = snnfast.accelerate(nn.Sequential(nn.BatchNorm2d(3)), fuse=True)
    assert [why for *_, why in alone.left] == ["no neuron of the model takes it"]
    assert not snnfast.accelerate(nn.Sequential(nn.BatchNorm2d(3), snnfast.nn.LIF(2.0))).replaced
    with pytest.raises(TypeError, match="fuse must be"):
        snnfast.accelerate(net, fuse="yes")

"""What `backward_through_time` cannot run in chunks is refused by name, before or when its second run shows it."""

import pytest
import torch
import torch.utils.checkpoint
from torch import nn

import snnfast
from snnfast.models.direct import SharedDropout
from snnfast.training import through_time, time_trial


def layers():
    return nn.Sequential(nn.Linear(6, 8), snnfast.nn.LIF(2.0, 0.5), nn.Linear(8, 4), snnfast.nn.IF(theta=0.5))


class Hidden(nn.Module):
    """A neuron whose state nobody else knows."""

    def __init__(self):
        super().__init__()
        self.a, self.v = nn.Linear(6, 4), 0.0

    def forward(self, x):
        out = []
        for step in self.a(x):
            self.v = 0.9 * self.v + step
            out.append(self.v)
        return torch.stack(out)


class Starts(Hidden):
    """The same, but every call starts from rest."""

    def forward(self, x):
        self.v = 0.0
        return super().forward(x)


class Over(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function, self.a = function, nn.Linear(6, 4)

    def forward(self, x):
        return self.function(self.a(x))


class Outside(nn.Module):
    """Keeps a state of snnfast's itself."""

    def __init__(self):
        super().__init__()
        self.a, self.state = nn.Linear(6, 4), None

    def forward(self, x):
        s, self.state = snnfast.iaf(self.a(x), 1.0, state=self.state)
        return s


class Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u):
        return (u >= 0).to(u.dtype)

    @staticmethod
    def backward(ctx, g):
        return g


class Quiet(nn.Module):
    """Somebody's own neuron, from rest in every call, which is silent at first."""

    def forward(self, x):
        v, out = torch.zeros_like(x[0]), []
        for u in x.abs() * 0.02:
            v = v + u
            out.append(Spike.apply(v - 0.15))
            v = v - out[-1] * 0.15
        return torch.stack(out)


class Time(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.p = nn.Parameter(torch.full((20, 1, 6), size))

    def forward(self, x):
        return x + self.p[: len(x)]


class InPlace(nn.Module):
    def forward(self, x):
        return x.mul_(2)


class InTraining(nn.Module):
    def forward(self, x):
        return x - x.mean((0, 1)) if self.training else x


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Sequential(nn.Linear(6, 4), snnfast.nn.LIF(2.0, 0.3))

    def forward(self, x):
        return torch.utils.checkpoint.checkpoint(self.a, x, use_reentrant=False)


def single_step():
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    return nn.Sequential(nn.Linear(6, 4), neuron.LIFNode())


LEAF = torch.ones(4, requires_grad=True)


@pytest.mark.parametrize("net, said", [
    (Starts(), "outputs of 4 steps are others than those of 2 and 2: net takes steps together"),
    (Over(lambda y: y - y.mean(0)), "net takes steps together"),
    (Over(lambda y: y.flip(0)), "net takes steps together"),
    (Over(lambda y: y.mean(0)), r"with its 4 steps first, \[4, B, ...\], got shape \(3, 4\)"),
    (Over(lambda y: (y, y)), "must give one tensor .* got tuple"),
    (Over(lambda y: y * LEAF), r"uses a tensor of shape \(4,\) that has a gradient and is none of its parameters"),
    (nn.Sequential(nn.Linear(6, 4), SharedDropout(0.5)), "1 drops the same numbers at all steps"),
    (Outside(), "iaf: state comes from outside of the chunk that runs"),
    (Quiet(), "the outputs of 9 steps are others than those of 5 and 4"),
    (nn.Sequential(Time(0.0), nn.Linear(6, 4)), "the gradients of 4 steps are others than those of 2 and 2"),
    (nn.Sequential(Time(1e-3), nn.Linear(6, 4)), "the gradients of 4 steps are others"),
    (nn.Sequential(nn.Linear(6, 4), InTraining()), "the outputs of 4 steps are others"),
    (nn.Sequential(Over(lambda y: y), snnfast.models.csnn_cifar10((4, 4, 4), 8)), "1 is a CSNN, which takes images"),
    (nn.Sequential(torch.nn.utils.parametrizations.spectral_norm(nn.Linear(6, 4))), "is a buffer that net changes when it runs"),
    (nn.Sequential(Over(lambda y: y), nn.Linear(4, 4), InPlace()), None),
    (InPlace(), "net changes its input in place"),
])  # fmt: skip
def test_what_is_refused(net, said):
    x, before = torch.randn(20, 3, 6), {name: t.clone() for name, t in net.state_dict().items()}
    given = x.clone()
    if said is None:  # what it changes is its own
        assert torch.allclose(snnfast.backward_through_time(net, x, chunk=5), net(x), rtol=1e-5, atol=1e-6)  # products of other sizes
        return
    with pytest.raises(ValueError, match=said):
        snnfast.backward_through_time(net, x, chunk=5)
    assert all(m.training for m in net.modules()) and torch.equal(x, given)
    assert all(torch.equal(before[name], t) for name, t in net.state_dict().items())


def test_what_runs_again_by_itself_is_refused():
    with pytest.raises(RuntimeError, match="iaf runs again while gradients are taken, as torch.utils.checkpoint makes it"):
        snnfast.backward_through_time(Checkpointed(), torch.randn(20, 3, 6), chunk=5)
    with pytest.raises(ValueError, match="1 is a LIFNode in single-step mode"):
        snnfast.backward_through_time(single_step(), torch.randn(20, 3, 6), chunk=5)


def test_a_checkpoint_outside():
    net, x = layers(), torch.randn(20, 3, 6)
    found = []
    for again in (False, True):
        net.zero_grad()
        run = lambda x: snnfast.backward_through_time(net, x, chunk=5)  # noqa: E731
        (torch.utils.checkpoint.checkpoint(run, x, use_reentrant=False) if again else run(x)).sum().backward()
        found.append([p.grad.clone() for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found))


def test_a_network_that_is_made_of_something_else_is_tried_again():
    net, x = layers(), torch.randn(20, 3, 6)
    snnfast.backward_through_time(net, x, chunk=5)
    net.append(InTraining())
    with pytest.raises(ValueError, match="takes steps together"):
        snnfast.backward_through_time(net, x, chunk=5)


def test_a_network_is_tried_once_in_each_mode(monkeypatch):
    net, x, tried = layers(), torch.randn(20, 3, 6), []
    monkeypatch.setattr(time_trial, "_tried_on", lambda net, *rest: tried.append(net.training) or True)
    for _ in range(3):
        snnfast.backward_through_time(net.train(), x, chunk=5)
        snnfast.backward_through_time(net.eval(), x, chunk=5)
    assert tried == [True, False]


def test_another_chunk_is_tried_anew():
    class Delay(nn.Module):
        def forward(self, x):
            return torch.cat([torch.zeros_like(x[:7]), x])[: len(x)]

    net, x = nn.Sequential(nn.Linear(6, 4), Delay()), torch.randn(20, 3, 6)
    snnfast.backward_through_time(net, x, chunk=2)  # reaches over more than is tried
    with pytest.raises(ValueError, match="takes steps together"):
        snnfast.backward_through_time(net, x, chunk=5)
    net = nn.Sequential(snnfast.nn.LIF(2.0, 0.5), Over(lambda y: y / (1e-3 + y.sum(0))))
    net[1].a = nn.Identity()
    with torch.no_grad():
        snnfast.backward_through_time(net, torch.zeros(20, 3, 6), chunk=5)  # silence says nothing
        with pytest.raises(ValueError, match="takes steps together"):
            snnfast.backward_through_time(net, torch.rand(20, 3, 6) * 20, chunk=5)


def test_what_was_changed_since_the_forward():
    x = torch.randn(20, 3, 6)

    def after(change, said, net=None):
        net = net or layers()
        y = snnfast.backward_through_time(net, x, chunk=5)
        change(net)
        with pytest.raises((RuntimeError, ValueError), match=said):
            y.sum().backward()

    after(lambda net: net[0].requires_grad_(False), "other parameters with a gradient")
    after(lambda net: net[1].theta.mul_(1.01), "a buffer of net was modified by an inplace operation")
    theta = torch.tensor(0.3)
    net = Over(lambda y: snnfast.lif(y, theta.abs())[0])
    snnfast.backward_through_time(net, x, chunk=5)
    after(lambda net: theta.requires_grad_(), r"uses a tensor of shape \(\) that has a gradient and is none of its parameters", net)
    net = Over(lambda y: snnfast.iaf(y, 1.0)[1].count.sum() + y)
    with pytest.raises(RuntimeError, match="the count of a neuron .* is not carried in backward_through_time"):
        snnfast.backward_through_time(net, x, chunk=5)


def test_an_error_inside_leaves_states_as_they_were():
    class Breaks(nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            if self.calls == 3:
                raise KeyboardInterrupt
            return x

    net = nn.Sequential(nn.Linear(6, 4), snnfast.nn.LIF(2.0, 0.5, carry=True), Breaks())
    with pytest.raises(KeyboardInterrupt):
        snnfast.backward_through_time(net, torch.randn(20, 3, 6), chunk=5)
    assert net[1].state is None
    net = snnfast.models.plif_mnist(T=6)
    with pytest.raises(ValueError, match="is a batch norm that takes the statistics"):
        snnfast.backward_through_time(net, torch.rand(2, 1, 28, 28), chunk=2)
    assert not any(int(b) for name, b in net.named_buffers() if name.endswith("num_batches_tracked"))


def test_a_state_that_nobody_knows_is_found_when_a_chunk_runs_again(monkeypatch):
    net, x = Hidden(), torch.randn(20, 3, 6)
    with pytest.raises(ValueError, match="net takes steps together, or holds a state"):
        snnfast.backward_through_time(net, x, chunk=5)
    monkeypatch.setattr(through_time, "try_cuts", lambda run, x: None)  # as if it had passed
    y = snnfast.backward_through_time(net, x, chunk=5)
    with pytest.raises(RuntimeError, match="gave something else when they ran again"):
        y.sum().backward()


def test_networks_that_change_with_time():
    class Changing(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.calls = nn.Linear(6, 4), 0

        def forward(self, x):
            self.calls += 1
            x = self.a(x)
            for _ in range(2 if self.calls > 2 else 1):
                x = snnfast.iaf(x, 1.0)[0]
            return x

    with pytest.raises(ValueError, match="calls more neurons than the one before, 1"):
        snnfast.backward_through_time(Changing(), torch.randn(20, 3, 6), chunk=5)


def test_wrong_calls():
    net, x = layers(), torch.randn(13, 3, 6)
    run = snnfast.backward_through_time
    for wrong, said in [
        (lambda: run(len, x), "net must be a torch.nn.Module"),
        (lambda: run(net, 3.0), "x must be a torch.Tensor"),
        (lambda: run(net, x.long()), "x has dtype"),
        (lambda: run(net, x[:0]), "at least one step"),
        (lambda: run(net, x, chunk=0), "chunk must be >= 1, got 0"),
        (lambda: run(net, x, chunk=2.0), "chunk must be an int"),
        (lambda: run(net, x, chunk=2, states=0), "states must be >= 1"),
        (lambda: run(net, x[0], 0), "T must be >= 1"),
        (lambda: run(net, x, batch_norm="all"), "batch_norm must be one of 'refuse', 'chunk'"),
    ]:
        with pytest.raises((ValueError, TypeError), match=said):
            wrong()
    y = run(net, x.requires_grad_(), chunk=4)
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(y.sum(), x, create_graph=True)
    y = run(net, x, chunk=4)
    with torch.no_grad():
        net[0].weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_a_memory_with_a_graph_is_refused():
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    net, x = nn.Sequential(nn.Linear(6, 4), neuron.LIFNode(step_mode="m")), torch.randn(13, 3, 6)
    net(x)
    with pytest.raises(ValueError, match="a layer's memory has a graph from an earlier call"):
        snnfast.backward_through_time(net, x, chunk=4)

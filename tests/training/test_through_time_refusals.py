"""What `backward_through_time` cannot run in chunks is refused by name, before or when its second run shows it."""

import pytest
import torch
from torch import nn

import snnfast
from snnfast.models.direct import SharedDropout
from snnfast.training import through_time


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
])  # fmt: skip
def test_what_is_refused(net, said):
    x = torch.randn(20, 3, 6)
    with pytest.raises(ValueError, match=said):
        snnfast.backward_through_time(net, x, chunk=5)
    assert all(m.training for m in net.modules())


def test_a_state_that_nobody_knows_is_found_when_a_chunk_runs_again():
    net, x = Hidden(), torch.randn(20, 3, 6)
    with pytest.raises(ValueError, match="net takes steps together, or holds a state"):
        snnfast.backward_through_time(net, x, chunk=5)
    through_time._tried.add(net)  # as if it had passed
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
            for _ in range(2 if self.calls > 4 else 1):
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

"""Backpropagation through time in chunks is that of the whole run: outputs, gradients, what is left behind; and what cannot be is refused."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import snnfast
from snnfast.training import through_time

ROOT = Path(__file__).resolve().parents[2]


class Merged(nn.Sequential):
    """Layers on all steps at once, x [T, B, ...]."""

    def forward(self, x):
        return super().forward(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class Ops(nn.Module):
    """Neurons that are called as functions, one of them step by step, with learnt thresholds and start."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 4)
        self.theta, self.v0, self.w = (nn.Parameter(torch.tensor(value)) for value in (0.7, 0.2, 0.1))

    def forward(self, x):
        s, _ = snnfast.iaf(self.a(x), self.theta, self.v0.expand(8), negative="stbif", unit="volts", surrogate="atan")
        z, state, out = self.b(s), None, []
        for t in range(len(z)):
            one, state = snnfast.plif(2 * z[t : t + 1], self.theta / 2, self.w, state=state, surrogate="sigmoid")
            out.append(one)
        return torch.cat(out)


def layers():
    return nn.Sequential(
        nn.Linear(6, 8), snnfast.nn.LIF(2.0, 0.5, reset="hard", surrogate="atan"), nn.Linear(8, 8), snnfast.nn.PLIF(2.0, 0.0625, surrogate="atan"),
        nn.Linear(8, 4), snnfast.nn.IF(theta=0.5, negative="snm", memory=True, surrogate="atan"),
    )  # fmt: skip


def carried():
    return nn.Sequential(nn.Linear(6, 8), snnfast.nn.LIF(2.0, 0.5, carry=True, surrogate="atan"), nn.Linear(8, 4))


def convolutional():
    first = Merged(nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6))
    return nn.Sequential(
        first,
        snnfast.nn.LIF(2.0, 0.5, surrogate="atan"),
        Merged(nn.MaxPool2d(2), nn.Conv2d(6, 4, 3)),
        snnfast.nn.IF(theta=0.5, surrogate="atan"),
    )


def jelly(accelerated):
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    surrogate = sys.modules["spikingjelly.activation_based.surrogate"]
    of = dict(step_mode="m", surrogate_function=surrogate.ATan())
    net = nn.Sequential(
        nn.Linear(6, 8), neuron.LIFNode(v_threshold=0.5, **of), nn.Linear(8, 8), neuron.ParametricLIFNode(v_threshold=0.0625, **of), nn.Linear(8, 4),
        neuron.IFNode(v_threshold=0.5, v_reset=None, **of),
    )  # fmt: skip
    if accelerated:
        assert len(snnfast.accelerate(net).replaced) == 3
    return net


NETS = {
    "ops": Ops, "layers": layers, "carried": carried, "convolutional": convolutional, "jelly": lambda: jelly(False),
    "accelerated jelly": lambda: jelly(True),
}  # fmt: skip


def made(name, dtype):
    torch.manual_seed(3)
    net = NETS[name]().to(dtype).eval()
    x = 2 * torch.randn(13, 3, *((2, 6, 6) if name == "convolutional" else (6,)), dtype=dtype)
    return net, x


def alike(a, b):
    """But for rounding: some products of MKL give a row other bits in another batch."""
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    return True


def reset(net):
    for m in net.modules():
        if hasattr(m, "reset"):
            m.reset()


def gradients(net, x, run):
    """What `run(net, x)` gives, and the gradients of x and of all parameters of a loss that weighs every number of it differently."""
    reset(net)
    net.zero_grad()
    x = x.clone().requires_grad_()
    y = run(net, x)
    (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape) + y.square()).sum().backward()
    return y.detach(), x.grad, *(torch.zeros_like(p) if p.grad is None else p.grad for p in net.parameters())


@pytest.mark.parametrize("states", [None, 1, 2])
@pytest.mark.parametrize("chunk", [1, 5, 12, None])
@pytest.mark.parametrize("name", NETS)
def test_it_is_the_whole_run(name, chunk, states):
    net, x = made(name, torch.float64)
    whole = gradients(net, x, lambda net, x: net(x))
    found = gradients(net, x, lambda net, x: snnfast.backward_through_time(net, x, chunk=chunk, states=states))
    assert all(g.abs().max() > 0 for g in whole), [float(g.abs().max()) for g in whole]
    for a, b in zip(whole, found, strict=True):  # sums of products round in another order
        torch.testing.assert_close(b, a, rtol=1e-12, atol=1e-12 * float(a.abs().max()))


@pytest.mark.parametrize("name", ["ops", "layers", "convolutional", "jelly"])
def test_bits(name):
    """How many states are kept changes no bit of a gradient."""
    net, x = made(name, torch.float32)
    whole = gradients(net, x, lambda net, x: net(x))
    first, *others = (
        gradients(net, x, lambda net, x, states=states: snnfast.backward_through_time(net, x, chunk=4, states=states))
        for states in (None, 1, 3, 1)
    )
    assert alike(first[0], whole[0])
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


def test_gradients_of_x_are_the_whole_runs_bits():
    """Where every layer gives a row the same bits in any batch: here there is none but neurons."""
    torch.manual_seed(0)
    net = nn.Sequential(snnfast.nn.LIF(2.0, 0.5, surrogate="atan"), snnfast.nn.IF(theta=1.0, surrogate="atan"))
    x = torch.randn(300, 4, 50)
    whole = gradients(net, x, lambda net, x: net(x))
    for chunk in (1, 7, 64, 299):
        found = gradients(net, x, lambda net, x, chunk=chunk: snnfast.backward_through_time(net, x, chunk=chunk))
        assert torch.equal(found[0], whole[0]) and torch.equal(found[1], whole[1])


@pytest.mark.parametrize("name, options", [
    ("sew_resnet18", {}), ("ms_resnet18", {}), pytest.param("plif_cifar10", {}, marks=pytest.mark.thorough),
    ("csnn_cifar10", dict(channels=(4, 4, 4), hidden=8)),
    ("sdt", dict(depth=1, dim=16, heads=2)),
])  # fmt: skip
def test_networks_of_images(name, options):
    torch.manual_seed(0)
    size = 64 if name == "sdt" else 32
    net = getattr(snnfast.models, name)(T=6, num_classes=5, **options).double().eval()
    x = torch.rand(2, 3, size, size, dtype=torch.float64)
    for m in net.modules():  # neurons that fire
        if isinstance(m, nn.BatchNorm2d):
            nn.init.constant_(m.bias, 0.3)
    whole = gradients(net, x, lambda net, x: net.logits(x))
    found = gradients(net, x, lambda net, x: snnfast.backward_through_time(net, x, chunk=2))
    assert whole[1].abs().max() > 0
    for a, b in zip(whole, found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-11, atol=1e-11 * float(a.abs().max()) + 1e-300)


def test_frames():
    torch.manual_seed(0)
    net = snnfast.models.sew_cifar10dvs(num_classes=3).eval()
    x = torch.rand(1, 4, 2, 128, 128)
    with torch.no_grad():
        assert alike(snnfast.backward_through_time(net, x, chunk=2), net.logits(x))
    with pytest.raises(ValueError, match="T is the number of frames of x, 4; got T = 5"):
        snnfast.backward_through_time(net, x, 5)


def test_one_step_that_is_the_same_at_each():
    net, x = made("layers", torch.float64)
    whole = gradients(net, x[0], lambda net, x: net(x.expand(20, *x.shape)))
    for chunk in (3, 20):
        found = gradients(net, x[0], lambda net, x, chunk=chunk: snnfast.backward_through_time(net, x, 20, chunk=chunk))
        for a, b in zip(whole, found, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-12, atol=1e-12 * float(a.abs().max()))


def test_what_is_left_behind():
    """The network, its states, random numbers and x are as a whole run leaves them."""
    net, x = made("carried", torch.float64)
    before = {name: t.clone() for name, t in net.state_dict().items()}
    net.train()
    net(x)
    left = net[1].state
    reset(net)
    rng, given = torch.get_rng_state(), x.clone()
    y = snnfast.backward_through_time(net, x, chunk=4)
    assert alike(net[1].state.v, left.v) and torch.equal(net[1].state.count, left.count)
    y.sum().backward()
    assert alike(net[1].state.v, left.v) and torch.equal(torch.get_rng_state(), rng) and torch.equal(x, given)
    assert all(m.training for m in net.modules()) and all(torch.equal(before[name], t) for name, t in net.state_dict().items())
    # It goes on from where a call before stopped.
    reset(net)
    whole = net(torch.cat((x, x)))
    reset(net)
    halves = [snnfast.backward_through_time(net, x, chunk=4).detach() for _ in range(2)]
    assert alike(torch.cat(halves), whole)


def by_hand(net, x, chunk):
    """All chunks with one graph."""
    before, out = (None, []), []
    for part in x.split(chunk):
        with through_time.carried.carrying(through_time.carried.Tape(before[0])) as tape:
            out.append(net(part))
        before = (tape.after, [])
    return torch.cat(out)


def test_batch_norm_of_each_chunk():
    net, x = made("convolutional", torch.float64)
    net.train()
    with pytest.raises(ValueError, match=r"0\.1 is a batch norm that takes the statistics of its batch.*batch_norm='chunk'"):
        snnfast.backward_through_time(net, x, chunk=4)
    start = {name: t.clone() for name, t in net.state_dict().items()}
    expected, states = gradients(net, x, lambda net, x: by_hand(net, x, 4)), {name: t.clone() for name, t in net.state_dict().items()}
    for kept in (None, 1):
        net.load_state_dict(start)
        found = gradients(net, x, lambda net, x, kept=kept: snnfast.backward_through_time(net, x, chunk=4, states=kept, batch_norm="chunk"))
        assert all(torch.equal(states[name], t) for name, t in net.state_dict().items())  # counted once
        for a, b in zip(expected, found, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-12, atol=1e-12 * float(a.abs().max()))


def test_dropout_drops_the_same_when_a_chunk_runs_again(monkeypatch):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 32), nn.Dropout(0.5), snnfast.nn.LIF(2.0, 0.3), nn.Linear(32, 4)).double()
    x = torch.randn(12, 3, 6, dtype=torch.float64)
    monkeypatch.setattr(through_time, "try_cuts", lambda run, x: None)  # so that nothing is drawn before

    def seeded(run):
        torch.manual_seed(7)
        return gradients(net, x, run)

    expected = seeded(lambda net, x: by_hand(net, x, 4))
    for kept in (None, 1):
        for a, b in zip(
            expected, seeded(lambda net, x, kept=kept: snnfast.backward_through_time(net, x, chunk=4, states=kept)), strict=True
        ):
            torch.testing.assert_close(b, a, rtol=1e-12, atol=1e-12 * float(a.abs().max()))


def test_autocast():
    net, x = made("convolutional", torch.float32)
    run = dict(whole=lambda net, x: net(x), chunks=lambda net, x: snnfast.backward_through_time(net, x, chunk=4))
    found = {}
    for name, function in run.items():
        reset(net)
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            y = function(net, x)
        y.float().sum().backward()  # outside of autocast, as it is done
        found[name] = y.detach(), net[0][0].weight.grad.clone()
    assert found["whole"][0].dtype == found["chunks"][0].dtype and (found["whole"][0] != found["chunks"][0]).float().mean() < 0.01
    a, b = found["whole"][1], found["chunks"][1]
    # Each chunk's gradient is rounded to bf16, and without AVX-512 the library's own sums are: there both are 7 % from the gradient of fp32.
    assert (a - b).abs().max() <= 2**-6 * a.abs().max()


def test_fused_batch_norms_run_fused_in_chunks_too():
    """Networks whose batch norms wait for their neuron: outputs are those of the fused whole run."""
    torch.manual_seed(0)
    net = snnfast.models.csnn_cifar10((8, 8, 8), hidden=16, T=8).eval()
    x = torch.rand(2, 3, 32, 32)
    snnfast.accelerate(net, fuse=True)
    whole = gradients(net, x, lambda net, x: net.logits(x))
    found = gradients(net, x, lambda net, x: snnfast.backward_through_time(net, x, chunk=3))
    assert alike(whole[0], found[0])
    for a, b in zip(whole, found, strict=True):
        torch.testing.assert_close(b, a, rtol=0, atol=1e-4 * float(a.abs().max()))  # fp32 sums of 8 x 2 x 32 x 32 numbers in another order


class Shared(nn.Module):
    """Two parameters that get one gradient, and one whose gradient has no memory of its own; a time loop inside a call of its own."""

    def __init__(self):
        super().__init__()
        self.f, self.a, self.b, self.c = (
            nn.Linear(6, 5),
            nn.Parameter(torch.rand(5)),
            nn.Parameter(torch.rand(5)),
            nn.Parameter(torch.rand(3)),
        )
        self.inner = nn.Sequential(snnfast.nn.LIF(2.0, 0.5, surrogate="atan"), nn.Linear(5, 5))

    def forward(self, x):
        return snnfast.backward_through_time(self.inner, self.f(x) + (self.a + self.b), chunk=3) * self.c.sum()


def test_shared_gradients_hooks_and_calls_inside():
    torch.manual_seed(0)
    net, x = Shared().double(), torch.rand(12, 3, 6, dtype=torch.float64)
    net.f.weight.register_hook(lambda g: g / 2)
    whole = gradients(net, x, lambda net, x: net.inner(net.f(x) + (net.a + net.b)) * net.c.sum())
    for chunk in (4, 12):
        found = gradients(net, x, lambda net, x, chunk=chunk: snnfast.backward_through_time(net, x, chunk=chunk))
        for a, b in zip(whole, found, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-12, atol=1e-12 * float(a.abs().max()))


def test_weights_in_half_precision_sum_in_single():
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(6, 8), snnfast.nn.LIF(2.0, 0.25, surrogate="atan")).bfloat16(), torch.rand(1024, 2, 6).bfloat16()
    whole = gradients(net, x, lambda net, x: net(x))
    found = gradients(net, x, lambda net, x: snnfast.backward_through_time(net, x, chunk=1))
    for a, b in zip(whole[2:], found[2:], strict=True):
        assert (a - b).abs().max() <= 2**-6 * a.abs().max()  # each step's product is rounded to bf16


def test_without_gradients_no_state_is_kept(monkeypatch):
    net, x = made("layers", torch.float32)
    monkeypatch.setattr(through_time.States, "put", lambda *args: pytest.fail("a state was kept"))
    with torch.no_grad():
        assert alike(snnfast.backward_through_time(net, x, chunk=3), net(x))


PROGRAM = """
import resource, sys, torch, snnfast
torch.set_num_threads(1)
T = int(sys.argv[1])
net = snnfast.models.csnn_cifar10((16, 16, 16), hidden=16).eval()
x = torch.rand(2, 3, 32, 32)
def step(T):
    snnfast.backward_through_time(net, x, T, chunk=8, states=8).mean(0).square().sum().backward()
step(16)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
step(T)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_hardly_grows_with_T():
    """512 steps keep what 64 do and a few states: 8 of 0.5 MB; the whole run keeps 3 MB a step."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    few, many = (
        int(subprocess.run([sys.executable, "-c", PROGRAM, str(T)], env=env, capture_output=True, text=True, check=True).stdout)
        for T in (64, 512)
    )
    assert many - few < 40_000, (few, many)  # KiB; 448 more steps of a whole run are 1,300,000


def test_the_default_chunk(monkeypatch):
    seen = []

    class Watched(nn.Linear):
        def forward(self, x):
            seen.append(len(x))
            return super().forward(x)

    net = Watched(6, 4)
    monkeypatch.setattr(through_time, "try_cuts", lambda run, x: None)
    snnfast.backward_through_time(net, torch.randn(128, 1, 6))
    assert set(seen) == {round(math.sqrt(64))}

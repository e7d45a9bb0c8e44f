"""Batch norm and the neuron behind it: the definition step by step, the chain of torch's batch norm and the neuron, statistics, bad input."""

import numpy as np
import pytest
import torch
from conftest import threads
from torch.nn import functional as F

import snnfast
from snnfast.ops.channels import moments
from snnfast.ops.norm_neuron import affine, statistics

SHAPES = [(5, 3, 4, 6, 7), (6, 8, 16), (40, 2, 3, 33), (4, 2, 1, 8, 8)]
NEURONS = {
    "iaf": (lambda y, w, **how: snnfast.iaf(y, 1.0, v0=0.0, **how), lambda w: {}),
    "lif": (lambda y, w, **how: snnfast.lif(y, 1.0, 2.5, **how), lambda w: dict(tau=2.5)),
    "lif without its input": (
        lambda y, w, **how: snnfast.lif(y, 1.0, 2.5, decay_input=False, **how), lambda w: dict(tau=2.5, decay_input=False)
    ),
    "plif": (lambda y, w, **how: snnfast.plif(y, 1.0, w, **how), lambda w: dict(w=w)),
    "plif without its input": (
        lambda y, w, **how: snnfast.plif(y, 1.0, w, decay_input=False, **how), lambda w: dict(w=w, decay_input=False)
    ),
}  # fmt: skip
RESETS = [
    dict(reset="hard", surrogate="atan", detach_reset=True),
    dict(surrogate="sigmoid"),
    dict(reset="hard", v_reset=-0.25, surrogate="zif"),
]


def inputs(shape, dtype, channels_last=False):
    g = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(shape, generator=g, dtype=torch.float64).mul(2).add(1).to(dtype)
    if channels_last:
        x = x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, shape[:2])
    C = shape[2]
    return x, torch.rand(C, generator=g).to(dtype) + 0.5, torch.rand(C, generator=g).to(dtype), torch.tensor(0.3, dtype=dtype)


@pytest.mark.parametrize("reset", RESETS, ids=str)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("neuron", NEURONS)
def test_is_the_chain(neuron, training, reset):
    """Of torch's batch norm and the neuron, in fp64: spikes equal, values and gradients but for the order of sums."""
    chain, own = NEURONS[neuron]
    for shape in SHAPES:
        for channels_last in (False, True)[: 1 + (len(shape) == 5)]:
            found, g = [], torch.randn(shape, dtype=torch.float64)
            for ours in (True, False):
                x, weight, bias, w = (t.clone().requires_grad_() for t in inputs(shape, torch.float64, channels_last))
                running = torch.zeros(shape[2], dtype=torch.float64), torch.full((shape[2],), 2.0, dtype=torch.float64)
                if ours:
                    s, state = snnfast.norm_neuron(x, weight, bias, *running, training=training, **own(w), **reset)
                else:
                    y = F.batch_norm(x.flatten(0, 1), *running, weight, bias, training, 0.1, 1e-5).view_as(x)
                    s, state = chain(y, w, **reset)
                (s * g).sum().backward()
                found.append((s.detach(), state.v.detach(), *running, x.grad, weight.grad, bias.grad, w.grad))
            assert torch.equal(found[0][0], found[1][0]) and 0 < found[0][0].count_nonzero() < s.numel()
            for a, b in zip(*found):
                assert (a is None) == (b is None)
                assert a is None or torch.allclose(a, b, rtol=1e-9, atol=1e-9 * float(b.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("training", [True, False])
def test_definition(training, dtype):
    """scale and shift in fp64, rounded once; x scale + shift in fp32, a product and a sum: then the neuron, bit for bit."""
    for shape in SHAPES:
        x, weight, bias, _ = inputs(shape, dtype)
        weight, bias = weight.float(), bias.float()
        running = torch.randn(shape[2]), torch.rand(shape[2]) + 0.5
        if training:
            mean, var = moments(x.transpose(0, 2).reshape(shape[2], -1).flatten(), shape[2], x.numel() // shape[2])
        else:
            mean, var = (t.double() for t in running)
        scale, shift = (t.float().numpy() for t in affine(mean, (var + 1e-5).rsqrt(), weight, bias))
        at = (-1,) + (1,) * (len(shape) - 3)
        y = np.float32(np.float32(x.float().numpy() * scale.reshape(at)) + shift.reshape(at))
        s, state = snnfast.norm_neuron(x, weight, bias, *running, training=training, theta=0.75, spikes="int8")
        spikes, end = snnfast.iaf(torch.from_numpy(y), 0.75, v0=0.0, spikes="int8")
        assert torch.equal(s, spikes) and torch.equal(state.v, end.v) and torch.equal(state.count, end.count)


def test_statistics_and_their_gradient():
    x, weight, bias, _ = (t.requires_grad_() for t in inputs((3, 2, 4, 5), torch.float64))
    a, b = torch.randn(3, 2, 4, 5, dtype=torch.float64), torch.randn(4, dtype=torch.float64)

    def of(x, weight, bias):
        same, scale, shift, *_ = statistics(x, weight, bias, 1e-3)
        y = same * scale.view(4, 1) + shift.view(4, 1)
        return (y.sin() * a).sum(), (shift * b).sum()

    torch.autograd.gradcheck(lambda *t: of(*t)[0], (x, weight, bias), atol=1e-6)
    y = F.batch_norm(x.flatten(0, 1), None, None, weight, bias, True, 0.0, 1e-3).view_as(x)
    same, scale, shift, mean, var = statistics(x, weight, bias, 1e-3)
    assert torch.allclose(same * scale.view(4, 1) + shift.view(4, 1), y, rtol=0, atol=1e-13)
    assert torch.allclose(mean, x.mean((0, 1, 3))) and torch.allclose(var, x.var((0, 1, 3), unbiased=False))


@pytest.mark.parametrize("momentum", [0.1, 1.0, 0.0])
def test_running_statistics(momentum):
    x = torch.randn(4, 3, 5, 6) * 3 + 2
    ours, theirs = ((torch.full((5,), 0.5), torch.full((5,), 2.0)) for _ in range(2))
    snnfast.norm_neuron(x, None, None, *ours, training=True, momentum=momentum)
    F.batch_norm(x.flatten(0, 1), *theirs, None, None, True, momentum, 1e-5)
    for a, b in zip(ours, theirs):
        assert torch.allclose(a, b, rtol=1e-6)
    before = [t.clone() for t in ours]
    snnfast.norm_neuron(x, None, None, *ours)
    assert all(map(torch.equal, before, ours))


def test_chunks_threads_and_two_runs():
    x, weight, bias, _ = inputs((20, 3, 4, 9), torch.float32)
    running = torch.randn(4), torch.rand(4) + 0.5
    whole, end = snnfast.norm_neuron(x, weight, bias, *running, tau=2.0)
    a, state = snnfast.norm_neuron(x[:7], weight, bias, *running, tau=2.0)
    b, state = snnfast.norm_neuron(x[7:], weight, bias, *running, tau=2.0, state=state)
    assert torch.equal(torch.cat([a, b]), whole) and torch.equal(state.v, end.v)
    found = []
    for many in (1, 2, 3):
        leaf = x.clone().requires_grad_()
        with threads(many):
            s, _ = snnfast.norm_neuron(leaf, weight, bias, training=True, surrogate="atan")
            (s * torch.arange(9.0)).sum().backward()
        found.append((s.detach(), leaf.grad))
    assert all(torch.equal(p, q) for other in found[1:] for p, q in zip(found[0], other))


def test_only_x_is_kept():
    x, weight, bias, _ = (t.requires_grad_() for t in inputs((8, 2, 4, 16, 16), torch.float32))
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(t.untyped_storage().data_ptr(), t) is None or t, lambda t: t):
        snnfast.norm_neuron(x, weight, bias, training=True, tau=2.0)
    assert [t.numel() for t in kept.values() if t.numel() >= x[0].numel()] == [x.numel()]


def test_which_parameters_have_a_gradient():
    x, weight, bias, w = inputs((5, 2, 3, 4), torch.float64)
    theta = torch.tensor([0.5, 0.75, 1.0], dtype=torch.float64).view(3, 1).requires_grad_()
    w.requires_grad_()
    s, _ = snnfast.norm_neuron(x, weight, bias, training=True, theta=theta, w=w, surrogate="atan")
    s.sum().backward()
    y = F.batch_norm(x.flatten(0, 1), None, None, weight, bias, True).view_as(x)
    other, v = theta.detach().clone().requires_grad_(), w.detach().clone().requires_grad_()
    snnfast.plif(y, other, v, surrogate="atan")[0].sum().backward()
    assert torch.allclose(theta.grad, other.grad, rtol=1e-9) and torch.allclose(w.grad, v.grad, rtol=1e-9)


def test_grad_of_torch_func():
    x, *_ = inputs((5, 2, 3, 4), torch.float64)
    loss = lambda x: (snnfast.norm_neuron(x, training=True, surrogate="atan")[0] * torch.arange(4.0)).sum()
    leaf = x.clone().requires_grad_()
    loss(leaf).backward()
    # There sums over a channel are torch's, in another order.
    assert torch.allclose(torch.func.grad(loss)(x), leaf.grad, rtol=1e-12, atol=1e-14) and leaf.grad.any()


def test_compiled():
    x, weight, bias, _ = (t.requires_grad_() for t in inputs((5, 2, 3, 4), torch.float32))
    compiled = torch.compile(lambda *t: snnfast.norm_neuron(*t, training=True, tau=2.0)[0], fullgraph=True)
    assert torch.equal(compiled(x, weight, bias), snnfast.norm_neuron(x, weight, bias, training=True, tau=2.0)[0])


@pytest.mark.parametrize(
    "given, error, message",
    [
        (dict(x=torch.zeros(4, 3)), ValueError, r"x must be \[T, B, C, ...\] with time first and channels third, got shape \(4, 3\)"),
        (dict(weight=torch.ones(4)), ValueError, r"weight must be \[3\], a number for each channel"),
        (dict(weight=torch.ones(3, dtype=torch.int64)), TypeError, "weight has dtype int64"),
        (dict(running_mean=torch.zeros(3)), ValueError, "running_mean and running_var go together"),
        (dict(training=False), ValueError, "without training, x is normalised with running_mean and running_var, which are None"),
        (dict(training=1), TypeError, "training must be"),
        (dict(x=torch.zeros(1, 1, 3)), ValueError, "more than one number for each channel in training"),
        (dict(x=torch.zeros(4, 0, 3, 2)), ValueError, "more than one number for each channel in training"),
        (dict(eps=0.0), ValueError, "eps must be > 0"),
        (dict(momentum=1.5), ValueError, "momentum must be from 0 to 1, got 1.5"),
        (dict(tau=2.0, w=0.5), ValueError, "tau and w are both a leak"),
        (dict(tau=0.5), ValueError, "tau must be >= 1"),
        (dict(theta=-1.0), ValueError, "theta must be > 0"),
        (dict(w=torch.zeros(7)), ValueError, "w has shape"),
    ],
)
def test_refused(given, error, message):
    with pytest.raises(error, match=message):
        snnfast.norm_neuron(**{"x": torch.zeros(4, 2, 3, 2), "training": True, **given})


def test_twice_differentiated_is_refused():
    x = torch.randn(4, 2, 3, 2, requires_grad=True)
    s, _ = snnfast.norm_neuron(x, training=True)
    (dx,) = torch.autograd.grad(s.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once|once_differentiable|does not require grad"):
        dx.sum().backward()

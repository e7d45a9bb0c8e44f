"""torch.func's transforms of the ops give what backward() gives, image by image."""

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

import snnfast

X = torch.rand(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2
OPS = {
    "iaf": lambda z: snnfast.iaf(z, 0.7)[0],
    "iaf, atan, negative": lambda z: snnfast.iaf(z - 0.5, 0.7, surrogate="atan", negative="stbif")[0],
    "lif": lambda z: snnfast.lif(z, 2.0, 1.0)[0],
    "quanta": lambda z: snnfast.quanta(z, 0.2, m=4)[0],
    "plif": lambda z: snnfast.plif(z, 1.0, torch.tensor(0.3, dtype=z.dtype))[0],
    "qcfs": lambda z: snnfast.qcfs(z, 1.0, 4),
}


def weighted(op):
    return lambda z: (OPS[op](z) * torch.arange(float(z.numel()), dtype=z.dtype).view(z.shape)).sum()


def backward(f, x):
    x = x.clone().requires_grad_()
    f(x).backward()
    return x.grad


@pytest.mark.parametrize("op", OPS)
def test_grad_and_jacobian(op):
    assert torch.equal(torch.func.grad(weighted(op))(X), backward(weighted(op), X))
    jacobian = torch.func.jacrev(lambda z: OPS[op](z).sum(0))(X)
    assert torch.equal(jacobian, torch.autograd.functional.jacobian(lambda z: OPS[op](z).sum(0), X)) and jacobian.any()


@pytest.mark.parametrize("op", OPS)
def test_vmap_of_values_and_of_gradients(op):
    square = lambda z: OPS[op](z).pow(2).sum()
    assert torch.equal(torch.func.vmap(OPS[op], in_dims=1, out_dims=1)(X), OPS[op](X))
    assert torch.equal(torch.func.vmap(torch.func.grad(square), in_dims=1, out_dims=1)(X), backward(square, X))


def test_gradients_per_sample():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 4), snnfast.nn.CSQCFS(4, 8, 1.0), nn.Linear(4, 2)).double()
    parameters = {name: p.detach() for name, p in net.named_parameters()}
    loss = lambda p, x: torch.func.functional_call(net, p, (x[None],)).pow(2).sum()
    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, X)
    for i in range(len(X)):
        net.zero_grad()
        net(X[i : i + 1]).pow(2).sum().backward()
        for name, p in net.named_parameters():
            assert torch.allclose(found[name][i], p.grad, atol=1e-14)  # products of one row and of a batch round apart


def test_what_has_no_derivative_says_so():
    with pytest.raises(RuntimeError, match="are differentiable once"):
        torch.func.grad(lambda z: torch.func.grad(weighted("iaf"))(z).sum())(X)
    with pytest.raises(RuntimeError, match="no derivative in forward mode"):
        torch.func.hessian(weighted("iaf"))(X)


PRODUCTS = {
    "linear": (lambda x: snnfast.spike_linear(x, torch.arange(12.0).view(4, 3)), lambda x: x @ torch.arange(12.0).view(4, 3).T, (5, 3)),
    "conv": (
        lambda x: snnfast.spike_conv2d(x, torch.arange(18.0).view(2, 1, 3, 3)),
        lambda x: torch.nn.functional.conv2d(x, torch.arange(18.0).view(2, 1, 3, 3)), (2, 1, 4, 4),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_go_through_grad_and_vmap(name):
    own, torchs, shape = PRODUCTS[name]
    x = torch.arange(float(torch.Size(shape).numel())).view(shape)
    grads = [torch.func.grad(lambda x, f=f: f(x).square().sum())(x) for f in (own, torchs)]
    assert torch.equal(*grads) and torch.equal(torch.func.vmap(own)(x[None])[0], torchs(x))
    each = [torch.func.vmap(torch.func.grad(lambda x, f=f: f(x[None]).square().sum()))(x) for f in (own, torchs)]
    assert torch.equal(*each)


FORWARD = {
    "spike_linear": lambda x: snnfast.spike_linear(x, torch.ones(4, 3)),
    "spike_conv2d": lambda x: snnfast.spike_conv2d(x[None, None], torch.ones(2, 1, 1, 1)),
    "softmax_over_time": lambda x: snnfast.softmax_over_time(x)[0],
    "layer_norm_over_time": lambda x: snnfast.layer_norm_over_time(x, torch.ones(3), torch.zeros(3))[0],
    "cos_start": lambda x: snnfast.cos_start(x, 1.0),
}


@pytest.mark.parametrize("name", FORWARD)
def test_no_tangent_is_lost_without_a_word(name):
    x = torch.rand(5, 3)
    with pytest.raises(RuntimeError, match="take backward|take its value outside") as error:
        torch.func.jvp(FORWARD[name], (x,), (x,))
    assert "\n" not in str(error.value)
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="take backward|take its value outside"):
        FORWARD[name](forward_ad.make_dual(x, x))

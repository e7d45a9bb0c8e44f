"""Gradients through a converted network: values are those of any run, gradients those of a network written out by hand, and training works."""

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from transformers import NETS, images, network

import snnfast

torch.manual_seed(0)
X = torch.rand(4, 3, 10, 10)


def net(dtype=torch.float32, pool=nn.MaxPool2d):
    torch.manual_seed(1)
    layers = nn.Conv2d(3, 6, 3, padding=1), snnfast.nn.QCFS(8, 1.0), pool(2), nn.Conv2d(6, 6, 3), snnfast.nn.QCFS(8, 0.7)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(54, 5)).to(dtype)


WAYS = (
    {}, dict(method="srp", tau=3), dict(method="cos", rho=3), dict(method="stbif"), dict(method="snm"), dict(method="srp+stbif", tau=2),
    dict(method="quanta", m=4), dict(method="power", m=8), dict(method="group", m=4), dict(mode="differential"),
    dict(mode="differential", inputs="rate", input_steps=2), dict(inputs="poisson"), dict(maxpool="gated"), dict(maxpool="average"),
)  # fmt: skip


@pytest.mark.filterwarnings("ignore:T is too small")
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_values_are_those_of_any_run(way):
    snn = snnfast.convert(net(), **way)
    expected, steps = snn.logits(X, 6, at=[1, 4, 6]), snn.logits(X, 6)
    snn.requires_grad_()
    got = snn.logits(X, 6, at=[1, 4, 6])
    got.square().sum().backward()
    assert torch.equal(got, expected)
    assert torch.equal(snn.logits(X, 6), steps)
    assert torch.equal(snn(X, T=6), expected[-1])
    assert all(p.grad.isfinite().all() and p.grad.any() for p in snn.parameters())
    # Cut in time the states hand the gradient on: the same sum in another order.
    at_once = [p.grad.clone() for p in snn.parameters()]
    snn.zero_grad()
    snn.logits(X, 6, at=[1, 4, 6], chunk=2).square().sum().backward()
    for p, expected in zip(snn.parameters(), at_once):
        torch.testing.assert_close(p.grad, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:T is too small")
@pytest.mark.parametrize("name", [n for n in NETS if n != "mst"])
def test_transformers_in_mode_differential(name):
    ann = network(name)
    x = images(ann)
    snn = snnfast.convert(ann, mode="differential")
    with torch.no_grad():
        expected = snn(x, T=5)
    got = snn.requires_grad_()(x, T=5)
    got.square().sum().backward()
    assert torch.equal(got, expected)
    assert all(p.grad.isfinite().all() for p in snn.parameters() if p.grad is not None)
    assert sum(p.grad is not None and bool(p.grad.any()) for p in snn.parameters()) > 10


def test_gradients_are_those_of_a_network_written_by_hand():
    ann = net(torch.float64, nn.AvgPool2d)
    x, T = X.double().requires_grad_(), 5
    snn = snnfast.convert(ann).requires_grad_()
    for _, neuron in snn.neurons():
        neuron.theta.requires_grad_()
    snn(x, T=T).square().sum().backward()
    thetas = [n.theta for _, n in snn.neurons()]
    found = [x.grad.clone(), *(p.grad.clone() for p in (*snn.parameters(), *thetas))]

    by_hand = [p.detach().clone().requires_grad_() for p in (x, *snn.parameters(), *thetas)]
    image, w1, b1, w2, b2, w3, b3, th1, th2 = by_hand
    state, total = [None, None], 0
    for _ in range(T):  # one step after the other
        s, state[0] = snnfast.iaf(F.conv2d(image, w1, b1, padding=1)[None], th1, state=state[0])
        s, state[1] = snnfast.iaf(F.conv2d(F.avg_pool2d(s[0], 2), w2, b2)[None], th2, state=state[1])
        total = total + F.linear(s[0].flatten(1), w3, b3)
    (total / T).square().sum().backward()
    for got, tensor in zip(found, by_hand):
        torch.testing.assert_close(got, tensor.grad, rtol=1e-10, atol=1e-10)


def test_a_function_over_time_by_hand():
    """Layer norm of a running sum: the kernel's value, torch's gradient."""
    torch.manual_seed(2)
    ann = nn.Sequential(nn.Linear(6, 8), snnfast.nn.QCFS(4, 1.0), nn.LayerNorm(8), nn.Linear(8, 3)).double()
    x, T = torch.randn(5, 6, dtype=torch.float64), 6
    snn = snnfast.convert(ann, mode="differential").requires_grad_()
    snn(x, T=T).square().sum().backward()
    ((_, neuron),) = snn.neurons()
    hand = [p.detach().clone().requires_grad_() for i in (0, 2, 3) for p in ann[i].parameters()]
    w1, b1, gain, shift, w2, b2 = hand
    current = torch.stack([F.linear(x, w1, b1), *[torch.zeros(5, 8, dtype=torch.float64)] * (T - 1)])
    s, _ = neuron.fire(current)
    # Changes of the norm sum to the norm of all spikes.
    F.linear(F.layer_norm(s.sum(0), (8,), gain, shift, 1e-5), w2, b2).square().sum().backward()
    named = dict(snn.named_parameters())
    norm = next(name.rpartition(".")[0] for name in named if not name.startswith(("gm.0.", "gm.3.")))
    found = [named[f"{name}.{kind}"] for name in ("gm.0", norm, "gm.3") for kind in ("weight", "bias")]
    for got, tensor in zip(found, hand):
        torch.testing.assert_close(got.grad, tensor.grad, rtol=1e-9, atol=1e-10)


def test_fine_tuning_gains_accuracy_at_few_steps_and_can_be_saved(tmp_path):
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    x, y = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)
    torch.manual_seed(3)
    ann = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 10))
    optimiser = torch.optim.Adam(ann.parameters(), 3e-3)
    for _ in range(150):
        optimiser.zero_grad()
        F.cross_entropy(ann(x[:1200]), y[:1200]).backward()
        optimiser.step()
    before = {k: v.clone() for k, v in ann.state_dict().items()}
    snn = snnfast.convert(ann, calibrate=x[:1200], percentile=100.0)
    test = [(x[1200:], y[1200:])]
    converted = snnfast.evaluate(snn, test, T=1).accuracy[-1]
    optimiser = torch.optim.Adam(snn.requires_grad_().train().parameters(), 1e-3)
    for _ in range(60):
        optimiser.zero_grad()
        F.cross_entropy(snn(x[:1200], T=1), y[:1200]).backward()
        optimiser.step()
    tuned = snnfast.evaluate(snn, test, T=1).accuracy[-1]
    assert tuned > converted + 10, (converted, tuned)  # 20 to 40 with other seeds; at T = 2 it was 2 to 5
    assert all(torch.equal(before[k], v) for k, v in ann.state_dict().items())
    snnfast.save_checkpoint(tmp_path / "tuned.pt", snn)
    assert torch.equal(snnfast.load_checkpoint(tmp_path / "tuned.pt")(x[:5], T=2), snn(x[:5], T=2))


def test_training_leaves_layers_in_evaluation():
    ann = nn.Sequential(nn.Conv2d(3, 4, 3), snnfast.nn.QCFS(4, 1.0), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3), nn.Flatten(), nn.Linear(72, 3))
    ann(X)  # running statistics
    snn = snnfast.convert(ann.eval())
    expected = snn(X, T=3)
    state = {k: v.clone() for k, v in snn.state_dict().items()}
    assert torch.equal(snn.train().requires_grad_()(X, T=3), expected)
    assert snn.training
    assert all(torch.equal(state[k], v) for k, v in snn.state_dict().items())


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.a, self.b = nn.Sequential(nn.Linear(4, 8), snnfast.nn.QCFS(4, 1.0)), nn.Linear(8, 2), nn.Linear(8, 3)

    def forward(self, x):
        h = self.body(x)
        return {"a": self.a(h), "b": self.b(h)}


def test_several_outputs_each_with_its_gradient():
    x = torch.randn(3, 4)
    snn = snnfast.convert(Heads(), sample=x[:1]).requires_grad_()
    snn(x, T=4)["a"].sum().backward()
    grads = {name: p.grad for name, p in snn.named_parameters()}
    assert any(g is not None and g.any() for name, g in grads.items() if "body" in name)
    assert all(g is None or not g.any() for name, g in grads.items() if name.rpartition(".")[0].endswith("b"))


def test_what_has_no_gradient_is_refused_by_name():
    snn = snnfast.convert(net())
    for call in (lambda: list(snn.chunks(X, 3)), lambda: list(snn.means(X, 3, [3])), lambda: list(snn.run(X, 3))):
        call()
    snn.requires_grad_()
    for call in (lambda: list(snn.chunks(X, 3)), lambda: list(snn.means(X, 3, [3])), lambda: list(snn.run(X, 3))):
        with pytest.raises(
            ValueError, match=r"requires a gradient, which does not go through chunks of a run: call it under torch.no_grad\(\)"
        ):
            call()
    with torch.no_grad():
        list(snn.chunks(X, 3))
    assert snnfast.diagnose(snn, X, T=2).rows
    with pytest.raises(ValueError, match="x requires a gradient, and Poisson spikes have none"):
        snnfast.convert(net(), inputs="poisson")(X.clone().requires_grad_(), T=2)


def test_a_threshold_that_training_made_negative_is_refused_by_name():
    snn = snnfast.convert(net())
    name, neuron = snn.neurons()[1]
    neuron.theta.requires_grad_()
    optimiser = torch.optim.SGD([neuron.theta], 1e6)
    snn(X, T=3).sum().abs().backward()
    assert neuron.theta.grad.any()
    with torch.no_grad():
        neuron.theta.sub_(5)
    for call in (lambda: snn(X, T=3), lambda: snnfast.evaluate(snn, [(X, torch.zeros(4, dtype=torch.long))], T=2)):
        with pytest.raises(ValueError, match=f"threshold of {name} must be > 0"):
            call()
    del optimiser


def test_what_no_gradient_goes_through_is_told_as_any_run_tells_it():
    snn = snnfast.convert(net()).requires_grad_()
    with pytest.raises(ValueError, match=r"x of shape \(4, 3, 13, 13\) does not pass through the network"):
        snn(torch.rand(4, 3, 13, 13), T=2)
    bad = X.clone()
    bad[0, 0, 0, 0] = float("nan")
    with pytest.warns(UserWarning, match="currents were NaN or infinite in 1"):
        snn(bad, T=2)
    snn = snnfast.convert(net(), "cos", rho=3, parity=True)
    snn.neurons()[0][1].theta.requires_grad_()
    with pytest.raises(ValueError, match="parity=True holds it as a number"):
        snn(X, T=4)


def _dual(run):
    with forward_ad.dual_level():
        return run(forward_ad.make_dual(X, X))


WRAPPED = {
    "grad": (lambda run: torch.func.grad(lambda x: run(x).sum())(X), "does not go through torch.func"),
    "jvp": (lambda run: torch.func.jvp(run, (X,), (X,)), "does not go through torch.func"),
    "jacfwd": (lambda run: torch.func.jacfwd(run)(X[:1]), "does not go through torch.func"),
    "vmap": (lambda run: torch.func.vmap(lambda x: run(x[None]))(X), "does not go through torch.func"),
    "dual numbers": (lambda run: _dual(run), "has no derivative in forward mode"),
}  # fmt: skip


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("name", WRAPPED)
def test_transforms_and_tracers_are_refused_in_one_line(name, frozen):
    """Their values have no memory that a kernel could read: a run would crash, or lose the tangent without a word."""
    snn, (wrapped, message) = snnfast.convert(net()).requires_grad_(not frozen), WRAPPED[name]
    with pytest.raises(RuntimeError, match=f"a converted network {message}") as error:
        wrapped(lambda x: snn(x, T=2))
    assert "\n" not in str(error.value)
    for trace in (
        lambda: torch.jit.trace(snnfast.convert(net()), X),
        lambda: torch.export.export(snn, (X,), kwargs=dict(T=2), strict=False),
    ):
        with pytest.raises(RuntimeError, match="cannot be traced"):
            trace()


@pytest.mark.parametrize("transform", ["grad", "jvp"])
def test_inside_of_another_derivative_it_is_refused(transform):
    """What is computed there is wrapped, even of plain images: kernels would read memory that is not there."""
    snn, w = snnfast.convert(net()), torch.ones(2)
    with pytest.raises(RuntimeError, match="does not run inside of torch.func.grad"):
        if transform == "grad":
            torch.func.grad(lambda w: (w * snn(X, T=2).sum()).sum())(w)
        else:
            torch.func.jvp(lambda w: w * snn(X, T=2).sum(), (w,), (w,))
    assert torch.equal(torch.func.vmap(lambda w: w * snn(X, T=2).sum())(w), w * snn(X, T=2).sum())

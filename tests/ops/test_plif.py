"""The learnt leak: a scalar loop and autograd's gradients, written from the definition (Fang et al., ICCV 2021), and what the op promises beside."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import snnfast
from snnfast import nn
from snnfast.ops.layout import layout_of, together
from snnfast.ops.plif import rho_of

F = np.float32
ROOT = Path(__file__).parents[2]
FORMS = [(True, True), (False, True), (False, False)]


def scalar_plif(x, theta, rho, v0, decay_input, product, hard):
    """One neuron in Python floats rounded to fp32, in the definition's order of operations."""
    theta, rho, r = F(theta), F(rho), F(0 if hard is None else hard)
    v, out = F(v0) * theta, []
    for xt in map(F, x):
        if decay_input:
            v = F(v + F(F(xt - F(v - r)) * rho))
        elif product:
            v = F(F(v * F(F(1) - rho)) + xt)
        else:
            v = F(F(v - F(F(v - r) * rho)) + xt)
        s = v >= theta
        out.append(int(s))
        if s:
            v = F(v - theta) if hard is None else F(hard)
    return out, v


@pytest.mark.parametrize("hard", [None, 0.0, -0.25])
@pytest.mark.parametrize("decay_input, product", FORMS)
def test_scalar(decay_input, product, hard):
    if product and not decay_input and hard:
        product = False  # v (1 - rho) + x is for a reset to 0
    x = torch.randn(40, 60) * 1.5 + 0.7
    reset = dict(reset="soft") if hard is None else dict(reset="hard", v_reset=hard)
    for w, theta in ((torch.tensor(0.3), 0.75), (torch.tensor(-2.0), 0.21432)):
        s, state = snnfast.plif(x, theta, w, 0.3, decay_input=decay_input, product=product, spikes="int8", **reset)
        for i in range(x.size(1)):
            spikes, v = scalar_plif(x[:, i].numpy(), theta, torch.sigmoid(w).item(), 0.3, decay_input, product, hard)
            assert s[:, i].tolist() == spikes and state.v[i].item() == v
    assert 0 < int(s.sum()) < s.numel()


class Spike(torch.autograd.Function):
    """[a >= 0], whose derivative is ATan's, as SpikingJelly defines it with alpha = 2."""

    @staticmethod
    def forward(ctx, a):
        ctx.save_for_backward(a)
        return (a >= 0).to(a.dtype)

    @staticmethod
    def backward(ctx, g):
        (a,) = ctx.saved_tensors
        return g / (1 + (torch.pi * a) ** 2)


def loop(x, theta, w, decay_input, product, hard, detach):
    """The definition under autograd."""
    rho, v, out = torch.sigmoid(w), 0.3 * theta, []
    for xt in x:
        above = v if hard is None else v - hard
        if decay_input:
            v = v + (xt - above) * rho
        elif product:
            v = v * (1 - rho) + xt
        else:
            v = v - above * rho + xt
        s = Spike.apply(v - theta)
        out.append(s * theta)
        back = s.detach() if detach else s
        v = v - back * theta if hard is None else (1 - back) * v + back * hard
    return torch.stack(out)


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("hard", [None, 0.0, -0.25])
@pytest.mark.parametrize("decay_input, product", FORMS)
def test_gradients(decay_input, product, hard, detach):
    """fp64: the same derivatives, in another order of sums."""
    if product and not decay_input and hard:
        product = False
    g = torch.Generator().manual_seed(0)
    rand = lambda *shape: torch.rand(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    x, dy = rand(150, 2, 3, 4) * 3 - 1, rand(150, 2, 3, 4)
    reset = dict(reset="soft") if hard is None else dict(reset="hard", v_reset=hard)
    # One number for the layer; a channel's; a neuron's; and one of each kind, whose patterns differ.
    for of_theta, of_w in (((), ()), ((3, 1), (3, 1)), ((3, 1), ()), ((), (2, 3, 4)), ((3, 1), (4,))):
        grads = []
        for ours in (True, False):
            leaves = [t.clone().requires_grad_() for t in (x, 0.5 + torch.ones(of_theta, dtype=torch.float64) * 0.25, torch.linspace(
                -1, 1, max(1, torch.Size(of_w).numel()), dtype=torch.float64).reshape(of_w))]  # fmt: skip
            if ours:
                how = dict(decay_input=decay_input, product=product, surrogate="atan", detach_reset=detach, **reset)
                y, _ = snnfast.plif(*leaves, 0.3, **how)
            else:
                y = loop(*leaves, decay_input, product, hard, detach)
            (y * dy).sum().backward()
            grads.append([y.detach(), *(leaf.grad for leaf in leaves)])
        for a, b in zip(*grads, strict=True):
            assert a.shape == b.shape and torch.allclose(a, b, rtol=1e-9, atol=1e-9 * float(b.abs().max()))
        assert grads[0][3].abs().min() > 0


def test_chunks_threads_and_forms_of_the_output():
    x, w = torch.randn(60, 5, 40) * 1.5 + 0.7, torch.randn(5, 1)
    whole, end = snnfast.plif(x, 0.8, w, reset="hard")
    a, state = snnfast.plif(x[:7], 0.8, w, reset="hard")
    b, state = snnfast.plif(x[7:], 0.8, w, state=state, reset="hard")
    assert torch.equal(torch.cat([a, b]), whole) and torch.equal(state.v, end.v) and torch.equal(state.count, end.count)
    many = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert torch.equal(snnfast.plif(x, 0.8, w, reset="hard")[0], whole)
    finally:
        torch.set_num_threads(many)
    unit = snnfast.plif(x, 0.8, w, reset="hard", spikes="unit")[0]
    assert torch.equal(unit * 0.8, whole) and torch.equal(snnfast.plif(x, 0.8, w, reset="hard", spikes="count")[0], unit.sum(0).int())
    # A channels_last step, and a number for w, which is one for all.
    y = torch.randn(9, 2, 3, 4, 5).transpose(2, 4)
    assert torch.equal(snnfast.plif(y, 1.0, 0.5)[0], snnfast.plif(y.contiguous(), 1.0, 0.5)[0])
    assert abs(rho_of(0.5) - torch.sigmoid(torch.tensor(0.5, dtype=torch.float64)).item()) < 1e-15 and 0 < rho_of(-700.0) < 1e-300


def test_lif_is_its_neighbour():
    """tau = 2 is w = 0, where dividing by tau and multiplying by 1/tau are the same."""
    x = torch.randn(60, 200) * 1.5 + 0.7
    for form in FORMS:
        how = dict(decay_input=form[0], product=form[1])
        assert torch.equal(snnfast.plif(x, 0.8, 0.0, **how)[1].v, snnfast.lif(x, 0.8, 2.0, **how)[1].v)


def test_parameters_of_different_patterns_meet():
    layout = layout_of(torch.zeros(2, 3, 4))
    th, inner = together(dict(theta=1.5, rho=0.25), torch.zeros(1, 2, 3, 4), layout)
    assert th.tolist() == [[1.5], [0.25]] and inner == 1
    th, inner = together(dict(theta=1.5, rho=torch.arange(3.0).view(3, 1) + 1), torch.zeros(1, 2, 3, 4), layout)
    assert th.tolist() == [[1.5] * 3, [1.0, 2.0, 3.0]] and inner == 4
    th, inner = together(dict(theta=torch.arange(4.0) + 1, rho=torch.arange(3.0).view(3, 1)), torch.zeros(1, 2, 3, 4), layout)
    assert inner == 1 and torch.equal(th[0].view(2, 3, 4), (torch.arange(4.0) + 1).expand(2, 3, 4))
    assert torch.equal(th[1].view(2, 3, 4), torch.arange(3.0).view(3, 1).expand(2, 3, 4))


def test_layer():
    x = torch.randn(9, 3, 4) + 0.5
    layer = nn.PLIF(init_tau=1.7, theta=0.6, decay_input=False, carry=True, surrogate="atan")
    assert torch.equal(torch.cat([layer(x[:4]), layer(x[4:])]), snnfast.plif(x, 0.6, layer.w, decay_input=False)[0])
    assert abs(1 / torch.sigmoid(layer.w).item() - 1.7) < 1e-6
    layer.reset()
    layer(x).sum().backward()
    assert layer.w.grad.shape == () and layer.w.grad != 0
    # Learnt: a step along the gradient raises the sum that it is the gradient of.
    fresh = nn.PLIF(init_tau=3.0, theta=0.6, surrogate="sigmoid")
    optimiser = torch.optim.Adam(fresh.parameters(), lr=0.05)
    rates = []
    for _ in range(30):
        optimiser.zero_grad()
        rate = fresh(x).mean()
        (rate - 0.25).square().backward()
        optimiser.step()
        rates.append(rate.item())
    assert abs(rates[-1] - 0.25) < abs(rates[0] - 0.25)
    many = nn.PLIF(theta=torch.tensor([0.5, 0.6, 0.7]), channelwise=True)
    many.w = torch.nn.Parameter(torch.tensor([0.0, 1.0, -1.0]).view(3, 1))
    y = torch.randn(9, 2, 3, 4)
    assert torch.equal(many(y)[:, :, 1], snnfast.plif(y[:, :, 1], 0.6, 1.0)[0])


def test_compiled_and_scripted_by_fakes():
    x, w = torch.randn(9, 30), torch.zeros((), requires_grad=True)
    torch.library.opcheck(
        torch.ops.snnfast.plif_fwd.default,
        (
            x,
            torch.rand(2, 30) * 0.5 + 0.3,
            None,
            None,
            None,
            9,
            1,
            0.5,
            0,
            0,
            snnfast.ops.plif.OPS.eq.numbers.pack(snnfast.ops.plif.rule_of()),
        ),
    )
    compiled = torch.compile(lambda x, w: snnfast.plif(x, 1.0, w)[0], fullgraph=True)
    assert torch.equal(compiled(x, w), snnfast.plif(x, 1.0, w)[0])


@pytest.mark.parametrize(
    "given, error, message",
    [
        (dict(w=float("nan")), ValueError, "w must be finite"),
        (dict(w=torch.zeros(7)), ValueError, r"w has shape \(7,\), which does not broadcast over one step of shape \(4,\)"),
        (dict(w=torch.zeros(4, dtype=torch.int64)), TypeError, "w"),
        (dict(w=-1000.0), ValueError, "w must be >= -700"),
        (dict(w="2"), TypeError, "w must be a number"),
        (dict(theta=-1.0), ValueError, "theta must be > 0"),
        (dict(reset="gentle"), ValueError, "reset must be one of"),
    ],
)
def test_refused(given, error, message):
    with pytest.raises(error, match=message):
        snnfast.plif(torch.zeros(3, 4), **given)


def test_refused_layers():
    with pytest.raises(ValueError, match="init_tau must be > 1 time step, got 1.0"):
        nn.PLIF(init_tau=1.0)
    with pytest.raises(TypeError, match="PLIF got unexpected options: negative"):
        nn.PLIF(negative="snm")


def test_four_files_and_two_rows():
    """What a neuron with an op of its own takes: the engines of every column do not know its name."""
    own = {"snnfast/equations/neurons/plif.py", "snnfast/ops/plif.py", "csrc/equations/neurons/plif.h", "csrc/ops/plif.cpp"}
    shown = {
        "snnfast/__init__.py",
        "snnfast/nn/neurons.py",
        "snnfast/nn/__init__.py",
        "snnfast/nn/deferred.py",
    }  # where users meet it
    files = [p for folder in ("snnfast", "csrc") for p in (ROOT / folder).rglob("*") if p.suffix in (".py", ".h", ".cpp", ".cu", ".cmake")]
    shown.add("snnfast/ops/python_neuron.py")  # names it as an example
    shown |= {"snnfast/interop/spikingjelly_former.py", "snnfast/interop/nir_neurons.py"}
    # Batch norm and the neuron behind it may have its leak: the equation takes its functions.
    shown |= {"snnfast/equations/neurons/norm_neuron.py", "snnfast/ops/norm_neuron.py", "csrc/equations/neurons/norm_neuron.h"}
    # Networks of its authors, which a neuron does not need, are in models; files, citations, recipes and losses of networks name them.
    of_networks = {"checkpoints/direct.py", "reports/citations.py", "training/direct_recipes.py", "training/losses.py"}
    files = [
        p
        for p in files
        if p.parent != ROOT / "snnfast/models" and str(p.relative_to(ROOT / p.relative_to(ROOT).parts[0])) not in of_networks
    ]
    found = {str(p.relative_to(ROOT)) for p in files if re.search(r"plif", p.read_text(), re.I)}
    assert found == own | shown | {"csrc/ops/table.h"}
    assert len(re.findall(r"plif", (ROOT / "csrc/ops/table.h").read_text())) == 2

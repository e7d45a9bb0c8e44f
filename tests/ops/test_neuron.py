"""A neuron written once in Python: the example of docs/ops.md runs on the reference and on Triton, has its gradient, converts and evaluates."""

import copy
import importlib
import pickle
import re
import sys
from pathlib import Path

import cases
import pytest
import torch
from conftest import DEVICE

import snnfast
from snnfast.engines.form import EVERY, SPIKES

PAGE = (Path(__file__).parents[2] / "docs/ops.md").read_text()


def module(folder, name, text):
    """The module `name` with this text, imported from a file."""
    (folder / f"{name}.py").write_text(text)
    sys.path.insert(0, str(folder))
    try:
        importlib.invalidate_caches()
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def lif(tmp_path_factory):
    (text,) = [block for block in re.findall(r"```python\n(.*?)```", PAGE, re.S) if "def step(" in block]
    assert len(text.strip().splitlines()) <= 20
    return snnfast.neuron(module(tmp_path_factory.mktemp("neuron"), "lif", text))


def loop(x, theta, decay, v0=0.5, width=1.0):
    """What the example says, as a loop with torch's autograd and the rectangle for the derivative of the spike."""
    v, out = v0 * theta, []
    for t in range(x.size(0)):
        u = v * decay + x[t]
        s = Rectangle.apply(u - theta, width)
        v = u - s * theta
        out.append(s * theta)
    return torch.stack(out), v


class Rectangle(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, width):
        ctx.save_for_backward(a)
        ctx.width = width
        return (a >= 0).to(a.dtype)

    @staticmethod
    def backward(ctx, g):
        return g * (ctx.saved_tensors[0].abs() < ctx.width) * (0.5 / ctx.width), None


def test_equals_the_loop(lif):
    x, theta = torch.randn(20, 3, 7) + 0.3, torch.rand(3, 1) + 0.5
    s, state = lif(x, theta, decay=0.75)
    expected, v = loop(x, theta, 0.75)
    assert torch.equal(s, expected) and torch.equal(state.v, v) and torch.equal(state.count, (expected / theta).round().sum(0).int())
    a, carried = lif(x[:9], theta, decay=0.75)
    b, end = lif(x[9:], theta, decay=0.75, state=carried)
    assert torch.equal(torch.cat((a, b)), s) and torch.equal(end.v, state.v)


def test_gradients(lif):
    x = (torch.randn(20, 40, dtype=torch.float64) + 0.3).requires_grad_()
    theta = (torch.rand(40, dtype=torch.float64) + 0.5).requires_grad_()
    v0 = torch.full((40,), 0.4, dtype=torch.float64, requires_grad=True)
    ds = torch.randn(20, 40, dtype=torch.float64)

    def gradients(s):
        for p in (x, theta, v0):
            p.grad = None
        (s * ds).sum().backward()
        return [p.grad.clone() for p in (x, theta, v0)]

    # The same sums in another order: fp64 rounding.
    for a, b in zip(gradients(lif(x, theta, v0, decay=0.75, width=0.7)[0]), gradients(loop(x, theta, 0.75, v0, 0.7)[0])):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp64"])
@pytest.mark.parametrize("every", [0, EVERY])
def test_triton_equals_the_reference(lif, dtype, every):
    from snnfast.engines.triton import launch

    column = launch.multistep_of(sys.modules["lif"])
    T, N = 21, 70
    x, theta = (torch.randn(T, N) + 0.3).to(cases.DTYPES[dtype]).to(DEVICE), (torch.rand(N) + 0.5).to(DEVICE)
    theta = theta.double() if dtype == "fp64" else theta
    neuron, rule = (x, theta, None, None, torch.rand(N, device=DEVICE) < 0.8), [0.75, 1.3]
    for spikes in SPIKES:
        expected = lif.ops.reference_fwd(*neuron, T, 1, 0.4, SPIKES.index(spikes), every, rule)
        cases.assert_same(column.fwd(*neuron, T, 1, 0.4, SPIKES.index(spikes), every, rule), expected, spikes)
    kept = lif.ops.reference_fwd(*neuron, T, 1, 0.4, 0, every, rule)[3]
    backward = (torch.randn_like(x), None, *neuron, kept, T, 1, 0.4, rule)
    cases.assert_same(column.bwd(*backward), lif.ops.reference_bwd(*backward), "backward")


def test_layer(lif):
    layer = snnfast.nn.IF(theta=0.8, neuron=lif, decay=0.75, carry=True)
    x = torch.randn(12, 5)
    assert torch.equal(torch.cat((layer(x[:5]), layer(x[5:]))), loop(x, torch.tensor(0.8), 0.75)[0])
    assert "lif" in repr(layer) and pickle.loads(pickle.dumps(layer)).neuron is lif and copy.deepcopy(layer).neuron is lif
    with pytest.raises(TypeError, match="unexpected options: leak"):
        snnfast.nn.IF(theta=0.8, neuron=lif, leak=1.0)
    with pytest.raises(TypeError, match="decay must be a number, got str"):
        snnfast.nn.IF(theta=0.8, neuron=lif, decay="much")


def test_converts_and_evaluates(lif, tiny):
    """Without a leak it is the built-in neuron: the same logits at every step, and a report."""
    net, x = tiny
    ours, built_in = snnfast.convert(net, neuron=lif, decay=1.0), snnfast.convert(net)
    assert torch.equal(ours.logits(x, T=40, chunk=7), built_in.logits(x, T=40))
    assert not torch.equal(snnfast.convert(net, neuron=lif, decay=0.5).logits(x, T=40), built_in.logits(x, T=40))
    report = snnfast.evaluate(ours, [(x, torch.zeros(len(x), dtype=torch.long))], T=8)
    assert report.at == [1, 2, 4, 8] and report.images == len(x)


def test_opcheck_and_compile(lif):
    x, theta = torch.randn(5, 6, requires_grad=True), torch.rand(6) + 0.5
    torch.library.opcheck(lif.ops.fwd, (x, theta, None, None, None, 5, 1, 0.5, 0, 0, [0.9, 1.0]))
    compiled = torch.compile(lambda x: lif(x, theta, decay=0.75)[0], fullgraph=True)
    assert torch.equal(compiled(x), lif(x, theta, decay=0.75)[0])


CAPPED = """
from typing import NamedTuple
class Rule(NamedTuple):
    most: float = 5.0
def room(n, k):
    return n < k.most
def step(v, n, x, theta, k):
    u = v + x
    s = where((u >= theta) & room(n, k), 1.0, 0.0)
    return u - s * theta, n + s, s
def step_bwd(c, dy, v, n, x, theta, k):
    s = where((v + x >= theta) & room(n, k), 1.0, 0.0)
    return c, c, (dy - c) * s
"""


def test_the_count_reaches_every_segment_of_the_backward(tmp_path):
    """A neuron that stops after `most` spikes: dtheta = most, also where the backward takes several segments of 16 steps."""
    from snnfast.engines.triton import launch

    capped = snnfast.neuron(module(tmp_path, "capped", CAPPED))
    x, theta = torch.ones(40, 3), torch.ones(3, requires_grad=True)
    capped(x, theta, most=2.0)[0].sum().backward()
    assert theta.grad.tolist() == [2.0, 2.0, 2.0]
    column, ones = launch.multistep_of(sys.modules["capped"]), torch.ones(3, device=DEVICE)
    start = torch.zeros(3, device=DEVICE), torch.ones(3, dtype=torch.int32, device=DEVICE)
    for every in (0, EVERY):
        neuron = (x.to(DEVICE), ones, *start, None, 40, 1, 0.5)
        kept = column.fwd(*neuron, 0, every, [2.0])[3]
        backward = (x.to(DEVICE), None, *neuron[:5], kept, *neuron[5:], [2.0])
        cases.assert_same(column.bwd(*backward), capped.ops.reference_bwd(*backward), "backward")


def test_a_module_loaded_again(tmp_path, monkeypatch):
    again = module(tmp_path, "again", RULE.format("a: float = 1.0") + STEP)
    first = snnfast.neuron(again)
    assert snnfast.neuron(again) is first
    monkeypatch.syspath_prepend(tmp_path)
    importlib.reload(again)
    with pytest.raises(ValueError, match="the module again was loaded again"):
        snnfast.neuron(again)


def test_annotations_as_text(tmp_path):
    text = "from __future__ import annotations\n" + RULE.format("a: float = 1.0") + STEP
    assert snnfast.neuron(module(tmp_path, "as_text", text))(torch.ones(3, 2), 1.0, a=2.0)[0].shape == (3, 2)


RULE = "from typing import NamedTuple\nclass Rule(NamedTuple):\n    {}\n"
STEP = "def step(v, n, x, theta, k):\n    return v + x, n, where(v > theta, 1.0, 0.0)\n"


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("no_step", RULE.format("a: float = 1.0"), "must define step"),
        ("short_step", RULE.format("a: float = 1.0") + "def step(v, x):\n    return v\n", "step must take 5 arguments, it takes 2"),
        ("no_rule", STEP, "must define class Rule"),
        ("bad_field", RULE.format("a: list = ()") + STEP, "field a of Rule is"),
        ("large_default", RULE.format(f"a: int = {2**53 + 1}") + STEP, "field a of Rule must be between"),
        ("no_default", RULE.format("a: float") + STEP, "field a of Rule needs a default"),
        ("taken_field", RULE.format("theta: float = 1.0") + STEP, "has the name of an argument"),
        (
            "half_a_start",
            CAPPED + "def start(v0, theta, k):\n    return theta\n",
            "start and start_bwd come together",
        ),
        ("tau_field", RULE.format("tau: float = 1.0") + STEP, "has the name of an argument"),
        ("negative_bool", RULE.format("negative: bool = False") + STEP, "field negative of Rule names"),
        ("not-a-name", RULE.format("a: float = 1.0") + STEP, "must be a Python name"),
        ("iaf", RULE.format("a: float = 1.0") + STEP, "there is a neuron 'iaf' already"),
    ],
)
def test_bad_equations(tmp_path, name, text, message):
    with pytest.raises((ValueError, TypeError), match=message):
        snnfast.neuron(module(tmp_path, name, text))
    sys.modules.pop(name)


def test_bad_calls(lif, tiny, tmp_path):
    with pytest.raises(TypeError, match="neuron must be what snnfast.neuron returned, got module"):
        snnfast.nn.IF(theta=1.0, neuron=sys.modules["lif"])
    with pytest.raises(TypeError, match="neuron must be what snnfast.neuron returned, got str"):
        snnfast.convert(tiny[0], neuron="lif")
    with pytest.raises(TypeError, match="lif got an unexpected option spikes"):
        snnfast.convert(tiny[0], neuron=lif, spikes="int8")
    with pytest.raises(TypeError, match="imported module, got str"):
        snnfast.neuron("lif")
    with pytest.raises(TypeError, match="unexpected option leak; its Rule has decay, width"):
        lif(torch.randn(3, 2), 1.0, leak=0.5)
    whole = snnfast.neuron(module(tmp_path, "whole", RULE.format("a: int = 1") + STEP))
    assert whole(torch.ones(3, 2), 1.0, a=2**53)[0].shape == (3, 2)
    for value in (2**53 + 1, -(2**60), 10**400):  # which the numbers of a rule would round
        with pytest.raises(ValueError, match="a must be between -2^53 and 2^53".replace("^", r"\^")):
            whole(torch.ones(3, 2), 1.0, a=value)
    forward_only = snnfast.neuron(module(tmp_path, "forward_only", RULE.format("a: float = 1.0") + STEP))
    assert forward_only(torch.randn(3, 2), 1.0)[0].shape == (3, 2)
    with pytest.raises(ValueError, match="forward_only has no step_bwd"):
        forward_only(torch.randn(3, 2, requires_grad=True), 1.0)
    assert snnfast.neuron(sys.modules["lif"]) is lif

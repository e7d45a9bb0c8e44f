"""How images come in and where thresholds come from: objects, and their names with options, say the same; the rest is refused."""

import importlib

import pytest
import torch

import snnfast
from snnfast.conversion import Analog, Constant, Percentile, Poisson, Rate
from snnfast.conversion.inputs import Inputs

X = torch.rand(20, 6, generator=torch.Generator().manual_seed(1))


def quantised():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 8), snnfast.nn.QCFS(8, 1.0), torch.nn.Linear(8, 3))


def relus():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))


@pytest.mark.parametrize(
    "inputs, named",
    [
        (Constant(), dict(inputs="constant")),
        (Poisson(), dict(inputs="poisson")),
        (Poisson(amplitude=2.5, seed=7), dict(inputs="poisson", amplitude=2.5, seed=7)),
        (Analog(), dict(inputs="analog")),
        (Rate(), dict(inputs="rate")),
        (Rate(steps=3), dict(inputs="rate", input_steps=3)),
    ],
    ids=str,
)
def test_an_object_is_its_name_with_options(inputs, named):
    one, other = snnfast.convert(quantised(), inputs=inputs), snnfast.convert(quantised(), **named)
    assert one.clock == other.clock and one.clock.mode == inputs.mode
    assert torch.equal(one.logits(X, 12), other.logits(X, 12))


def test_defaults():
    assert snnfast.convert(quantised()).clock == snnfast.convert(quantised(), inputs=Constant()).clock
    assert snnfast.convert(quantised(), mode="differential").clock == snnfast.convert(quantised(), inputs=Analog()).clock
    assert snnfast.convert(quantised(), inputs=Rate()).clock.input_steps == 8  # the levels of the first activation
    assert snnfast.convert(relus(), calibrate=3 * X, inputs=Poisson()).clock.amplitude == float(3 * X.max())


@pytest.mark.parametrize(
    "thresholds, named",
    [
        (lambda: Percentile(X), dict(calibrate=X)),
        (lambda: Percentile([X[:7], (X[7:], None)], 90.0), dict(calibrate=X, percentile=90.0)),
        (lambda: Percentile(X, q=99.0, per="channel"), dict(calibrate=X, percentile=99.0, per_channel=True)),
        (lambda: Percentile(X, q=100, per="neuron"), dict(calibrate=X, percentile=100, per_channel="neuron")),
    ],
)
def test_thresholds_are_those_of_the_options(thresholds, named):
    one, other = snnfast.convert(relus(), calibrate=thresholds()), snnfast.convert(relus(), **named)
    for (_, a), (_, b) in zip(one.neurons(), other.neurons(), strict=True):
        assert torch.equal(a.theta, b.theta)


@pytest.mark.parametrize(
    "how, message",
    [
        (lambda: Poisson(amplitude=0.0), "amplitude must be > 0"),
        (lambda: Poisson(seed=-1), "seed must be >= 0"),
        (lambda: Rate(steps=0), "^steps must be >= 1"),
        (lambda: snnfast.convert(quantised(), inputs="rate", input_steps=0), "input_steps must be >= 1"),
        (lambda: Percentile(X, q=0), r"^q must be in \(0, 100\], got 0"),
        (lambda: snnfast.convert(relus(), calibrate=X, percentile=0), r"percentile must be in \(0, 100\], got 0"),
        (lambda: Percentile(X, per="pixel"), "per must be one of 'layer', 'channel', 'neuron'"),
        (lambda: Percentile(X, per="neuron"), "thresholds per neuron are maxima: give q=100, not 99.9"),
        (lambda: snnfast.convert(relus(), calibrate=X, per_channel="neuron"), "give percentile=100, not 99.9"),
        (lambda: snnfast.convert(quantised(), inputs=Poisson(), seed=3), r"give the fields of inputs to it, Poisson\(seed=...\)"),
        (lambda: snnfast.convert(quantised(), inputs=Poisson(), input_steps=3), "input_steps is of inputs='rate'"),
        (lambda: snnfast.convert(quantised(), seed=3), "seed is of inputs='poisson'"),
        (lambda: snnfast.convert(quantised(), inputs=Rate(), mode="per_step"), "mode 'per_step' takes 'constant' or 'poisson'"),
        (lambda: snnfast.convert(quantised(), inputs=Rate(), method="srp"), "method 'stbif' or 'quanta', got 'srp'"),
        (lambda: snnfast.convert(relus(), calibrate=Percentile(X), percentile=50), "give the fields of calibrate to it"),
        (lambda: snnfast.convert(quantised(), percentile=50), "are of calibrate="),
    ],
)  # fmt: skip
def test_what_does_not_go_together(how, message):
    with pytest.raises(ValueError, match=message):
        how()


def test_kinds_that_are_none():
    with pytest.raises(TypeError, match="inputs must be one of Constant, Poisson, Analog, Rate, got Inputs"):
        snnfast.convert(quantised(), inputs=Inputs())
    with pytest.raises(TypeError, match="per_channel must be False, True or 'neuron', got Tensor"):
        snnfast.convert(relus(), calibrate=X, per_channel=torch.tensor(True))


SEEDED = """
import typing
class Rule(typing.NamedTuple):
    seed: float = 0.0
def step(v, n, x, theta, k):
    s = where(v + x >= theta, 1.0, 0.0)
    return v + x - s * theta, n + s, s
"""


def test_a_rule_with_a_field_of_the_inputs(tmp_path, monkeypatch):
    """The inputs have it; it is never taken for the Rule's."""
    (tmp_path / "seeded.py").write_text(SEEDED)
    monkeypatch.syspath_prepend(tmp_path)
    own = snnfast.neuron(importlib.import_module("seeded"))
    snn = snnfast.convert(quantised(), neuron=own, inputs="poisson", seed=3)
    assert snn.clock.seed == 3 and snn.method.rule == {}
    with pytest.raises(ValueError, match="seed is of inputs='poisson'"):
        snnfast.convert(quantised(), neuron=own, seed=3)

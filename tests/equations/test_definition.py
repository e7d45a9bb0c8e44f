"""The definitions: written out once more as scalar loops, closed forms, and what the authors' programs recorded."""

import importlib
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import snnfast
from snnfast.equations.rule import kind_of

F = np.float32


def scalar_iaf(x, theta, v0, negative=None, n_min=0.0, p_max=math.inf, normalised=False, hard=None, strict=False):
    """One neuron, one step after another, in Python floats rounded to fp32: SEMANTICS section 1."""
    theta = F(theta)
    unit = F(1) if normalised else theta
    v, n, spikes = F(v0) if normalised else F(v0) * theta, 0, []
    for xt in x:
        v = F(v + F(F(xt) / theta)) if normalised else F(v + F(xt))
        s = 0
        if (v > unit if strict else v >= unit) and n < p_max:
            s = 1
        elif negative == "stbif" and v < 0 and n > n_min:
            s = -1
        elif negative == "snm" and v <= -unit and n > n_min:
            s = -1
        if s and hard is not None:
            v = F(hard)
        elif s:
            v = F(v - F(s) * unit)
        n += s
        spikes.append(s)
    return spikes, v, n


RULES = [
    dict(),
    dict(strict=True),
    dict(normalised=True),
    dict(negative="stbif"),
    dict(negative="stbif", n_min=-2, p_max=2),
    dict(negative="snm"),
    dict(negative="snm", n_min=-3, p_max=1, normalised=True),
    dict(hard=0.0),
    dict(hard=-0.25, negative="stbif"),
]


@pytest.mark.parametrize("theta", [1.0, 0.21432, 0.75])
@pytest.mark.parametrize("rule", RULES, ids=lambda r: "-".join(f"{k}={v}" for k, v in r.items()) or "plain")
def test_scalar_loop(rule, theta):
    x = torch.randn(40, 50) * 0.8 + 0.2
    x[:, ::3] = (x[:, ::3] * 4).round() / 4
    caps = (rule["n_min"], rule["p_max"]) if "n_min" in rule else None
    knobs = dict(negative=rule.get("negative"), caps=caps, strict=rule.get("strict", False))
    knobs["unit"] = "normalised" if rule.get("normalised") else "volts"
    if rule.get("hard") is not None:
        knobs |= dict(reset="hard", v_reset=rule["hard"])
    s, state = snnfast.iaf(x, theta, 0.3, spikes="int8", **knobs)
    for i in range(x.size(1)):
        spikes, v, n = scalar_iaf(x[:, i].numpy(), theta, 0.3, **rule)
        assert s[:, i].tolist() == spikes
        assert state.v[i].item() == v and state.count[i].item() == n


def test_closed_form():
    """N_T = clamp(floor(T z + 1/2), 0, T) for a constant current and v0 = theta/2 (exact in fp64 away from ties)."""
    z = torch.linspace(-0.7, 1.8, 997, dtype=torch.float64)
    for T in (1, 4, 7, 64):
        count, _ = snnfast.iaf(z * 3.0, 3.0, T=T, spikes="count")
        far = (((T * z + 0.5) % 1.0) - 0.5).abs() < 0.499
        assert torch.equal(count[far], (T * z + 0.5).floor().clamp(0, T).int()[far])


def test_stbif_drains():
    """ST-BIF after draining equals clamp(floor(sum x / theta + 1/2), n_min, p_max), whatever the order of the inputs."""
    x = torch.randn(20, 400, dtype=torch.float64)
    x = torch.cat([x, torch.zeros(60, 400, dtype=torch.float64)])
    _, state = snnfast.iaf(x, 0.5, negative="stbif", caps=(-4, 7))
    assert torch.equal(state.count, (x.sum(0) / 0.5 + 0.5).floor().clamp(-4, 7).int())


def test_qcfs_formula():
    x = torch.randn(5000)
    x[::2] = (x[::2] * 16).round() / 16
    for theta, L in ((1.0, 4), (0.21432, 8), (2.5, 3)):
        z = np.clip(x.numpy() / F(theta), F(0), F(1))
        y = np.floor(z * F(L) + F(0.5)) / F(L) * F(theta)
        assert torch.equal(snnfast.qcfs(x, theta, L), torch.from_numpy(y))


@pytest.mark.parametrize("grad", ["qcfs", "srp", "paper"])
def test_qcfs_gradient_table(grad):
    """SEMANTICS section 2, row by row: theta = 2, L = 4, z at the middle and the edges of each row."""
    z = torch.tensor([-0.2, -0.125, -0.05, 0.0, 0.4, 0.86, 0.875, 0.95, 1.0, 1.05, 1.12, 1.125, 2.0], dtype=torch.float64)
    x, theta = (2 * z).requires_grad_(), torch.full((13,), 2.0, dtype=torch.float64, requires_grad=True)
    y = snnfast.qcfs(x, theta, 4, grad)
    y.sum().backward()
    through = {"qcfs": "0001111110000", "srp": "0111111111100", "paper": "0111110000000"}[grad]
    above = {"qcfs": "0000000001111", "srp": "0000000000011", "paper": "0000001111111"}[grad]
    inside, over = (torch.tensor([c == "1" for c in row]) for row in (through, above))
    assert torch.equal(x.grad, inside.double())
    expected = torch.where(inside, y.detach() / 2 - z, over.double())
    assert torch.allclose(theta.grad, expected, rtol=0, atol=1e-15)  # y/2 - z rounds once more than q - z


def test_cs_qcfs_is_qcfs_of_softplus():
    x, lam = torch.randn(4, 6, 5, 5), torch.randn(6, 1, 1, requires_grad=True)
    y = snnfast.cs_qcfs(x, lam, 4)
    theta = torch.nn.functional.softplus(lam.detach()).requires_grad_()
    expected = snnfast.qcfs(x, theta, 4)
    assert torch.equal(y, expected)
    dy = torch.randn_like(y)
    y.backward(dy)
    expected.backward(dy)
    assert torch.allclose(lam.grad, torch.sigmoid(lam.detach()) * theta.grad, rtol=1e-6)  # one more rounding


def scalar_cos(x, theta, normalised, max_shift=math.inf):
    """One neuron's calibrated start voltage in Python floats rounded to fp32: SEMANTICS section 3."""
    theta = F(theta)
    unit = F(1) if normalised else theta
    v, n, fired, silent = F(0.5) * unit, 0, [], []
    for xt in x:
        u = F(v + F(F(xt) / theta)) if normalised else F(v + F(xt))
        (fired if u >= unit else silent).append(u)
        v = F(u - unit) if u >= unit else u
        n += u >= unit
    low, high = min(fired, default=F(1000) * unit), max(silent, default=F(-1000) * unit)
    if v < 0 and n > 0:
        return F(0.5) - max(F(1), F(low / unit) - F(0.999))
    if v >= unit:
        return F(0.5) + min(max(F(1), F(1.001) - F(high / unit)), F(max_shift))
    return F(0.5)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("theta", [1.0, 0.21432])
def test_cos_scalar(theta, normalised):
    x = torch.randn(5, 300) * 1.6 + 0.3
    x[:, ::3] = (x[:, ::3] * 4).round() / 4
    x[:, 7] = 5.0  # fires at every step
    unit = "normalised" if normalised else "volts"
    for max_shift in (None, 1.5):
        v0 = snnfast.cos_start(x, theta, unit=unit, max_shift=max_shift)
        expected = [scalar_cos(x[:, i].numpy(), theta, normalised, max_shift or math.inf) for i in range(300)]
        assert v0.tolist() == expected
        assert len(set(expected)) > 10 and (max_shift is not None or max(expected) > 1000)


RECORDED = {
    "qcfs_if": dict(),
    "normalised_if": dict(unit="normalised"),
    "stbif_level16_sym": dict(unit="normalised", negative="stbif", caps=(-8, 7)),
    "stbif_level8_asym": dict(unit="normalised", negative="stbif", caps=(0, 7)),
    "snm_float_memory": dict(v0=0.0, negative="snm", memory=True),
    "cos_rho4": dict(unit="normalised"),
    "srp_tau4": dict(unit="normalised"),
}


@pytest.mark.parametrize("rule", RECORDED)
def test_recorded_neurons(golden, rule):
    file = golden("neurons")
    keys = [k for k in file if k.endswith(f"|{rule}")]
    assert len(keys) == 6
    for key in keys:
        kind, theta, _ = key.split("|")
        x = torch.from_numpy(file[f"{kind}|{theta}|x"])
        th, knobs = float(theta.removeprefix("theta=")), dict(RECORDED[rule])
        if rule == "cos_rho4":
            knobs["v0"] = snnfast.cos_start(x[:4], th, unit="normalised")
        if rule == "srp_tau4":  # four steps of the first phase, eight of the second
            first, state = snnfast.iaf(x[:4], th, unit="normalised")
            s = torch.cat([first, snnfast.iaf(x[4:], th, mask=state.v > 1e-3, **knobs)[0]])
        else:
            s, _ = snnfast.iaf(x, th, **knobs)
        assert torch.equal(s, torch.from_numpy(file[key])), key


def test_recorded_surrogate(golden):
    file = golden("surrogate")
    keys = [k for k in file if k.endswith("|x")]
    assert len(keys) == 4
    for key in keys:
        gamma, theta = (float(part.split("=")[1]) for part in key.split("|")[:2])
        got = {n: torch.from_numpy(file[key.removesuffix("x") + n]) for n in ("x", "s", "ds", "dx")}
        x = got["x"].requires_grad_()
        s, _ = snnfast.iaf(x, theta, surrogate="zif", gamma=gamma)
        s.backward(got["ds"])
        assert torch.equal(s, got["s"])
        assert torch.allclose(x.grad, got["dx"], rtol=1e-6, atol=0) and torch.equal(x.grad == 0, got["dx"] == 0)


def test_recorded_activations(golden):
    file = golden("activations")
    keys = [k for k in file if k.endswith("|y")]
    assert len(keys) == 12
    for key in keys:
        theta, levels, grad, _ = key.split("|")
        base = f"{theta}|{levels}|"
        x = torch.from_numpy(file[base + "x"]).requires_grad_()
        th = torch.tensor([float(theta.removeprefix("theta="))], requires_grad=True)
        y = snnfast.qcfs(x, th, int(levels.removeprefix("L=")), grad)
        y.backward(torch.from_numpy(file[base + "dy"]))
        dx, dtheta = (torch.from_numpy(file[f"{base}{grad}|{n}"]) for n in ("dx", "dtheta"))
        assert torch.equal(y, torch.from_numpy(file[key]))
        # The authors multiply by theta/L and L/theta, whose product is 1 but for rounding; their sum has another order.
        assert torch.allclose(x.grad, dx, rtol=1e-6, atol=0) and torch.equal(x.grad == 0, dx == 0)
        assert torch.allclose(th.grad, dtheta, rtol=2e-4)


@pytest.mark.parametrize("stem", ["neurons/iaf", "neurons/cos", "activations/qcfs"])
def test_twins_read_the_same_rules(stem):
    """The C++ twin takes each field of the Python rule from its place among the numbers, and each text of a choice from its place among the texts."""
    equation = importlib.import_module(f"snnfast.equations.{stem.replace('/', '.')}")
    text = (Path(__file__).parents[2] / f"csrc/equations/{stem}.h").read_text()
    places = {name: int(i) for name, i in re.findall(r"(\w+)(?: = |\()(?:\w+\()*r(?:\.of)?\[(\d+)\]", text)}
    assert places == {name: i for i, name in enumerate(equation.Rule._fields)}
    assert int(re.search(r"int fields = (\d+);", text).group(1)) == len(equation.Rule._fields)
    for name in equation.Rule._fields:
        kind = kind_of(equation.Rule, name)
        if isinstance(kind, tuple):
            assert re.search(rf"enum class {name.capitalize()} : int {{ (.*) }};", text).group(1) == ", ".join(kind)

"""The leak, the offset and the form "unit": scalar loops written from the definitions, and what they must not be."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import snnfast
from snnfast import nn

F = np.float32


def scalar_lif(x, theta, tau, v0, decay_input, product, hard):
    """One neuron in Python floats rounded to fp32: SEMANTICS section 1, the charge of LIF in its order of operations."""
    theta, tau, keep = F(theta), F(tau), F(1.0 - 1.0 / tau)
    r = F(0 if hard is None else hard)
    v, out = F(v0) * theta, []
    for xt in map(F, x):
        if decay_input:
            v = F(v + F(F(xt - F(v - r)) / tau))
        elif product:
            v = F(F(v * keep) + xt)
        else:
            v = F(F(v - F(F(v - r) / tau)) + xt)
        s = v >= theta
        out.append(int(s))
        if s:
            v = F(v - theta) if hard is None else F(hard)
    return out, v


@pytest.mark.parametrize("hard", [None, 0.0, -0.25])
@pytest.mark.parametrize("decay_input, product", [(True, True), (False, True), (False, False)])
def test_scalar(decay_input, product, hard):
    if product and not decay_input and hard:
        product = False  # v (1 - 1/tau) + x is for a reset to 0
    x = torch.randn(40, 60) * 1.5 + 0.7
    reset = dict(reset="soft") if hard is None else dict(reset="hard", v_reset=hard)
    for tau, theta in ((2.7, 0.75), (1.0, 1.0), (13.0, 0.21432)):
        s, state = snnfast.lif(x, theta, tau, 0.3, decay_input=decay_input, product=product, spikes="int8", **reset)
        for i in range(x.size(1)):
            spikes, v = scalar_lif(x[:, i].numpy(), theta, tau, 0.3, decay_input, product, hard)
            assert s[:, i].tolist() == spikes and state.v[i].item() == v
    assert 0 < int(s.sum()) < s.numel()


def test_forms_differ_and_the_rest_is_iaf():
    x = torch.randn(60, 200) * 1.5 + 0.7
    forms = [snnfast.lif(x, 0.8, 2.7, decay_input=d, product=p)[1].v for d, p in ((True, True), (False, True), (False, False))]
    assert not torch.equal(forms[0], forms[1]) and not torch.equal(forms[1], forms[2])
    assert torch.equal(snnfast.lif(x, 0.8, 2.7, spikes="scaled")[0], snnfast.lif(x, 0.8, 2.7, spikes="unit")[0] * 0.8)
    a, state = snnfast.lif(x[:7], 0.8, 2.7)
    b, _ = snnfast.lif(x[7:], 0.8, 2.7, state=state)
    assert torch.equal(torch.cat([a, b]), snnfast.lif(x, 0.8, 2.7)[0])


def test_layer():
    x = torch.randn(9, 3, 4) + 0.5
    layer = nn.LIF(tau=1.7, theta=0.6, decay_input=False, carry=True)
    assert torch.equal(torch.cat([layer(x[:4]), layer(x[4:])]), snnfast.lif(x, 0.6, 1.7, decay_input=False)[0])
    assert "tau=1.7" in repr(layer)


def test_offset_is_another_threshold_for_firing():
    """u + offset theta >= theta, and theta is subtracted: an offset of 1/2 fires where a start of 1/2 does, but for rounding."""
    x = torch.randn(30, 100, dtype=torch.float64)
    a, state = snnfast.iaf(x, 0.8, 0.0, offset=0.5)
    b, shifted = snnfast.iaf(x, 0.8, 0.5)
    assert torch.equal(a, b) and torch.allclose(state.v + 0.4, shifted.v)
    v, out = torch.zeros(100), []
    y = torch.randn(20, 100)
    for t in range(20):
        v = v + y[t]
        s = (v + 0.375 * 0.8 >= 0.8).float()
        v = v - s * 0.8
        out.append(s)
    assert torch.equal(snnfast.iaf(y, 0.8, 0.0, offset=0.375, spikes="unit")[0], torch.stack(out))


def test_unit_is_in_the_dtype_of_x_and_signed():
    for dtype in (torch.float16, torch.float32, torch.float64):
        x = torch.randn(9, 70).to(dtype)
        s, _ = snnfast.iaf(x, 0.7, negative="stbif", spikes="unit")
        assert s.dtype == dtype and torch.equal(s, snnfast.iaf(x, 0.7, negative="stbif", spikes="int8")[0].to(dtype)) and (s < 0).any()


@pytest.mark.parametrize(
    "given, message",
    [
        (dict(tau=0.5), "tau must be >= 1 time step, got 0.5"),
        (dict(tau=float("inf")), "tau must be finite"),
        (dict(reset="gentle"), "reset must be one of"),
    ],
)
def test_refused(given, message):
    with pytest.raises(ValueError, match=message):
        snnfast.lif(torch.zeros(3, 4), **given)
    with pytest.raises(ValueError, match="tau and unit='normalised' do not go together"):
        nn.LIF(tau=2.0, unit="normalised")


def test_the_recorded_neurons_of_the_authors():
    """Spikes, potentials after the last step and gradients of networks that are trained directly: SpikingJelly's LIF, IF and PLIF, MS-ResNet's."""
    data = np.load(Path(__file__).resolve().parents[1] / "golden" / "trained_neurons.npz")
    seen = 0
    for case, m in json.loads(bytes(data["meta"])).items():
        kind, theta = m["kind"], m["theta"]
        if kind == "seed4" and m["v_reset"] != 0 or "alpha a parameter" in m.get("surrogate", ""):
            continue
        x = torch.from_numpy(data[f"{case}/x"]).double().requires_grad_()
        hard = dict(reset="soft") if m.get("v_reset", 0.0) is None else dict(reset="hard", v_reset=m.get("v_reset", 0.0))
        how = hard | dict(v0=(m.get("v_reset") or 0.0) / theta, detach_reset=m.get("detach_reset", True))
        if kind == "ms":
            how |= dict(strict=True, surrogate="box", gamma=0.5, decay_input=False)
            s, state = snnfast.lif(x, theta, 4 / 3, **how)
        else:
            how |= dict(surrogate=m["surrogate"].lower(), gamma=m["gamma"])
            if kind == "if":
                s, state = snnfast.iaf(x, theta, **how)
            elif kind == "plif":
                w = torch.tensor(-math.log(m["init_tau"] - 1), dtype=x.dtype, requires_grad=True)
                s, state = snnfast.plif(x, theta, w, decay_input=m["decay_input"], **how)
            elif kind == "seed4":
                s, state = snnfast.lif(x, theta, 1 / (1 - m["beta"]), decay_input=False, **how)
            else:
                s, state = snnfast.lif(x, theta, m["tau"], decay_input=m["decay_input"], **how)
        s = s / theta
        fired = torch.from_numpy(data[f"{case}/s"]).to(s.dtype)
        assert torch.equal(s.detach(), fired), case
        (s * torch.from_numpy(data[f"{case}/g"])).sum().backward()
        assert torch.allclose(x.grad, torch.from_numpy(data[f"{case}/grad_x"]), rtol=1e-9, atol=1e-12), case
        if kind == "plif":
            assert torch.allclose(w.grad, torch.from_numpy(np.asarray(data[f"{case}/grad_w"])).reshape(()), rtol=1e-9), case
        seen += 1
    assert seen == 19


def test_a_box_is_a_rectangle_without_its_edges():
    x = torch.tensor([[0.0, 0.5, 1.0, 1.5, 1.25]])  # u - theta: -1, -1/2, 0, 1/2, 1/4
    for dtype in (torch.float32, torch.float64):
        for surrogate, inside in (("rectangle", [0.0, 1.0, 1.0, 1.0, 1.0]), ("box", [0.0, 0.0, 1.0, 0.0, 1.0])):
            y = x.detach().to(dtype).requires_grad_()
            snnfast.lif(y, 1.0, 1.0, surrogate=surrogate, gamma=0.5)[0].sum().backward()
            assert y.grad.tolist() == [inside]

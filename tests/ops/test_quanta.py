"""The neuron with several quanta a step: against a loop written from the definition, its gradients against autograd's, the authors' recordings."""

import functools
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import snnfast
from snnfast import nn

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "quanta.npz")
LADDERS = [("uniform", 1), ("uniform", 5), ("uniform", 32), ("power", 1), ("power", 16)]
golden = lambda name: torch.from_numpy(GOLDEN[name])  # noqa: E731


def one_neuron(xs, theta, v0, m, ladder, caps):
    """Rung by rung in Python's own numbers: spikes, and the potential in quanta."""
    v, n, found = v0, 0, []
    for x in xs:
        v += x / theta
        s = 0
        for size in range(1, m + 1):
            if ladder == "power" and size & (size - 1):
                continue
            at = size if ladder == "uniform" else 0.75 * size
            if v >= at and n + size <= caps[1]:
                s = size
            if (v < 1 - size if ladder == "uniform" else -v >= at) and n - size >= caps[0]:
                s = -size
        v, n = v - s, n + s
        found.append(s)
    return found, v


@pytest.mark.parametrize("ladder, m", LADDERS)
@pytest.mark.parametrize("caps", [None, (0, math.inf), (-3, 7)])
def test_against_a_loop(ladder, m, caps):
    g = torch.Generator().manual_seed(m)
    x = torch.randn(40, 30, generator=g, dtype=torch.float64) * 2 + 0.5
    x = torch.where(torch.rand(x.shape, generator=g) < 0.3, (x * 8).round() / 8, x)
    how = {} if caps is None else dict(negative="stbif", caps=[c if math.isfinite(c) else None for c in caps])
    s, state = snnfast.quanta(x, 0.25, 0.5, m=m, ladder=ladder, spikes="int8", **how)
    for i in range(30):
        wanted, v = one_neuron(x[:, i].tolist(), 0.25, 0.5, m, ladder, caps or (0, math.inf))
        if caps is None:  # which has no negative spikes
            wanted, v = one_neuron_up(x[:, i].tolist(), m, ladder)
        assert s[:, i].tolist() == wanted and float(state.v[i]) == v and int(state.count[i]) == sum(wanted)
    assert s.max() > m / 4 and (s.min() < 0) == (caps is not None)


def one_neuron_up(xs, m, ladder):
    v, found = 0.5, []
    for x in xs:
        v += x / 0.25
        sizes = [k for k in range(1, m + 1) if ladder == "uniform" or not k & (k - 1)]
        s = max([0] + [k for k in sizes if v >= (k if ladder == "uniform" else 0.75 * k)])
        v -= s
        found.append(s)
    return found, v


def test_one_quantum_is_the_neuron_of_one_spike():
    """m = 1 on the uniform ladder: spikes, state and gradients of `iaf` in normalised units, with ST-BIF's rule and without."""
    g = torch.Generator().manual_seed(3)
    x, theta = torch.randn(30, 4, 50, generator=g), torch.rand(50, generator=g) + 0.3
    for how in ({}, dict(negative="stbif"), dict(negative="stbif", caps=(-2, 4))):
        found = []
        for call in (functools.partial(snnfast.quanta, m=1, **how), functools.partial(snnfast.iaf, unit="normalised", **how)):
            leaves = x.clone().requires_grad_(), theta.clone().requires_grad_()
            s, state = call(*leaves)
            (s * torch.linspace(-1, 1, 50)).sum().backward()
            found.append((s, *state, *(leaf.grad for leaf in leaves)))
        (a, b), same = found, 3 if how else 5  # with "stbif" iaf adds the surrogates of both thresholds, quanta takes the nearer one's
        assert all(torch.equal(p, q) for p, q in zip(a[:same], b[:same], strict=True))


class Rungs(torch.autograd.Function):
    """The spike of a potential z in quanta, with the derivative of the definition."""

    @staticmethod
    def forward(ctx, z, lo, hi, ladder, h):
        if ladder == "uniform":
            s = torch.where(z >= 1, torch.minimum(z.floor(), hi), torch.where(z < 0, torch.maximum(z.floor(), lo), 0 * z))
            r = torch.minimum(torch.maximum((z + 0.5).floor(), lo + 1), hi)
            d = torch.where(lo < hi, h(z - r), 0 * z)
        else:
            below = lambda t: torch.where(t >= 1, 2 ** torch.floor(torch.log2(t.clamp(min=1))), 0 * t)  # noqa: E731
            nearest = 2 ** torch.floor(torch.log2(z.abs().clamp(min=0.75) / 0.75))
            most = torch.where(z < 0, below(-lo), below(hi))
            s = torch.where(z.abs() >= 0.75, torch.minimum(nearest, most), 0 * z) * torch.where(z < 0, -1.0, 1.0)
            signed = bool((lo < 0).any())
            most, t = (most, z.abs()) if signed else (below(hi), z)
            a = torch.minimum(2 ** torch.floor(torch.log2(t.clamp(min=0.75) / 0.75)), most).clamp(min=1)
            d = torch.where(most > 0, h((t - 0.75 * a) / a), 0 * z)
        ctx.save_for_backward(d)
        return s + 0.0

    @staticmethod
    def backward(ctx, ds):
        return ds * ctx.saved_tensors[0], None, None, None, None


def loop(x, theta, v0, m, ladder, signed, volts, detach, gamma):
    h = lambda a: (gamma - a.abs()).clamp(min=0) / gamma**2  # noqa: E731
    one = theta if volts else torch.ones_like(theta)
    v, n, ys = v0 * one + torch.zeros_like(x[0]), torch.zeros_like(x[0]), []
    for xt in x:
        u = v + (xt if volts else xt / theta)
        lo, hi = (torch.full_like(n, -float(m)), torch.full_like(n, float(m))) if signed else (0 * n, torch.full_like(n, float(m)))
        s = Rungs.apply(u / theta if volts else u, lo, hi, ladder, h)
        v = u - (s.detach() if detach else s) * one
        ys.append(s * theta)
    return torch.stack(ys), v


@pytest.mark.parametrize("ladder, m", [("uniform", 5), ("power", 8)])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("volts", [False, True])
@pytest.mark.parametrize("detach", [False, True])
def test_gradients(ladder, m, signed, volts, detach):
    """fp64: the same derivatives, in another order of sums."""
    g = torch.Generator().manual_seed(0)
    rand = lambda *shape: torch.rand(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    x, dy, dv = rand(30, 2, 3, 4) * 3 - 1, rand(30, 2, 3, 4), rand(2, 3, 4)
    grads = []
    for ours in (True, False):
        leaves = x.clone().requires_grad_(), (0.2 + torch.linspace(0, 0.2, 3, dtype=torch.float64)[:, None]).requires_grad_()
        if ours:
            how = dict(negative="stbif", caps=(None, None)) if signed else {}
            unit = "volts" if volts else "normalised"
            y, state = snnfast.quanta(*leaves, 0.3, m=m, ladder=ladder, unit=unit, gamma=0.8, detach_reset=detach, **how)
            v = state.v
        else:
            y, v = loop(*leaves, 0.3, m, ladder, signed, volts, detach, 0.8)
        ((y * dy).sum() + (v * dv).sum()).backward()
        grads.append([y.detach(), v.detach(), *(leaf.grad for leaf in leaves)])
    for a, b in zip(*grads, strict=True):
        assert a.shape == b.shape and torch.allclose(a, b, rtol=1e-9, atol=1e-9 * float(b.abs().max()))
    assert grads[0][3].abs().min() > 0 and float(grads[0][0].min() / 0.2) < (-1 if signed else 1)


def test_straight_through():
    """ "rectangle" with gamma = 0.5: the gradient of a step passes within the ladder, half a quantum beyond each end."""
    x = torch.linspace(-2, 6, 81, dtype=torch.float64).requires_grad_()
    snnfast.quanta(x[None], 1.0, 0.0, m=4, surrogate="rectangle", gamma=0.5, detach_reset=True)[0].sum().backward()
    assert torch.equal(x.grad > 0, (x >= 0.5) & (x <= 4.5)) and set(x.grad.tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("grid", [0, 1])
def test_multi_threshold_recordings(grid):
    """The authors' neurons of rate coding, spike by spike, inputs on a grid (with ties) and off it."""
    x, theta = golden(f"dcgs_x_f32_g{grid}"), golden(f"dcgs_th_f32_g{grid}")[0]
    seen = 0
    for kind, how in (
        ("MTH", {}),
        ("MTH_with_neg", dict(negative="stbif")),
        ("MTH_with_neg_line", dict(negative="stbif", caps=(None, None))),
    ):
        for n in (1, 4, 6):
            y, m = golden(f"dcgs_{kind}_n{n}_f32_g{grid}"), 2 ** (n - 1)
            for unit in ("volts", "normalised"):
                s, _ = snnfast.quanta(x[-len(y) :], theta / m, 0.0, m=m, ladder="power", unit=unit, **how)
                assert torch.equal(s, y)
            seen += int((y != 0).sum())
    assert seen > 1000


def test_group_recordings():
    """Group neurons compare with fl(i theta/m), which is not i fl(theta/m): of 9,216 spikes of threshold 0.7, whose sixth fp32 rounds, few differ."""
    off = total = 0
    for grid in (0, 1):
        for m in (1, 4, 6):
            for theta in ("1.0", "0.7"):
                y, q = golden(f"group_m{m}_th{theta}_f32_g{grid}"), torch.tensor(float(theta)) / m
                s, _ = snnfast.quanta(golden(f"group_x_f32_g{grid}"), q, m=m, unit="volts", spikes="unit")
                differ = int((s != (y / q).round()).sum())
                assert differ == 0 or theta == "0.7", (m, theta, differ)
                off, total = off + differ, total + y.numel()
    assert off <= 10 and total == 9216


def test_parallel_recordings():
    """Parallel conversion (Hao et al., ICML 2025) sends the spikes of T steps first: as many as a group of T members in one step."""
    for grid, T, theta in itertools.product((0, 1), (1, 3, 4, 8), ("1.0", "0.7")):
        x, y = golden(f"parallel_x_T{T}_f32_g{grid}"), golden(f"parallel_T{T}_th{theta}_f32_g{grid}")
        q = torch.tensor(float(theta)) / T
        many, _ = snnfast.quanta(x.mean(0, keepdim=True), q, m=T, unit="volts", spikes="unit")
        assert torch.equal((torch.arange(1, T + 1).view(T, 1, 1, 1, 1) <= many) * torch.tensor(float(theta)), y), (grid, T, theta)
        assert y.any() and not y.all()


@pytest.mark.parametrize("inputs", ["x", "xg"])
def test_burst_recordings(inputs):
    """Their offset of theta/(2T) at every step is a current; they start at 0."""
    x = golden(f"burst_{inputs}_f32")
    for m in (1, 2, 5):
        y = golden(f"burst_{inputs}_m{m}_f32")
        theta = torch.where(y > 0, y, y.max()).amin((0, 1, 3, 4))[:, None, None]  # one for each channel: its smallest spike
        s, _ = snnfast.quanta(x + 0.5 * theta / len(x), theta, 0.0, m=m, unit="volts", spikes="unit")
        assert torch.equal(s * theta, y) and s.max() == m


def test_forms_chunks_and_layouts():
    g = torch.Generator().manual_seed(1)
    x = torch.randn(17, 3, 8, 6, generator=g)
    theta = torch.rand(8, 1, generator=g) / 4 + 0.1
    how = dict(m=9, negative="stbif")
    y, end = snnfast.quanta(x, theta, **how)
    unit = snnfast.quanta(x, theta, spikes="unit", **how)[0]
    assert torch.equal(unit * theta, y) and unit.abs().max() > 3 and unit.min() < 0
    assert torch.equal(snnfast.quanta(x, theta, spikes="int8", **how)[0].float(), unit)
    assert torch.equal(snnfast.quanta(x, theta, spikes="count", **how)[0], unit.sum(0).int()) and torch.equal(end.count, unit.sum(0).int())
    a, state = snnfast.quanta(x[:6], theta, **how)
    b, state = snnfast.quanta(x[6:], theta, state=state, **how)
    assert torch.equal(torch.cat([a, b]), y) and torch.equal(state.v, end.v)
    turned = x.movedim(2, -1).contiguous().movedim(-1, 2)
    assert torch.equal(snnfast.quanta(turned, theta, **how)[0], y)
    out = torch.empty_like(x)
    assert snnfast.quanta(x, theta, out=out, **how)[0] is out and torch.equal(out, y)
    assert torch.equal(snnfast.quanta(x[0], theta, T=5, **how)[0], snnfast.quanta(x[:1].expand(5, *x.shape[1:]), theta, **how)[0])
    compiled = torch.compile(lambda x: snnfast.quanta(x, theta, **how)[0], fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), y)


def test_a_signed_neuron_is_drained():
    """After the input ends, the count is the input rounded to quanta, and what is left lies within half of one; without a cap too."""
    g = torch.Generator().manual_seed(2)
    x = torch.cat([torch.randn(20, 500, generator=g, dtype=torch.float64) * 3, torch.zeros(40, 500, dtype=torch.float64)])
    _, state = snnfast.quanta(x, 0.5, m=7, negative="stbif")
    assert torch.equal(state.count.double(), torch.floor(x.sum(0) / 0.5 + 0.5).clamp(min=0))
    _, state = snnfast.quanta(x, 0.5, m=7, negative="stbif", caps=(None, None))
    assert torch.equal(state.count.double(), torch.floor(x.sum(0) / 0.5 + 0.5))


def test_layer():
    x = torch.randn(9, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    layer = nn.Quanta(torch.tensor([0.1, 0.2, 0.3]), m=5, channelwise=True, carry=True, negative="stbif")
    whole = snnfast.quanta(x, torch.tensor([0.1, 0.2, 0.3])[:, None], m=5, negative="stbif")[0]
    assert torch.equal(torch.cat([layer(x[:4]), layer(x[4:])]), whole) and layer.most == 5 and layer.is_signed() and not layer.is_counted()
    assert not nn.Quanta(m=2).is_counted() and nn.Quanta(m=1).is_counted()
    assert "m=5" in repr(layer) and torch.equal(nn.Quanta(theta=0.5, m=3, unit="volts")(x), snnfast.quanta(x, 0.5, m=3, unit="volts")[0])
    with pytest.raises(ValueError, match="COS calibrates"):
        layer.calibrate(x)


BAD = [
    (dict(m=0), ValueError, "m must be >= 1, got 0"),
    (dict(m=2.5), TypeError, "m must be an integer, got float|m must be"),
    (dict(m=257), ValueError, "m must be <= 256 quanta a step, got 257"),
    (dict(m=3, ladder="power"), ValueError, "m must be a power of two where ladder is 'power', got 3"),
    (dict(m=2, ladder="linear"), ValueError, "ladder must be one of 'uniform', 'power'"),
    (dict(m=2, negative="snm"), ValueError, "negative must be one of None, 'stbif'"),
    (dict(m=2, caps=(0, 4)), ValueError, "caps limit the spike count of a neuron with negative spikes"),
    (dict(m=2, negative="stbif", caps=(0, 4.5)), ValueError, r"caps\[1\] must be a whole number of quanta, got 4.5"),
    (dict(m=2, spikes="bits"), ValueError, "spikes='bits' holds a sign, and m = 2 quanta are more"),
    (dict(m=128, spikes="int8"), ValueError, "spikes='int8' holds up to 127 quanta, m is 128"),
    (dict(m=256, T=1 << 17), ValueError, "T m must be <= 2"),
    (dict(m=2, unit="mV"), ValueError, "unit must be one of 'volts', 'normalised'"),
    (dict(m=2, gamma=-1.0), ValueError, "gamma must be > 0"),
]


@pytest.mark.parametrize("given, error, message", BAD, ids=[str(g) for g, *_ in BAD])
def test_errors(given, error, message):
    with pytest.raises(error, match=message):
        snnfast.quanta(torch.zeros(3, 4), 1.0, **given)

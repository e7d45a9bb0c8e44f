"""What holds whatever the numbers are: splitting time or batch changes no bit; layouts, views, empty tensors, NaN and inf."""

import pytest
import torch

import snnfast
from snnfast.engines.form import SPIKES

KNOBS = [
    dict(),
    dict(negative="stbif", caps=(-1, 4)),
    dict(negative="snm", unit="normalised"),
    dict(reset="hard", v_reset=0.125, unit="normalised"),
    dict(strict=True, mask=torch.tensor([True, False, True]).view(3, 1, 1)),
]


@pytest.mark.parametrize("knobs", KNOBS, ids=lambda k: "-".join(map(str, k)) or "plain")
@pytest.mark.parametrize("cuts", [(1,), (5, 6), (3, 8, 20), (16,)])
def test_splitting_time_changes_no_bit(knobs, cuts):
    x, theta = torch.randn(23, 2, 3, 5, 7) * 0.8 + 0.2, torch.rand(3, 1, 1) + 0.4
    for spikes in SPIKES:
        whole, end = snnfast.iaf(x, theta, 0.3, spikes=spikes, **knobs)
        state, parts = None, []
        for part in x.tensor_split(cuts):
            s, state = snnfast.iaf(part, theta, 0.3, spikes=spikes, state=state, **knobs)
            parts.append(s)
        joined = sum(parts) if spikes == "count" else torch.cat(parts, dim=1 if spikes == "bits" and "negative" in knobs else 0)
        assert torch.equal(joined, whole)
        assert torch.equal(state.v, end.v) and torch.equal(state.count, end.count)


@pytest.mark.parametrize("cuts", [(1,), (2, 5)])
def test_splitting_the_batch_changes_no_bit(cuts):
    x, theta = torch.randn(19, 7, 3, 5, 5) * 0.8 + 0.2, torch.rand(3, 1, 1) + 0.4
    whole, end = snnfast.iaf(x, theta)
    for part, expected, v in zip(x.tensor_split(cuts, 1), whole.tensor_split(cuts, 1), end.v.tensor_split(cuts), strict=True):
        s, state = snnfast.iaf(part, theta)
        assert torch.equal(s, expected) and torch.equal(state.v, v)


def test_gradients_through_chunks():
    """The state carries the gradient: two chunks give the gradients of one call, bit for bit."""
    x = (torch.randn(12, 40) * 0.8 + 0.2).requires_grad_()
    ds = torch.randn(12, 40)
    snnfast.iaf(x, 0.75)[0].backward(ds)
    whole, x.grad = x.grad, None
    s, state = snnfast.iaf(x[:5], 0.75)
    t, _ = snnfast.iaf(x[5:], 0.75, state=state)
    torch.cat([s, t]).backward(ds)
    assert torch.equal(x.grad, whole)


def test_constant_is_repeated_input():
    x, theta = torch.randn(4, 3, 6) + 0.3, torch.rand(3, 1) + 0.4
    for spikes in SPIKES:
        a, end = snnfast.iaf(x, theta, T=13, spikes=spikes)
        b, expected = snnfast.iaf(x.expand(13, *x.shape), theta, spikes=spikes)
        assert torch.equal(a, b) and torch.equal(end.v, expected.v) and torch.equal(end.count, expected.count)


def test_spike_forms_agree():
    x, theta = torch.randn(9, 5, 3, 7) * 0.9, torch.rand(3, 1) + 0.4
    for negative in (None, "stbif"):
        scaled, _ = snnfast.iaf(x, theta, negative=negative)
        int8, _ = snnfast.iaf(x, theta, negative=negative, spikes="int8")
        count, state = snnfast.iaf(x, theta, negative=negative, spikes="count")
        bits, _ = snnfast.iaf(x, theta, negative=negative, spikes="bits")
        assert torch.equal(scaled, int8 * theta)
        assert torch.equal(count, int8.sum(0, dtype=torch.int32)) and torch.equal(count, state.count)
        planes = [bits] if negative is None else list(bits)
        signs = [s.flatten(1) for s in ((int8 > 0), (int8 < 0))]
        for plane, on in zip(planes, signs, strict=False):
            unpacked = (plane.unsqueeze(-1) >> torch.arange(32)) & 1
            assert torch.equal(unpacked.flatten(1)[:, : on.size(1)], on.int()) and not unpacked.flatten(1)[:, on.size(1) :].any()


LAYOUTS = {
    "channels_last": lambda x: x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2]),
    "transposed step": lambda x: x.transpose(3, 4).contiguous().transpose(3, 4),
    "every second step": lambda x: x.repeat_interleave(2, 0)[::2],
    "unaligned": lambda x: torch.cat([x.new_zeros(3), x.flatten()])[3:].view(x.shape),
    "gaps": lambda x: torch.stack([x, x], -1)[..., 0],
    "batch first": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
}


@pytest.mark.parametrize("theta_shape", [(), (4, 1, 1), (3, 1, 1, 1), (1, 5, 6), (3, 1, 5, 1), (3, 4, 5, 6)], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, theta_shape):
    x = torch.randn(8, 3, 4, 5, 6) * 0.8 + 0.2
    theta = torch.rand(theta_shape) + 0.4
    y = LAYOUTS[layout](x)
    assert torch.equal(x, y)
    dy = torch.randn_like(x)
    results = []
    for t in (x, y):
        leaf, th = t.detach().requires_grad_(), theta.clone().requires_grad_()
        s, state = snnfast.iaf(leaf, th)
        s.backward(dy)
        results.append((s.detach(), state.v.detach(), leaf.grad, th.grad))
    for a, b in zip(*results[0:2], strict=True):
        if a.shape == theta.shape:
            assert torch.allclose(a, b, rtol=1e-4, atol=1e-4)  # dtheta: torch sums the neurons in the order of the layout
        else:
            assert torch.equal(a, b)
    if layout in ("channels_last", "transposed step"):
        assert results[1][0].stride() == y.stride(), "the result lies as x does"
    q, expected = snnfast.qcfs(y, theta, 4), snnfast.qcfs(x, theta, 4)
    assert torch.equal(q, expected)


def test_dense_layouts_are_not_copied():
    """The rows that reach the kernel share x's memory."""
    from snnfast.ops.layout import layout_of

    x = torch.randn(8, 3, 4, 5, 6)
    for name in ("channels_last", "transposed step", "unaligned", "every second step"):
        y = LAYOUTS[name](x)
        assert layout_of(y[0]).rows(y).data_ptr() == y.data_ptr(), name


@pytest.mark.parametrize("shape", [(4, 0), (4, 0, 3), (4, 2, 0, 5)])
def test_empty(shape):
    x = torch.zeros(shape, requires_grad=True)
    for spikes in SPIKES:
        s, state = snnfast.iaf(x.detach(), 1.0, spikes=spikes)
        assert s.numel() == 0 and state.v.shape == shape[1:]
    s, _ = snnfast.iaf(x, torch.tensor(1.0, requires_grad=True))
    s.sum().backward()
    assert x.grad.shape == shape
    assert snnfast.qcfs(x.detach(), 1.0, 4).shape == shape


def test_nan_and_inf():
    """What the formula says: NaN never fires and stays, +inf fires for ever, -inf never; neighbours are untouched."""
    x = torch.full((6, 40), 0.4)
    x[2, 3], x[1, 7], x[1, 9] = float("nan"), float("inf"), -float("inf")
    clean, _ = snnfast.iaf(torch.full((6, 40), 0.4), 1.0)
    s, state = snnfast.iaf(x, 1.0)
    others = [i for i in range(40) if i not in (3, 7, 9)]
    assert torch.equal(s[:, others], clean[:, others])
    assert s[2:, 3].tolist() == [0.0] * 4 and state.v[3].isnan()
    assert s[1:, 7].tolist() == [1.0] * 5 and s[1:, 9].tolist() == [0.0] * 5
    y = snnfast.qcfs(torch.tensor([float("nan"), float("inf"), -float("inf")]), 2.0, 4)
    assert y[0].isnan() and y[1:].tolist() == [2.0, 0.0]


def test_inputs_are_not_changed():
    x, theta = torch.randn(5, 40), torch.rand(40) + 0.4
    v, count, mask = torch.randn(40), torch.ones(40, dtype=torch.int32), torch.rand(40) < 0.5
    before = [t.clone() for t in (x, theta, v, count, mask)]
    snnfast.iaf(x, theta, state=snnfast.IAFState(v, count), mask=mask, negative="stbif")
    assert all(torch.equal(a, b) for a, b in zip(before, (x, theta, v, count, mask), strict=True))


def test_at_T_1_negative_rules_are_plain():
    x = torch.randn(1, 500)
    plain, _ = snnfast.iaf(x, 0.7)
    for rule in ("stbif", "snm"):
        assert torch.equal(snnfast.iaf(x, 0.7, negative=rule)[0], plain)


def test_fp16_and_bf16_keep_an_fp32_state():
    """Half-precision input gives the spikes of the same numbers in fp32."""
    for dtype in (torch.float16, torch.bfloat16):
        x = (torch.randn(512, 100) * 0.3 + 0.2).to(dtype)
        a, state = snnfast.iaf(x, 0.9, spikes="int8")
        b, expected = snnfast.iaf(x.float(), 0.9, spikes="int8")
        assert torch.equal(a, b) and torch.equal(state.v, expected.v) and state.v.dtype == torch.float32


@pytest.mark.parametrize("op", [snnfast.iaf, snnfast.lif, snnfast.plif])
def test_subclasses_stay_what_they_are(op):
    """One that stands for two tensors: each has its own spikes and state, with a gradient and without."""
    two = pytest.importorskip("torch.testing._internal.two_tensor").TwoTensor
    x = torch.rand(4, 3)
    s, state = op(two(x, 3 * x), 1.0)
    for part, of in (("a", x), ("b", 3 * x)):
        own, end = op(of, 1.0)
        assert torch.equal(getattr(s, part), own)
        assert torch.equal(getattr(state.v, part), end.v) and torch.equal(getattr(state.count, part), end.count)


def test_small_and_large_calls_give_the_same(monkeypatch):
    """A call that is only run takes a shorter way where it is small; the longer one gives the same, as a tensor of the same kind."""
    from snnfast.ops import neuron

    x = torch.randn(5, 3, 4, 6).to(memory_format=torch.channels_last)
    for how in (dict(), dict(negative="snm", memory=True), dict(spikes="bits"), dict(spikes="count"), dict(unit="normalised", strict=True)):
        found = []
        for most in (0, 1 << 20):
            monkeypatch.setattr(neuron, "SMALL", most)
            found.append(snnfast.iaf(x, torch.full((3, 1, 1), 0.75), **how))
        (a, one), (b, other) = found
        assert torch.equal(a, b) and a.stride() == b.stride() and a.dtype == b.dtype
        assert torch.equal(one.v, other.v) and torch.equal(one.count, other.count) and one.count.dtype == other.count.dtype


@pytest.mark.parametrize("call", [lambda x: snnfast.iaf(x, 1.0)[0], lambda x: snnfast.plif(x, 1.0)[0], lambda x: snnfast.qcfs(x, 1.0, 4)])
def test_forward_mode_is_refused(call):
    """torch takes a custom op for a constant there, without a word."""
    x = torch.rand(4, 3)
    for derive in (lambda: torch.func.jvp(call, (x,), (torch.ones_like(x),)), lambda: torch.func.jacfwd(call)(x)):
        with pytest.raises(RuntimeError, match="has no derivative in forward mode"):
            derive()
    with torch.autograd.forward_ad.dual_level():
        with pytest.raises(RuntimeError, match="has no derivative in forward mode"):
            call(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)))
        call(x)  # no tangent, nothing to lose

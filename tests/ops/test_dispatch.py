"""The ops as torch sees them: opcheck, torch.compile, autograd against the reference's own graph, gradcheck, the missing library."""

import contextlib
import functools
import subprocess
import sys
import warnings

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.library import opcheck

import snnfast
from snnfast.engines import reference
from snnfast.engines.form import SPIKES
from snnfast.ops.iaf import OPS, rule_of

RULE = (False, False, False, 0.0, "none", 0.0, float("inf"), "zif", 1.0, False, False, 0.0, 0.0, True, True)
SIGNED = (True, True, True, 0.125, "snm", -2.0, 3.0, "atan", 1.3, True, False, 0.375, 0.0, True, True)


@pytest.mark.parametrize("rule", [RULE, SIGNED])
@pytest.mark.parametrize("spikes", SPIKES)
def test_opcheck_iaf(rule, spikes):
    # opcheck sums all results to differentiate them and cannot add int8 or int32 ones to floats: those run without gradients.
    # test_compile_fullgraph has a count beside differentiable results.
    grad = spikes == "scaled"
    x, theta = torch.randn(6, 40, requires_grad=grad), (torch.rand(40) + 0.5).requires_grad_(grad)
    v, count, mask = torch.randn(40, requires_grad=grad), torch.zeros(40, dtype=torch.int32), torch.rand(40) < 0.5
    opcheck(torch.ops.snnfast.iaf_fwd.default, (x, theta, v, count, mask, 6, 1, 0.5, SPIKES.index(spikes), 0, OPS.eq.numbers.pack(rule)))
    opcheck(
        torch.ops.snnfast.iaf_fwd.default,
        (x[:1], theta[:1], None, None, None, 6, 1, 0.3, SPIKES.index(spikes), 0, OPS.eq.numbers.pack(rule)),
    )


def test_opcheck_others():
    x, theta = torch.randn(6, 40), torch.rand(40) + 0.5
    out, kept, v, count = torch.zeros(6, 40), torch.zeros(0, 1, 40), torch.zeros(40), torch.zeros(40, dtype=torch.int32)
    # The op writes every element of out, so that poisoned memory cannot show in the comparison.
    opcheck(torch.ops.snnfast.iaf_out.default, (x, theta, None, None, None, out, v, count, 6, 1, 0.5, 0, OPS.eq.numbers.pack(RULE)))
    opcheck(torch.ops.snnfast.iaf_bwd.default, (x, None, x, theta, None, None, None, kept, 6, 1, 0.5, OPS.eq.numbers.pack(RULE)))
    a = torch.randn(80, requires_grad=True)
    opcheck(torch.ops.snnfast.qcfs_fwd.default, (a, theta.requires_grad_(), 1, [4.0, 0.0]))
    opcheck(torch.ops.snnfast.qcfs_bwd.default, (a.detach(), a.detach(), theta.detach(), 1, [4.0, 1.0]))


def test_compile_fullgraph():
    def f(x, theta, lam):
        s, state = snnfast.iaf(x, theta, negative="stbif")
        count, _ = snnfast.iaf(x, theta, spikes="count", state=state, negative="stbif")
        return snnfast.cs_qcfs(s, lam, 4) + snnfast.qcfs(s, theta, 8), state.v, count

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    inputs = [torch.randn(6, 2, 3, 4), torch.rand(3, 1) + 0.5, torch.randn(3, 1)]
    results = []
    for g in (f, compiled):
        leaves = [t.clone().requires_grad_() for t in inputs]
        y, v, count = g(*leaves)
        (y.sum() + v.square().sum()).backward()
        results.append([y, v, count, *(t.grad for t in leaves)])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_compile_channels_last():
    x = torch.randn(4, 2, 3, 8, 8).flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (4, 2))
    f = torch.compile(lambda x: snnfast.iaf(x, 0.7)[0], fullgraph=True, backend="aot_eager")
    assert torch.equal(f(x), snnfast.iaf(x, 0.7)[0]) and f(x).stride() == x.stride()


def test_the_short_way_to_a_gradient_is_the_registered_one():
    """`snnfast.iaf` does not go through the op's registered gradient; under torch.func's transforms it does."""
    x, v, count = torch.randn(6, 40), torch.rand(40), torch.zeros(40, dtype=torch.int32)
    theta = torch.rand(40) + 0.5
    rule = rule_of(negative="stbif")

    def grads(f):
        leaves = [t.clone().requires_grad_() for t in (x, theta, v)]
        s, end = f(*leaves)
        (s * torch.arange(40.0)).sum().backward(retain_graph=True)
        (end**2).sum().backward()
        return [s, end, *(t.grad for t in leaves)]

    def short(x, theta, v):
        s, state = snnfast.iaf(x, theta, state=(v, count), negative="stbif")
        assert "iaf_fwd_short" in s.grad_fn.name()
        return s, state.v

    registered = grads(
        lambda x, theta, v: torch.ops.snnfast.iaf_fwd(x, theta, v, count, None, 6, 1, 0.0, 0, 0, OPS.eq.numbers.pack(rule))[:2]
    )
    assert all(torch.equal(a, b) for a, b in zip(grads(short), registered, strict=True))
    several = torch.randn(3, 6, 40, requires_grad=True)
    mapped = torch.func.vmap(lambda x: snnfast.iaf(x, 0.75)[0])(several)
    each = torch.stack([snnfast.iaf(part, 0.75)[0] for part in several])
    assert torch.equal(mapped, each)
    assert torch.equal(*(torch.autograd.grad(y.square().sum(), several)[0] for y in (mapped, each)))


class Spike(torch.autograd.Function):
    """[a >= 0], or [a > 0], with the surrogate h as its derivative."""

    @staticmethod
    def forward(ctx, a, strict, h):
        ctx.save_for_backward(h)
        return (a > 0 if strict else a >= 0).to(a.dtype)

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0], None, None


def autograd_iaf(x, theta, v0, mask, k):
    """The neuron as a torch graph, differentiated by autograd alone: s = [u >= J] - [u < J_neg], gates constant."""
    v, n, out = (v0 * theta if not k.normalised else v0 + theta * 0), torch.zeros_like(theta), []
    for xt in x:
        r = k.v_reset if k.hard else 0.0
        if k.tau and k.decay_input:
            u = v + (xt - (v - r)) / k.tau
        elif k.tau:
            u = v * (1 - 1 / k.tau) + xt if k.product else v - (v - r) / k.tau + xt
        else:
            u = v + (xt / theta if k.normalised else xt)
        j = torch.ones_like(theta) if k.normalised else theta
        a = u + j * k.offset - j
        s = Spike.apply(a, k.strict, reference.iaf.height(a.detach(), theta.detach(), k))
        if k.negative != "none":
            s = s * (n < k.p_max)
            a = u if k.negative == "stbif" else u + j
            down = Spike.apply(-a, k.negative == "stbif", reference.iaf.height(a.detach(), theta.detach(), k))
            down = down * (n > k.n_min)
            fired, s = s + down, s - down
        else:
            fired = s
        r, f = (s.detach(), fired.detach()) if k.detach_reset else (s, fired)
        v = u + f * (k.v_reset - u) if k.hard else u - r * j
        n = n + s.detach()
        out.append(s * theta * mask)
    return torch.stack(out), v


KNOBS = [
    dict(negative=n, unit=u, reset=r, surrogate=s, detach_reset=d, gamma=1.3)
    for n in (None, "stbif", "snm")
    for u in ("volts", "normalised")
    for r, d in (("soft", False), ("soft", True), ("hard", False), ("hard", True))
    for s in ("zif", "triangle", "rectangle", "box", "atan", "sigmoid")
]
OTHERS = [
    dict(negative=n, unit="volts", reset=r, surrogate="atan", detach_reset=d, gamma=1.3, **more)
    for n in (None, "stbif")
    for r, d in (("soft", False), ("hard", True), ("hard", False))
    for more in (
        dict(offset=0.375),
        dict(tau=2.7),
        dict(tau=2.7, decay_input=False, product=True),
        dict(tau=2.7, decay_input=False, product=False),
        dict(tau=1.5, offset=-0.25, decay_input=False, product=False),
    )
    if r == "soft" or not more.get("product")
] + [dict(negative=None, unit="normalised", reset="soft", surrogate="zif", detach_reset=False, gamma=1.3, offset=0.375)]


@pytest.mark.parametrize("knobs", KNOBS + OTHERS, ids=lambda k: "-".join(str(v) for v in k.values()))
def test_gradients_against_autograd(knobs):
    """fp64: the adjoint written by hand equals autograd of the definition, for x, theta, v0 and through the final state."""
    T, N = 19, 30
    x = (torch.randn(T, N, dtype=torch.float64) * 0.8 + 0.2).requires_grad_()
    theta = (torch.rand(N, dtype=torch.float64) + 0.5).requires_grad_()
    v0 = (torch.rand(N, dtype=torch.float64)).requires_grad_()
    mask = torch.rand(N) < 0.7
    reset = dict(v_reset=0.125) if knobs["reset"] == "hard" else {}
    caps = dict(caps=(-2, 3)) if knobs["negative"] else {}
    ds, dv = torch.randn(T, N, dtype=torch.float64), torch.randn(N, dtype=torch.float64)
    k = rule_of(**knobs, **reset, **caps)
    got = OPS(x, theta, v0, k, T=None, spikes="scaled", mask=mask, state=None, out=None, state_out=None)
    expected = autograd_iaf(x, theta, v0, mask, k)
    assert torch.equal(got[0], expected[0])
    a = torch.autograd.grad([got[0], got[1].v], [x, theta, v0], [ds, dv])
    b = torch.autograd.grad(list(expected), [x, theta, v0], [ds, dv])
    for p, q in zip(a, b, strict=True):
        # The same sums in another order, in fp64, T steps deep.
        assert torch.allclose(p, q, rtol=1e-9, atol=1e-11 * float(q.abs().max()))


def test_gradient_of_v0_as_a_number_reaches_theta():
    """v starts at v0 theta: dtheta has the share v0 c, whether v0 is a number or a tensor."""
    x, dv = torch.randn(7, 20, dtype=torch.float64), torch.randn(20, dtype=torch.float64)
    grads = []
    for v0 in (0.3, torch.tensor(0.3, dtype=torch.float64)):
        theta = torch.full((20,), 0.8, dtype=torch.float64, requires_grad=True)
        s, state = snnfast.iaf(x, theta, v0)
        (s.sum() + (state.v * dv).sum()).backward()
        grads.append(theta.grad)
    assert torch.allclose(*grads, rtol=1e-12)  # v0 c is added first by one and last by the other


def test_gradcheck_where_it_is_smooth():
    """Below the threshold nothing fires and v = v0 theta + sum x; with h = 0 (narrow ZIF) the op is linear, so gradcheck applies."""
    x = (torch.rand(5, 6, dtype=torch.float64) * 0.01).requires_grad_()
    theta = torch.full((6,), 2.0, dtype=torch.float64, requires_grad=True)
    v0 = torch.full((6,), 0.25, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *a: snnfast.iaf(*a, gamma=0.1)[1].v, (x, theta, v0))
    # QCFS beyond the clamp is y = theta, below it 0.
    z = torch.tensor([-3.0, -1.0, 5.0, 9.0], dtype=torch.float64, requires_grad=True)
    th = torch.tensor([1.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z, th: snnfast.qcfs(z, th, 4), (z, th))
    lam = torch.tensor([1.1], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z, lam: snnfast.cs_qcfs(z, lam, 4), (z, lam))


KEEPS = {
    "qcfs": lambda x: snnfast.qcfs(x, torch.ones(1, requires_grad=True), 4),
    "cs_qcfs": lambda x: snnfast.cs_qcfs(x, torch.ones(1, requires_grad=True), 4),
    "iaf": lambda x: snnfast.iaf(x, 1.0),
    "iaf stbif": lambda x: snnfast.iaf(x, torch.ones(1, requires_grad=True), negative="stbif"),
}


@pytest.mark.parametrize("op", KEEPS)
def test_what_the_backward_keeps_is_the_input(op):
    """4 bytes per element of an fp32 input, and a few numbers."""
    held = []
    x = torch.randn(64, 1000, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (held.append(t), t)[1], lambda t: t):
        KEEPS[op](x)
    assert sum(t.numel() * t.element_size() for t in held) <= 4 * x.numel() + 64


WITHOUT = """
import sys, warnings
sys.modules["snnfast._C"] = None  # as if nothing had been compiled
import torch, snnfast
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    x = torch.linspace(-1, 2, 60).view(6, 10).requires_grad_()
    for _ in range(2):
        s, _ = snnfast.iaf(x, 0.7)
        y = snnfast.qcfs(s, 0.7, 4)
        y.sum().backward()
print(y.sum().item(), x.grad.sum().item(), len(seen), seen[0].message)
"""


def test_every_op_runs_with_nothing_compiled():
    """The reference serves every op, says so once per op, and computes the same."""
    run = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True)
    y, g, warned, *message = run.stdout.split(maxsplit=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = torch.linspace(-1, 2, 60).view(6, 10).requires_grad_()
        for _ in range(2):
            s, _ = snnfast.iaf(x, 0.7)
            out = snnfast.qcfs(s, 0.7, 4)
            out.sum().backward()
    assert (float(y), float(g)) == (out.sum().item(), x.grad.sum().item())
    assert int(warned) == 4 and "reference kernel" in message[0]


OUT = {
    "softmax": lambda make: snnfast.softmax_over_time(make(4, 3, 8), out=make(4, 3, 8)),
    "layer norm": lambda make: snnfast.layer_norm_over_time(make(4, 3, 8), out=make(4, 3, 8)),
    "iaf": lambda make: snnfast.iaf(make(4, 30), 0.7, out=make(4, 30)),
    "lif": lambda make: snnfast.lif(make(4, 30), 0.7, 2.0, out=make(4, 30)),
    "conv": lambda make: (snnfast.spike_conv2d(make(2, 3, 6, 6), make(5, 3, 1, 1), out=make(2, 6, 6, 5).permute(0, 3, 1, 2)),),
    "linear": lambda make: (snnfast.spike_linear(make(4, 30), make(5, 30), out=make(4, 5)),),
}


@pytest.mark.parametrize("fake", [False, True], ids=["meta", "fake"])
@pytest.mark.parametrize("op", OUT)
def test_results_go_to_out_where_tensors_have_no_memory(op, fake):
    """Every tensor without memory has the address 0: what overlaps is known by the storage."""
    make = functools.partial(torch.empty, device="cpu" if fake else "meta")
    with FakeTensorMode() if fake else contextlib.nullcontext(), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert OUT[op](make)[0].shape == OUT[op](torch.zeros)[0].shape
        both = make(7, 30)
        with pytest.raises(ValueError, match="out overlaps the memory of x"):
            snnfast.iaf(both[:4], 0.7, out=both[3:])
        snnfast.iaf(both[:3], 0.7, out=both[4:])


def test_a_trained_layer_is_traced_and_saved(tmp_path):
    net, x = torch.nn.Sequential(torch.nn.Linear(4, 4), snnfast.nn.IF(theta=0.3)), torch.randn(8, 2, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(net, x).save(tmp_path / "net.pt")
        assert torch.equal(torch.jit.load(tmp_path / "net.pt")(x), net(x))


def test_a_float_memory_has_no_gradient():
    x = torch.randn(6, 5, requires_grad=True)
    s, state = snnfast.iaf(x, 0.5, negative="snm", memory=True)
    assert s.requires_grad and state.v.requires_grad and not state.count.requires_grad and state.count.is_floating_point()


def test_numbers_that_were_checked_before_are_checked_again_where_they_differ():
    """-0 is 0, True is no 1, and a list is told as ever; a threshold that is a number is never written."""
    x = torch.full((3, 4), 0.4)
    for v_reset in (0.0, -0.0, 0.0):
        s, state = snnfast.iaf(x, 1.0, reset="hard", v_reset=v_reset)
        assert torch.equal(torch.signbit(state.v), torch.zeros(4, dtype=torch.bool))
    assert snnfast.iaf(x, 1.0, gamma=1, surrogate="zif")[0].shape == (3, 4)
    for wrong in (True, [1.0], "1"):
        with pytest.raises(TypeError, match="gamma must be a number"):
            snnfast.iaf(x, 1.0, gamma=wrong)
        with pytest.raises(TypeError, match="theta must be a number"):
            snnfast.iaf(x, wrong)
    with pytest.raises(ValueError, match=r"surrogate must be one of .*; got \['zif'\]"):
        snnfast.iaf(x, 1.0, surrogate=["zif"])
    with torch.inference_mode():
        snnfast.iaf(x, 0.8125)
    y = x.clone().requires_grad_()
    snnfast.iaf(y, 0.8125)[0].sum().backward()
    assert y.grad.shape == x.shape
    with torch.device("meta"):
        assert snnfast.iaf(x, 0.71875)[0].device.type == "cpu"
    assert torch.equal(snnfast.iaf(x, 0.71875)[0], snnfast.iaf(x, torch.tensor(0.71875))[0])


def test_nothing_of_a_trace_is_kept():
    """Thresholds that are numbers are made anew where a call is traced: a fake one would be met again outside."""
    x = torch.full((3, 4), 0.4)
    with FakeTensorMode() as mode:
        snnfast.iaf(mode.from_tensor(x), 0.65625)
    assert float(snnfast.iaf(x, 0.65625)[0].sum()) == pytest.approx(0.65625 * 8)
    torch.compile(lambda x: snnfast.iaf(x, 0.59375)[0], backend="eager", fullgraph=True)(x)
    assert snnfast.iaf(x, 0.59375)[0].shape == (3, 4)

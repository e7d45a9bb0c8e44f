"""Infinities, NaN, signed zeros, the smallest and the largest numbers: every column gives what the reference gives, NaN for NaN.

What they mean follows from the definitions, taken literally in IEEE arithmetic: a comparison with NaN is false, so that a neuron whose potential or
threshold is NaN does not fire; inf - inf and 0 * inf are NaN and stay so. softmax of a row with -inf in it gives 0 there.
"""

import itertools

import cases
import pytest
import torch
from conftest import DEVICE, isas
from on_host import host_kernels, on_host_library
from shares import every

from snnfast.engines import reference
from snnfast.engines.form import EVERY, SPIKES
from snnfast.equations.bind import remembers
from snnfast.ops import cos, plif, quanta, rows
from snnfast.ops import iaf as op
from snnfast.ops import qcfs as qop

INF, NAN = float("inf"), float("nan")
X = (NAN, INF, -INF, 0.0, -0.0, 0.5, -0.75, 1e-45, 3e38, -3e38, 1.0)
THETA = (NAN, INF, 1.0, 0.5, 1e-45, 1e38)
V = (0.0, NAN, INF, -INF, 0.25)
RULES = [op.rule_of(**how) for how in (
    {}, dict(reset="hard", v_reset=0.1), dict(unit="normalised"), dict(strict=True, offset=0.375), dict(negative="stbif", unit="normalised"),
    dict(negative="stbif", caps=(-1, 2)), dict(negative="snm"), dict(negative="snm", memory=True), dict(tau=2.7),
    dict(detach_reset=True, reset="hard"), dict(negative="snm", unit="normalised", reset="hard"),
    dict(tau=2.7, decay_input=False, reset="hard", v_reset=0.1), dict(tau=2.7, decay_input=False, product=False),
)]  # fmt: skip
SURROGATES = "zif", "triangle", "rectangle", "atan"


def columns():
    """name -> op -> its kernel there."""
    yield from ((f"cpu {isa}", isa) for isa in isas())
    yield "cuda on the host", None
    yield "triton", None


@pytest.fixture(params=list(columns()), ids=lambda c: c[0])
def column(request):
    """(kernel(op, name in the Triton column), device, whether states are kept) of a column."""
    from snnfast.engines import backends

    name, isa = request.param
    if isa:
        backends._C.use_isa(isa)
        request.addfinalizer(lambda: backends._C.use_isa(isas()[0]))
        return lambda overload, name: overload, "cpu", 0
    if name == "triton":
        from snnfast.engines.triton import launch

        found = {"plif": launch.multistep_of(plif.equation), "quanta": launch.multistep_of(quanta.equation)}

        def kernel(overload, name):
            stem, _, part = name.rpartition("_")
            return getattr(found[stem], part) if stem in found else getattr(launch, name)

        return kernel, DEVICE, EVERY
    if not on_host_library():
        pytest.skip("the CUDA kernels were not built for the host")
    kernels = host_kernels()
    return lambda overload, name: kernels(overload), "cpu", EVERY


def neurons(many):
    """x [5, N], theta [N] or [2, N], v [N], and a gradient of the spikes [5, N]: every combination, and after it the next of the values of x."""
    x, theta, v = map(torch.tensor, zip(*itertools.product(X, THETA, V), strict=True))
    steps = torch.stack([x, x.roll(7), x.roll(31), torch.full_like(x, 0.75), x.roll(100)])
    ds = torch.tensor(X).repeat(len(x) * 5 // len(X) + 1)[: len(x) * 5].view(5, -1)
    return steps, theta if many == 1 else torch.stack((theta, torch.tensor((0.5, 0.1, NAN, INF, 0.9)).repeat(len(x))[: len(x)])), v, ds


def check_neuron(kernel, device, every, stem, ops, rule, surrogate):
    rule = rule._replace(surrogate=surrogate)
    x, theta, v, ds = neurons(len(ops.eq.parameters))
    numbers, there = ops.eq.numbers.pack(rule), [t.to(device) for t in (x, theta, v, ds)]
    for kind in ("scaled", "int8", "bits", "count"):
        if kind == "count" and remembers(rule):
            continue
        how = (None, None, 5, 1, 0.3, SPIKES.index(kind), every, numbers)
        got, expected = kernel(ops.fwd, f"{stem}_fwd")(*there[:3], *how), ops.reference_fwd(x, theta, v, *how)
        cases.assert_same([r.cpu() for r in got[:3]], expected[:3], kind)
    how = (None, None, ops.reference_fwd(x, theta, v, None, None, 5, 1, 0.3, 0, every, numbers)[3], 5, 1, 0.3, numbers)
    got = kernel(ops.bwd, f"{stem}_bwd")(there[3], there[2], *there[:3], None, None, how[2].to(device), *how[3:])
    cases.assert_same([r.cpu() for r in got], ops.reference_bwd(ds, v, x, theta, v, *how), "backward")


@pytest.mark.parametrize("number", every(2, range(len(RULES))))
def test_iaf(column, number):
    check_neuron(*column, "iaf", op.OPS, RULES[number], SURROGATES[number % 4])


@pytest.mark.parametrize("stem", ["iaf", "plif", "quanta"])
def test_the_edges_of_a_box(column, stem):
    """Potentials at exactly gamma from the threshold, where a box has no derivative and a rectangle one: elsewhere the two are the same."""
    kernel, device, every = column
    ops = {"iaf": op.OPS, "plif": plif.OPS, "quanta": quanta.OPS}[stem]
    x = torch.arange(-8, 9).float().div(4).repeat(3, 1)  # multiples of 1/4, in which every sum is exact
    theta = torch.ones(17) if stem != "plif" else torch.stack((torch.ones(17), torch.full((17,), 0.5)))
    v, ds, seen = torch.zeros(17), torch.ones(3, 17), {}
    for surrogate in ("rectangle", "box"):
        rule = quanta.rule_of(m=4, unit="volts") if stem == "quanta" else op.rule_of()
        numbers = ops.eq.numbers.pack(rule._replace(surrogate=surrogate, gamma=0.5))
        kept = ops.reference_fwd(x, theta, v, None, None, 3, 1, 0.5, 0, every, numbers)[3]
        seen[surrogate] = ops.reference_bwd(ds, v, x, theta, v, None, None, kept, 3, 1, 0.5, numbers)
        there = [t.to(device) for t in (ds, v, x, theta, v)]
        got = kernel(ops.bwd, f"{stem}_bwd")(*there, None, None, kept.to(device), 3, 1, 0.5, numbers)
        cases.assert_same([r.cpu() for r in got], seen[surrogate], surrogate)
    assert not torch.equal(seen["rectangle"][0], seen["box"][0])  # some lie there


@pytest.mark.parametrize("form", [(True, True), (False, True), (False, False)])
def test_plif(column, form):
    rule = RULES[1]._replace(decay_input=form[0], product=form[1], v_reset=0.0)
    check_neuron(*column, "plif", plif.OPS, rule, "atan")


@pytest.mark.parametrize("how", [
    dict(m=8), dict(m=3, unit="volts", negative="stbif", caps=(-2, 5)), dict(m=8, ladder="power", negative="stbif"),
    dict(m=4, ladder="power", unit="volts"),
], ids=lambda how: "-".join(map(str, how.values())))  # fmt: skip
def test_quanta(column, how):
    check_neuron(*column, "quanta", quanta.OPS, quanta.rule_of(**how), SURROGATES[how["m"] % 4])


@pytest.mark.parametrize("grad", ["qcfs", "srp", "paper"])
def test_qcfs(column, grad):
    kernel, device, _ = column
    x, theta = map(torch.tensor, zip(*itertools.product(X, THETA), strict=True))
    dy, packed = torch.linspace(-1, 1, len(x)), reference.qcfs.numbers.pack(reference.qcfs.Rule(4, grad))
    there = [t.to(device) for t in (dy, x, theta)]
    assert cases.same(kernel(qop.qcfs_fwd, "qcfs_fwd")(*there[1:], 1, packed).cpu(), qop._fwd(x, theta, 1, packed))
    got, expected = kernel(qop.qcfs_bwd, "qcfs_bwd")(*there, 1, packed), qop._bwd(dy, x, theta, 1, packed)
    cases.assert_same([r.cpu() for r in got], expected, "backward")  # a threshold for each element, so that nothing is summed


@pytest.mark.parametrize("normalised, max_shift", [(False, INF), (True, 2.0)])
def test_cos(column, normalised, max_shift):
    kernel, device, _ = column
    x, theta, _, _ = neurons(1)
    numbers = [float(normalised), max_shift]
    assert cases.same(
        kernel(cos.cos_fwd, "cos_fwd")(x.to(device), theta.to(device), 5, 1, 0.5, numbers).cpu(), cos._fwd(x, theta, 5, 1, 0.5, numbers)
    )


ROWS = [
    [-INF, 1.0, 2.0], [3e38, -3e38, 0.0], [INF, 1.0, 2.0], [NAN, 1.0, 2.0], [1.0, NAN, 2.0], [-INF] * 3, [1e-45, 0.0, -0.0], [88.0, 0.0, -20.0],
    [0.0, -85.9, -86.1],
]  # fmt: skip


@pytest.mark.parametrize("op_name", ["softmax_out", "layer_norm_out"])
@pytest.mark.parametrize("columns", [3, 40, 200])
def test_rows(column, op_name, columns):
    kernel, device, _ = column
    for dtype in (torch.float32, torch.float64):
        x = torch.tensor(ROWS, dtype=dtype)
        x = torch.cat([x, torch.full((len(ROWS), columns - 3), -1.5, dtype=dtype)], 1).view(1, len(ROWS), columns).repeat(2, 1, 1)
        x[1] = 0.25
        found = []
        for run, where in (
            (rows._softmax if op_name == "softmax_out" else rows._layer_norm, "cpu"),
            (kernel(getattr(rows, op_name), op_name), device),
        ):
            state = [torch.zeros(x.shape[1:], dtype=dtype, device=where) for _ in range(2)]
            out = torch.empty(x.shape, dtype=dtype, device=where)
            if op_name == "softmax_out":
                run(x.to(where), *state, out)
            else:
                run(x.to(where), None, None, *state, out, 1e-5)
            found.append([t.cpu() for t in (out, *state)])
        cases.assert_same(found[1], found[0], f"{op_name} {dtype}")
    if op_name == "softmax_out":
        assert found[0][0][0, 0, 0] == 0 and found[0][0][0, 1, :2].tolist() == [1, 0]  # -inf, and a difference that overflows

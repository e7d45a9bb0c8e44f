"""Every backend equals the reference bit for bit over the case table; dtheta of qcfs is reduced, so it has a tolerance."""

import cases
import pytest
import torch
from conftest import DEVICE, isas, threads
from shares import every

from snnfast.engines import reference
from snnfast.engines.form import EVERY, SPIKES
from snnfast.ops import cos, norm_neuron, plif, quanta
from snnfast.ops import iaf as op
from snnfast.ops import qcfs as qop

NATIVE = cases.sample(250, seed=1)
TRITON = cases.sample(10, seed=2, sizes=[(1, 5), (7, 37), (18, 70)])
TRITON += [row | dict(size=(34, 64)) for row in TRITON[::8]]  # two whole segments


def at_home(results):
    return tuple(r.cpu() for r in results)


def check_row(row, fwd, out, bwd, device="cpu", every=0, make=cases.Case, kinds=SPIKES):
    """fwd, out and bwd on `device` against the reference on the CPU. make: the case of a neuron; kinds: of spikes."""
    home, case = make(row), make(row, device)
    before = 32 + row["size"][1] % 4  # elements: some results start between words
    for spikes in kinds:
        if case.memory and spikes == "count":
            continue  # a float memory has no whole count to give
        expected = home.OPS.reference_fwd(*home.fwd(spikes, every))
        cases.assert_same(at_home(fwd(*case.fwd(spikes, every))), expected, f"forward {spikes}")
        # Written between sentinels: nothing beside the result changes.
        shape, N = expected[0].shape, expected[0].numel()
        room = torch.full((before + N + 32,), 77, dtype=expected[0].dtype, device=device)
        _, _, v, count, _ = case.neuron
        # The state goes to memory of its own, or back to where it came from.
        state = [torch.full(e.shape, 77, dtype=e.dtype, device=device) for e in expected[1:3]] if v is None else [v.clone(), count.clone()]
        if v is not None:
            case.neuron[2:4] = state
        assert out(*case.out(spikes, room[before : before + N].view(shape), state)) in (None, ())
        case.neuron[2:4] = v, count
        cases.assert_same(at_home(state), expected[1:3], f"out {spikes}")
        room = room.cpu()
        assert cases.same(room[before : before + N].view(shape), expected[0]), f"out {spikes}"
        assert bool((room[:before] == 77).all() and (room[before + N :] == 77).all()), f"out {spikes}: wrote beyond the result"
    kept = fwd(*case.fwd("scaled", every))[3]
    got, expected = at_home(bwd(*case.bwd(kept))), home.OPS.reference_bwd(*home.bwd(kept.cpu()))
    if "sigmoid" in case.rule:
        # exp differs between libraries by an ulp or two, and T steps of the adjoint carry it on.
        for a, b in zip(got, expected, strict=True):
            rtol = 1e-2 if a.dtype in (torch.float16, torch.bfloat16) else 1e-4 if a.dtype == torch.float32 else 1e-12
            assert torch.allclose(a.nan_to_num(), b.nan_to_num(), rtol=rtol, atol=rtol * float(b.abs().max()))
    else:
        cases.assert_same(got, expected, "backward")


@pytest.mark.parametrize("isa", isas(), indirect=True)
@pytest.mark.parametrize("row", NATIVE, ids=cases.name)
def test_cpu(isa, row):
    check_row(row, op.iaf_fwd, op.iaf_out, op.iaf_bwd)


def interpreted(rows):
    """(row, every, kinds), so that an interpreter takes minutes. every: what the backward of a GPU reads, the states that the forward kept; of every
    fourth row also those computed again. kinds: "scaled" and one of the others in turn, of every fourth row all. All of them take long: five
    of six cases are left to --thorough."""
    some = [SPIKES if i % 4 == 0 else ("scaled", SPIKES[1 + i % 3]) for i in range(len(rows))]
    found = [(row, EVERY, kinds) for row, kinds in zip(rows, some)] + [(row, 0, ("scaled",)) for row in rows[::4]]
    return every(6, found)


def name_of(case):
    return f"{cases.name(case[0])}-{case[1]}"


@pytest.mark.parametrize("case", interpreted(TRITON), ids=name_of)
def test_triton(case):
    from snnfast.engines.triton import launch

    check_row(case[0], launch.iaf_fwd, launch.iaf_out, launch.iaf_bwd, DEVICE, case[1], kinds=case[2])


PLIF = cases.sample(60, seed=6, knobs=cases.PLIF_KNOBS)


@pytest.mark.parametrize("isa", isas(), indirect=True)
@pytest.mark.parametrize("row", PLIF, ids=cases.name)
def test_plif_cpu(isa, row):
    check_row(row, plif.OPS.fwd, plif.OPS.out, plif.OPS.bwd, make=cases.PlifCase)


TRITON_PLIF = cases.sample(6, seed=7, sizes=[(1, 5), (7, 37), (18, 70)], knobs=cases.PLIF_KNOBS)


@pytest.mark.parametrize("case", interpreted(TRITON_PLIF), ids=name_of)
def test_plif_triton(case):
    from snnfast.engines.triton import launch

    k = launch.multistep_of(plif.equation)
    check_row(case[0], k.fwd, k.out, k.bwd, DEVICE, case[1], make=cases.PlifCase, kinds=case[2])


@pytest.mark.parametrize("isa", isas(), indirect=True)
@pytest.mark.parametrize("row", cases.sample(60, seed=19, knobs=cases.NORM_KNOBS), ids=cases.name)
def test_norm_neuron_cpu(isa, row):
    check_row(row, norm_neuron.OPS.fwd, norm_neuron.OPS.out, norm_neuron.OPS.bwd, make=cases.NormCase)


TRITON_NORM = cases.sample(6, seed=20, sizes=[(1, 5), (7, 37), (18, 70)], knobs=cases.NORM_KNOBS)


@pytest.mark.parametrize("case", interpreted(TRITON_NORM), ids=name_of)
def test_norm_neuron_triton(case):
    from snnfast.engines.triton import launch

    k = launch.multistep_of(norm_neuron.equation)
    check_row(case[0], k.fwd, k.out, k.bwd, DEVICE, case[1], make=cases.NormCase, kinds=case[2])


@pytest.mark.parametrize("isa", isas(), indirect=True)
@pytest.mark.parametrize("row", cases.sample(60, seed=9, knobs=cases.QUANTA_KNOBS), ids=cases.name)
def test_quanta_cpu(isa, row):
    check_row(row, quanta.OPS.fwd, quanta.OPS.out, quanta.OPS.bwd, make=cases.QuantaCase)


TRITON_QUANTA = cases.sample(6, seed=10, sizes=[(1, 5), (7, 37), (18, 70)], knobs=cases.QUANTA_KNOBS)


@pytest.mark.parametrize("case", interpreted(TRITON_QUANTA), ids=name_of)
def test_quanta_triton(case):
    from snnfast.engines.triton import launch

    k = launch.multistep_of(quanta.equation)
    check_row(case[0], k.fwd, k.out, k.bwd, DEVICE, case[1], make=cases.QuantaCase, kinds=case[2])


def check_cos(row, fwd, device="cpu"):
    expected = cos._fwd(*cases.cos_args(row))
    assert cases.same(fwd(*cases.cos_args(row, device)).cpu(), expected)
    return expected


@pytest.mark.parametrize("isa", isas(), indirect=True)
@pytest.mark.parametrize("row", cases.COS, ids=lambda r: "-".join(map(str, r)))
def test_cos_cpu(isa, row):
    check_cos(row, cos.cos_fwd)


def test_cos_rows_reach_every_case():
    """Shifts up, down and none, and a shift that max_shift cuts, stand in the table."""
    v0 = torch.cat([cos._fwd(*cases.cos_args(row)).double() for row in cases.COS])
    assert (v0 < -0.5).any() and (v0 == -0.5).any() and (v0 == 0.5).any() and (v0 == 1.5).any() and (v0 > 3).any() and (v0 == 2.25).any()


@pytest.mark.parametrize("row", cases.COS, ids=lambda r: "-".join(map(str, r)))
def test_cos_triton(row):
    from snnfast.engines.triton import launch

    check_cos(row, launch.cos_fwd, DEVICE)


QCFS = [
    (dtype, C, inner, grad, levels)
    for dtype in cases.DTYPES
    for C, inner in ((1, 1), (5, 40), (600, 1), (10, 4), (3, 3000), (4, 144))
    for grad, levels in (("qcfs", 4), ("srp", 3), ("paper", 16))
]


def check_qcfs(dtype, C, inner, grad, levels, fwd, bwd, device="cpu"):
    g = torch.Generator().manual_seed(C + inner)
    N = 6000 + levels % 3 if C == 1 else C * inner * 3  # one threshold: with a ragged end, and without
    acc = torch.float64 if dtype == "fp64" else torch.float32
    x = torch.randn(N, generator=g, dtype=torch.float64)
    x = torch.where(torch.rand(N, generator=g) < 0.4, (x * 16).round() / 16, x).to(cases.DTYPES[dtype])
    dy = torch.randn(N, generator=g).to(x)
    theta = ((torch.rand(C, generator=g) * 8).round() / 8 + 0.375).to(acc)
    rest = (inner, reference.qcfs.numbers.pack(reference.qcfs.Rule(levels, grad)))
    there = [t.to(device) for t in (dy, x, theta)]
    assert cases.same(fwd(*there[1:], *rest).cpu(), qop._fwd(x, theta, *rest))
    dx, dtheta = at_home(bwd(*there, *rest))
    expected_dx, expected = qop._bwd(dy, x, theta, *rest)
    assert cases.same(dx, expected_dx)
    # The same numbers added in another order: a few ulps of the sum of their magnitudes.
    size = torch.nn.functional.relu(dy.to(acc).abs()).sum() * 1.5
    assert torch.allclose(dtheta, expected, rtol=0, atol=float(size) * (1e-14 if dtype == "fp64" else 1e-6))
    assert cases.same(bwd(*there, *rest)[1].cpu(), dtheta), "two runs differ"
    return dtheta


def check_whole_quotients(fwd, device="cpu"):
    """Every step of small levels, and steps of large ones: f / L as the reference divides, which a product by 1 / L alone is not."""
    g, missed = torch.Generator().manual_seed(0), 0
    for dtype in (torch.float32, torch.float64):
        for levels in (*range(1, 300), 4095, 65_535, (1 << 22) - 1, 1 << 22):
            f = torch.arange(levels + 1) if levels < 300 else torch.randint(0, levels + 1, (2000,), generator=g)
            x, one, rest = f.to(dtype) / levels, torch.ones(1, dtype=dtype), (1, [float(levels), 0.0])
            expected = qop._fwd(x, one, *rest)
            assert torch.equal(fwd(x.to(device), one.to(device), *rest).cpu(), expected), levels
            missed += int((torch.floor(x * levels + 0.5) * (1 / torch.tensor(levels, dtype=dtype)) != expected).sum())
    assert missed > 1000  # so these are cases that tell one from the other


@pytest.mark.parametrize("row", QCFS, ids=lambda r: "-".join(map(str, r)))
def test_qcfs_cpu(row):
    from snnfast.engines import backends

    found = []
    for isa in isas():
        backends._C.use_isa(isa)
        for many in (1, 2):
            with threads(many):
                found.append(check_qcfs(*row, qop.qcfs_fwd, qop.qcfs_bwd))
    backends._C.use_isa(isas()[0])
    for dtheta in found:
        assert cases.same(dtheta, found[0]), "dtheta depends on the threads or the instruction set"


TRITON_QCFS = [(d, 60 if C == 600 else C, inner, *rest) for d, C, inner, *rest in QCFS[::5]]  # a program per threshold is slow, interpreted


@pytest.mark.parametrize("row", TRITON_QCFS, ids=lambda r: "-".join(map(str, r)))
def test_qcfs_triton(row):
    from snnfast.engines.triton import launch

    check_qcfs(*row, launch.qcfs_fwd, launch.qcfs_bwd, DEVICE)

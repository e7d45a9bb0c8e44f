"""Softmax and layer norm over time: the definition as a scalar program, every column against the reference, torch's functions, bad input."""

import itertools
import math

import numpy as np
import pytest
import torch
from conftest import DEVICE, isas, threads
from torch.nn import functional as F

import snnfast
from snnfast.engines import backends, reference
from snnfast.ops import rows as op

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
COLUMNS = (1, 2, 5, 16, 17, 64, 197, 300, 768, 1537, 4096)
ROWS = [(T, R, C, dtype) for T, (R, C), dtype in itertools.product((1, 3), [(7, c) for c in COLUMNS] + [(40, 33)], ("fp32", "fp64"))]
KINDS = {"fp32": torch.float32, "fp64": torch.float64}


def tensors(T, R, C, dtype, device="cpu"):
    g = torch.Generator().manual_seed(T + 10 * C)
    randn = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64).to(KINDS[dtype]).to(device)  # noqa: E731
    x = 3 * randn(T, R, C)
    x[:, 0, C // 2] = -100.0  # as masks have it: exp is 0 there
    return x, randn(C) + 1.5, randn(C), randn(R, C), 0.1 * randn(R, C)


def check_rows(row, softmax, layer_norm, device="cpu"):
    x, w, b, total, last = tensors(*row)
    there = [t.to(device) for t in (x, w, b)]
    for name, call, equal in (
        ("softmax", lambda s, o: softmax(there[0], *s, o), lambda s, o: op._softmax(x, *s, o)),
        ("layer_norm", lambda s, o: layer_norm(*there, *s, o, 0.3), lambda s, o: op._layer_norm(x, w, b, *s, o, 0.3)),
        ("plain", lambda s, o: layer_norm(there[0], None, None, *s, o, 0.3), lambda s, o: op._layer_norm(x, None, None, *s, o, 0.3)),
    ):
        expected_state, expected = [total.clone(), last.clone()], torch.empty_like(x)
        equal(expected_state, expected)
        # Between sentinels: nothing beside the result changes.
        room = torch.full((x.numel() + 64,), 77, dtype=x.dtype, device=device)
        state, out = [total.to(device, copy=True), last.to(device, copy=True)], room[32:-32].view(x.shape)
        assert call(state, out) in (None, ())
        for got, wanted in ((out, expected), *zip(state, expected_state)):
            assert torch.equal(got.cpu(), wanted), f"{name}: {int((got.cpu() != wanted).sum())} of {wanted.numel()} differ"
        assert bool((room[:32] == 77).all() and (room[-32:] == 77).all())


@pytest.mark.parametrize("isa", isas(), indirect=True)
@pytest.mark.parametrize("row", ROWS, ids=lambda r: "-".join(map(str, r)))
def test_cpu(isa, row):
    check_rows(row, op.softmax_out, op.layer_norm_out)


@pytest.mark.parametrize("row", [r for r in ROWS if r[2] < 400][::2], ids=lambda r: "-".join(map(str, r)))
def test_triton(row):
    from snnfast.engines.triton import launch

    check_rows(row, launch.softmax_out, launch.layer_norm_out, DEVICE)


def scalar_exp(z, wide):
    """The definition, in numpy scalars."""
    S = np.float64 if wide else np.float32
    z = S(z)
    if z < (-707 if wide else -86):
        return S(0)
    n = np.floor(S(z * S(1.4426950408889634)) + S(0.5))
    r = S(S(z - S(n * S(0.693359375))) + S(n * S(2.1219444005469057e-4)))
    degree = 13 if wide else 7
    p = S(1 / math.factorial(degree))
    for d in range(degree - 1, -1, -1):
        p = S(S(p * r) + S(1 / math.factorial(d)))
    return S(p * S(2.0 ** float(n)))


@DTYPES
def test_exponential(dtype):
    """Against the definition bit for bit, and within two units in the last place of the real function."""
    wide = dtype == torch.float64
    z = torch.cat([-torch.rand(3000, dtype=torch.float64) * 30, torch.tensor([0.0, -1e-9, -85.9, -86.5, -100, -706.5, -708, -1e9])]).to(
        dtype
    )
    found = reference.bound(snnfast.equations.functions.softmax).exponential(z, reference.softmax.Rule(wide))
    assert found.tolist() == [float(scalar_exp(v, wide)) for v in z.tolist()]
    exact, ulp = z.double().exp(), 2.0**-52 if wide else 2.0**-23
    normal = z > (-707 if wide else -86)
    assert ((found.double() - exact)[normal].abs() <= 2 * ulp * exact[normal]).all() and (found[~normal] == 0).all()


@pytest.mark.parametrize("C", [1, 3, 8, 21])
def test_the_sum_of_a_row_is_a_tree_of_halves(C):
    x = torch.randn(4, C)
    for row, found in zip(x.numpy(), reference.rows.total(x)):
        part = [*row, *[np.float32(0)] * ((1 << (C - 1).bit_length()) - C)]
        while len(part) > 1:
            part = [a + b for a, b in zip(part[: len(part) // 2], part[len(part) // 2 :])]
        assert part[0] == float(found)


@DTYPES
@pytest.mark.parametrize("name", ["softmax", "layer_norm"])
def test_sums_are_torchs_function_of_the_sum(name, dtype):
    x, w, b = (torch.randn(*shape, dtype=dtype) for shape in ((9, 2, 3, 50), (50,), (50,)))
    if name == "softmax":
        call, expected = snnfast.softmax_over_time, lambda s: s.softmax(-1)
    else:
        call = lambda x, state=None, **k: snnfast.layer_norm_over_time(x, w, b, 1e-6, state, **k)  # noqa: E731
        expected = lambda s: F.layer_norm(s, (50,), w, b, 1e-6)  # noqa: E731
    kept = x.clone()
    y, state = call(x)
    scale = 1e-12 if dtype == torch.float64 else 1e-5
    for t in (1, 5, 9):
        assert torch.allclose(y[:t].sum(0), expected(x[:t].sum(0)), rtol=0, atol=scale * float(expected(x.sum(0)).abs().max()))
    assert torch.allclose(state.total, x.sum(0), atol=20 * scale) and torch.allclose(state.last, expected(x.sum(0)), atol=20 * scale)
    # However time and rows are cut, on however many threads, in whatever memory: the same bits.
    a, middle = call(x[:4])
    b2, end = call(x[4:], middle)
    assert torch.equal(torch.cat([a, b2]), y) and torch.equal(end.total, state.total) and end.total.data_ptr() == middle.total.data_ptr()
    assert torch.equal(call(x[:, 1:])[0], y[:, 1:]) and torch.equal(call(x.transpose(1, 2))[0], y.transpose(1, 2))
    with threads(1):
        assert torch.equal(call(x)[0], y)
    out = torch.empty_like(x)
    assert call(x, out=out)[0] is out and torch.equal(out, y) and torch.equal(x, kept)


def test_all_instruction_sets_agree_with_threads():
    x = torch.randn(2, 5000, 70)
    found = []
    for isa in isas():
        backends._C.use_isa(isa)
        found.append(snnfast.softmax_over_time(x)[0])
    backends._C.use_isa(isas()[0])
    assert all(torch.equal(a, found[0]) for a in found)


def test_masked_logits_and_extremes():
    x = torch.zeros(1, 2, 4)
    x[0, 0, 1] = -float("inf")
    x[0, 1] = torch.tensor([1e30, -1e30, 0.0, 1e30])
    y, _ = snnfast.softmax_over_time(x)
    assert torch.equal(y[0, 0], torch.tensor([1, 0, 1, 1]) / torch.tensor(3.0)) and torch.equal(y[0, 1], torch.tensor([0.5, 0, 0, 0.5]))
    assert snnfast.softmax_over_time(torch.full((1, 1, 3), float("nan")))[0].isnan().all()
    assert snnfast.softmax_over_time(torch.zeros(2, 0, 3))[0].shape == (2, 0, 3)
    constant, _ = snnfast.layer_norm_over_time(torch.full((1, 1, 5), 2.0))
    assert torch.equal(constant, torch.zeros(1, 1, 5))


X = torch.zeros(2, 3, 4)
BAD = [
    (lambda: snnfast.softmax_over_time([1.0]), TypeError, "x must be a torch.Tensor"),
    (lambda: snnfast.softmax_over_time(X.half()), TypeError, "x has dtype float16; allowed: float32, float64"),
    (lambda: snnfast.softmax_over_time(torch.zeros(4)), ValueError, r"x must be \[T, ..., C\]"),
    (lambda: snnfast.softmax_over_time(torch.zeros(1, 2, 4097)), ValueError, "1 <= C <= 4096"),
    (lambda: snnfast.softmax_over_time(torch.zeros(0, 2, 3)), ValueError, "T >= 1"),
    (lambda: snnfast.softmax_over_time(X, 3), TypeError, "state must be the RowState"),
    (
        lambda: snnfast.softmax_over_time(X, (X[0], X[0, 0])),
        ValueError,
        r"state.last must be contiguous and of the shape of one step of x, \(3, 4\)",
    ),
    (lambda: snnfast.softmax_over_time(X, (X[0].double(), X[0])), TypeError, "state.total has dtype float64"),
    (lambda: snnfast.softmax_over_time(X, out=X), ValueError, "out overlaps the memory of x"),
    (lambda: snnfast.softmax_over_time(X, out=torch.zeros(2, 4, 3)), ValueError, "out must be contiguous and of x's shape"),
    (lambda: snnfast.layer_norm_over_time(X, torch.zeros(3)), ValueError, r"weight must be \[4\]"),
    (lambda: snnfast.layer_norm_over_time(X, None, torch.zeros(4).double()), TypeError, "bias has dtype float64"),
    (lambda: snnfast.layer_norm_over_time(X, eps=0.0), ValueError, "eps must be > 0"),
]


@pytest.mark.parametrize("call, kind, message", BAD, ids=[m for *_, m in BAD])
def test_bad_arguments(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_the_compiler_sees_them():
    x = torch.randn(2, 3, 20)
    compiled = torch.compile(lambda x: snnfast.softmax_over_time(x)[0], backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), snnfast.softmax_over_time(x)[0])

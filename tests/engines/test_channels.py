"""Sums of channels, and a line added to them: every column against the reference, and exact sums against fractions."""

from fractions import Fraction

import pytest
import torch
from conftest import DEVICE, isas, threads

from snnfast.engines import reference
from snnfast.engines.reference import channels as semantics
from snnfast.ops import channels as op

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16, "f64": torch.float64}
# (outer, C, inner): short runs and long ones, channels that fill words and that do not, one channel, one row, and nothing.
SHAPES = [
    (1, 1, 5),
    (7, 3, 1),
    (300, 16, 1),
    (260, 33, 1),
    (9, 5, 7),
    (40, 4, 16),
    (5, 3, 37),
    (3, 8, 64),
    (2, 3, 1000),
    (1, 1, 9001),
    (70, 64, 4),
    (0, 3, 4),
]
CHANNELS = [(*shape, dtype) for shape in SHAPES for dtype in DTYPES]


def tensors(outer, C, inner, dtype, device="cpu"):
    g = torch.Generator().manual_seed(outer + 31 * C + 7 * inner)
    randn = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    x, y = (randn(outer * C * inner).add(3).to(DTYPES[dtype]).to(device) for _ in range(2))
    acc = torch.float64 if dtype == "f64" else torch.float32
    return x, y, randn(C).to(device), randn(2, C).to(acc).to(device)


def check_channels(row, sums, add, device="cpu"):
    inner, (x, y, pivot, line) = row[2], tensors(*row, device)
    at_home = [t.cpu() for t in (x, pivot, line)]
    got, wanted = sums(x, pivot, inner).cpu(), semantics.sums(reference.moments, *at_home[:2], inner)
    # Each column has its own order of the sums, all in fp64: n numbers of size 4 differ by a few last bits.
    assert got.shape == wanted.shape == (2, row[1]) and got.dtype == torch.float64
    assert torch.allclose(got, wanted, rtol=1e-12, atol=1e-13 * max(1, x.numel()))
    assert torch.equal(sums(x, pivot, inner).cpu(), got)  # and two runs are the same bits
    room = torch.full((y.numel() + 64,), 77, dtype=y.dtype, device=device)
    room[32:-32] = y
    expected = y.cpu().clone()
    semantics.add(reference.moments, expected, at_home[0], at_home[2], inner)
    assert add(room[32:-32], x, line, inner) in (None, ())
    assert torch.equal(room[32:-32].cpu(), expected) and bool((room[:32] == 77).all() and (room[-32:] == 77).all())


@pytest.mark.parametrize("isa", isas(), indirect=True)
@pytest.mark.parametrize("row", CHANNELS, ids=str)
def test_cpu(isa, row):
    check_channels(row, op.channel_sums, op.channel_add)


@pytest.mark.parametrize("row", CHANNELS[::3], ids=str)
def test_triton(row):
    from snnfast.engines.triton import launch

    check_channels(row, launch.channel_sums, launch.channel_add, DEVICE)


@pytest.mark.parametrize("shape", SHAPES[:-1], ids=str)
def test_neither_threads_nor_instruction_sets_matter(shape):
    """The order of the sums is fixed: they are the same bits."""
    from snnfast import _C

    x, _, pivot, _ = tensors(*shape, "f32")
    found, before = [], _C.isa()
    try:
        for isa in _C.isas():
            _C.use_isa(isa)
            for many in (1, 2, 3):
                with threads(many):
                    found.append(op.channel_sums(x, pivot, shape[2]))
    finally:
        _C.use_isa(before)
    assert all(torch.equal(found[0], other) for other in found)


def test_moments():
    """Means and variances of a channel far from 0, against fractions."""
    x = torch.randn(6, 3, 50) + torch.tensor([0.0, 1e3, -1e6]).view(3, 1)
    mean, var = op.moments(x.flatten(), 3, 50)
    for c in range(3):
        of = [Fraction(v) for v in x[:, c].flatten().tolist()]
        exact = sum(of) / len(of)
        spread = float(sum((v - exact) ** 2 for v in of) / len(of))
        assert mean[c].item() == pytest.approx(float(exact), rel=1e-14) and var[c].item() == pytest.approx(spread, rel=1e-12)
    constant, none = op.moments(torch.full((30,), 0.1), 3, 1)
    assert torch.equal(none, torch.zeros(3, dtype=torch.float64)) and constant.tolist() == [torch.tensor(0.1).double().item()] * 3

"""Max pooling: every column against the reference, torch's function to the last bit, its gradient, bad input."""

import itertools

import pytest
import torch
from conftest import DEVICE, isas, threads
from torch.nn import functional as F

import snnfast
from snnfast.ops import pool as op

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16, "f64": torch.float64}
# (P, H, W, C), (size, stride, padding) of rows and columns
IMAGES = [(3, 8, 8, 1), (2, 7, 9, 1), (1, 32, 70, 1), (2, 5, 6, 3), (1, 4, 4, 40), (0, 4, 4, 1)]
WINDOWS = [(2, 2, 2, 2, 0, 0), (3, 3, 2, 2, 1, 1), (3, 2, 1, 1, 1, 1), (3, 3, 3, 2, 0, 1), (2, 4, 3, 5, 1, 0), (1, 1, 1, 1, 0, 0)]
POOLS = [(image, window, dtype) for (image, window), dtype in zip(itertools.product(IMAGES, WINDOWS), itertools.cycle(DTYPES))]
POOLS += [((2, 6, 37, 1), WINDOWS[1], dtype) for dtype in DTYPES]


def images(shape, dtype, device="cpu"):
    """Numbers of which many are equal, with infinities, NaN and both zeros."""
    g = torch.Generator().manual_seed(sum(shape))
    x = torch.randint(-3, 4, shape, generator=g).to(DTYPES[dtype]) / 2
    special = torch.tensor([float("nan"), float("-inf"), float("inf"), -0.0])
    places = torch.rand(shape, generator=g) < 0.05
    x[places] = special[torch.randint(4, (int(places.sum()),), generator=g)].to(x.dtype)
    return x.to(device)


def same(a, b):
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())


def check_pool(row, fwd, bwd, device="cpu"):
    shape, rule, dtype = row
    x, rule = images(shape, dtype, device), list(rule)
    y, at = fwd(x, rule)
    expected, which = op._fwd(x.cpu(), rule)
    assert same(y.cpu(), expected) and torch.equal(at.cpu(), which)
    dy = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(x.dtype)
    dx = bwd(dy.to(device), at.view(-1), *shape[1:3], rule)
    assert same(dx.cpu(), op._bwd(dy, which.view(-1), *shape[1:3], rule))


@pytest.mark.parametrize("isa", isas(), indirect=True)
@pytest.mark.parametrize("row", POOLS, ids=str)
def test_cpu(isa, row):
    check_pool(row, op.pool_fwd, op.pool_bwd)


@pytest.mark.parametrize("row", POOLS[::2], ids=str)
def test_triton(row):
    from snnfast.engines.triton import launch

    check_pool(row, launch.pool_fwd, launch.pool_bwd, DEVICE)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_is_torchs(window, channels_last):
    """Values to the last bit; of the gradient, fp64 sums of few numbers in the same order."""
    ky, kx, sy, sx, py, px = window
    x = images((2, 3, 4, 11, 13), "f64").nan_to_num(0.0, 9.0, -9.0)
    if channels_last:
        x = x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (2, 3))
    for dtype in (torch.float64, torch.float32):
        ours, theirs = (x.to(dtype).clone().requires_grad_() for _ in range(2))
        y = snnfast.max_pool2d(ours, (ky, kx), (sy, sx), (py, px))
        z = F.max_pool2d(theirs.flatten(0, 1), (ky, kx), (sy, sx), (py, px)).unflatten(0, (2, 3))
        g = torch.randn(y.shape, dtype=dtype)
        y.backward(g)
        z.backward(g)
        assert torch.equal(y, z) and torch.equal(ours.grad, theirs.grad)
    special = images((2, 3, 11, 13), "f32")
    assert same(snnfast.max_pool2d(special, (ky, kx), (sy, sx), (py, px)), F.max_pool2d(special, (ky, kx), (sy, sx), (py, px)))


def test_keeps_a_byte_for_each_window():
    x = torch.rand(4, 2, 3, 8, 8, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = snnfast.max_pool2d(x, 2)
    assert sum(t.numel() * t.element_size() for t in kept) == y.numel()
    with threads(1):
        assert torch.equal(snnfast.max_pool2d(x, 2), y)


def test_compiled_and_by_fakes():
    x = torch.rand(2, 3, 8, 8, requires_grad=True)
    compiled = torch.compile(lambda x: snnfast.max_pool2d(x, 3, 2, 1), fullgraph=True)
    assert torch.equal(compiled(x), snnfast.max_pool2d(x, 3, 2, 1))
    torch.library.opcheck(torch.ops.snnfast.pool_fwd.default, (x.detach().view(6, 8, 8, 1).requires_grad_(), [2, 2, 2, 2, 0, 0]))


@pytest.mark.parametrize(
    "given, error, message",
    [
        (dict(x=torch.zeros(4, 4)), ValueError, r"x must be \[..., C, H, W\], got shape \(4, 4\)"),
        (dict(x=torch.zeros(1, 4, 4, dtype=torch.int32)), TypeError, "x has dtype int32"),
        (dict(kernel_size=5), ValueError, "images of at least kernel_size 5 with their padding 0, got 4 x 4"),
        (dict(kernel_size=0), ValueError, "kernel_size must be >= 1"),
        (dict(kernel_size=(2, 2, 2)), ValueError, "kernel_size must be an int or two of them"),
        (dict(kernel_size=2.0), TypeError, "kernel_size must be an int"),
        (dict(kernel_size=16, x=torch.zeros(1, 16, 16)), ValueError, "at most 255 numbers, got 16"),
        (dict(padding=2), ValueError, "padding must be at most half of kernel_size 2, got 2"),
        (dict(stride=0), ValueError, "stride must be >= 1"),
    ],
)
def test_refused(given, error, message):
    with pytest.raises(error, match=message):
        snnfast.max_pool2d(**{"x": torch.zeros(1, 4, 4), "kernel_size": 2, **given})

"""The convolution over spikes: every column equals the definition, the definition equals a scalar program, and rows do not depend on each other."""

import cases
import numpy as np
import pytest
import torch
from conftest import DEVICE, isas, threads
from torch.library import opcheck
from torch.nn import functional as F

import snnfast
from snnfast.ops import conv, info
from snnfast.ops.conv import relaid

name = lambda row: "-".join(str(v).replace(" ", "") for v in row)  # noqa: E731


def scalar(x, w, bias, stride, padding, dilation):
    """The sum in Python, every product and sum rounded to fp32 by itself, in the order of the definition."""
    (R, C, H, W), (O, _, KY, KX) = x.shape, w.shape
    Ho = (H + 2 * padding[0] - dilation[0] * (KY - 1) - 1) // stride[0] + 1
    Wo = (W + 2 * padding[1] - dilation[1] * (KX - 1) - 1) // stride[1] + 1
    y = np.zeros((R, O, Ho, Wo), np.float32)
    for r, o, i, j in np.ndindex(*y.shape):
        total = np.float32(bias[o])
        for ky in range(KY):
            for kx in range(KX):
                a, b = i * stride[0] + ky * dilation[0] - padding[0], j * stride[1] + kx * dilation[1] - padding[1]
                if 0 <= a < H and 0 <= b < W:
                    for c in range(C):
                        if x[r, c, a, b] != 0:
                            total = np.float32(total + np.float32(x[r, c, a, b] * w[o, c, ky, kx]))
        y[r, o, i, j] = total
    return y


def spikes(*shape, density=0.3, dtype=torch.float32):
    return torch.randn(shape, dtype=dtype) * (torch.rand(shape) < density)


@pytest.mark.parametrize("stride, padding, dilation", [((1, 1), (1, 1), (1, 1)), ((2, 1), (0, 3), (1, 2)), ((3, 2), (2, 0), (2, 1))])
def test_a_scalar_program(stride, padding, dilation):
    x, w, bias = spikes(2, 5, 6, 7), torch.randn(3, 5, 3, 2), torch.randn(3)
    expected = scalar(x.numpy(), w.numpy(), bias.numpy(), stride, padding, dilation)
    assert np.array_equal(snnfast.spike_conv2d(x, w, bias, stride, padding, dilation).numpy(), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_torchs_convolution(dtype):
    x, w, bias = spikes(4, 20, 9, 11, dtype=dtype), torch.randn(70, 20, 3, 3, dtype=dtype), torch.randn(70, dtype=dtype)
    for options in (dict(), dict(stride=2, padding=1), dict(stride=(1, 3), padding=(2, 0), dilation=(2, 1))):
        got, expected = snnfast.spike_conv2d(x, w, bias, **options), F.conv2d(x, w, bias, **options)
        # 180 terms in another order.
        assert got.shape == expected.shape and torch.allclose(got, expected, rtol=0, atol=(1e-4 if dtype == torch.float32 else 1e-13))
    x, w = spikes(3, 24, 7, 9, dtype=dtype), torch.randn(48, 4, 3, 3, dtype=dtype)
    got, expected = snnfast.spike_conv2d(x, w, None, 2, 1, 1, 6), F.conv2d(x, w, None, 2, 1, 1, 6)
    assert torch.allclose(got, expected, rtol=0, atol=(1e-4 if dtype == torch.float32 else 1e-13))
    x, w, bias = spikes(3, 5, 300, dtype=dtype), torch.randn(33, 300, dtype=dtype), torch.randn(33, dtype=dtype)
    assert torch.allclose(snnfast.spike_linear(x, w, bias), F.linear(x, w, bias), rtol=0, atol=(1e-4 if dtype == torch.float32 else 1e-13))


def check_conv(row, fwd, out, device="cpu"):
    """fwd and out on `device` against the reference on the CPU."""
    args = cases.conv_args(row)
    expected = conv._fwd(*args)
    there = [t.to(device) if isinstance(t, torch.Tensor) else t for t in args]
    assert cases.same(fwd(*there).cpu(), expected)
    room = torch.full((expected.numel() + 64,), 77, dtype=expected.dtype, device=device)
    inside = slice(32, 32 + expected.numel())
    assert out(*there[:3], room[inside].view(expected.shape), *there[3:]) in (None, ())
    room = room.cpu()
    assert cases.same(room[inside].view(expected.shape), expected)
    assert bool((room[:32] == 77).all() and (room[inside.stop :] == 77).all()), "wrote beyond the result"


@pytest.mark.parametrize("isa", isas(), indirect=True)
@pytest.mark.parametrize("many", [1, 2, 5])
@pytest.mark.parametrize("row", cases.CONV, ids=name)
def test_cpu(isa, many, row):
    with threads(many):
        check_conv(row, conv.conv_fwd, conv.conv_out)


# Interpreted, the small ones alone, and every second of them with --thorough.
TRITON = [r for r in cases.CONV if DEVICE != "cpu" or cases.conv_work(r) < 25_000]
HALF = len(TRITON) // 2  # fp32, then fp64
SECOND = [r for i, r in enumerate(TRITON) if DEVICE == "cpu" and (i + i // HALF) % 2]


@pytest.mark.parametrize("row", [pytest.param(r, marks=pytest.mark.thorough if r in SECOND else (), id=name(r)) for r in TRITON])
def test_triton(row):
    from snnfast.engines.triton import launch

    check_conv(row, launch.conv_fwd, launch.conv_out, DEVICE)


@pytest.mark.parametrize("isa", isas(), indirect=True)
def test_every_row_by_itself(isa):
    """An image's result is the same bit for bit in any batch, at any place, beside any others."""
    x, w, bias = spikes(70, 40, 6, 6), relaid(torch.randn(96, 40, 3, 3)), torch.randn(96)
    whole = snnfast.spike_conv2d(x, w, bias, 1, 1)
    for few in (1, 2, 33):
        parts = torch.cat([snnfast.spike_conv2d(part, w, bias, 1, 1) for part in x.split(few)])
        assert torch.equal(parts, whole)
    assert torch.equal(snnfast.spike_conv2d(x.flip(0), w, bias, 1, 1).flip(0), whole)


@pytest.mark.parametrize("isa", isas(), indirect=True)
def test_weights_of_silent_inputs_are_not_read(isa):
    """Inf and NaN there change nothing; a NaN among the inputs is no zero."""
    x, w = spikes(3, 37, 5, 5), torch.randn(20, 37, 3, 3)
    x[:, 10:20], x[:, 36] = 0, 0
    clean = snnfast.spike_conv2d(x, w, padding=1)
    w[:, 10:20], w[:, 36] = float("nan"), float("inf")
    assert torch.equal(snnfast.spike_conv2d(x, w, padding=1), clean)
    x[1, 3, 2, 2] = float("nan")
    found = snnfast.spike_conv2d(x, w, padding=1).isnan()
    assert found[1, :, 1:4, 1:4].all() and found.sum() == 20 * 9


@pytest.mark.parametrize("isa", isas(), indirect=True)
@pytest.mark.parametrize("shape", [(37, 1, 37), (36, 4, 9), (48, 3, 256)], ids=str)
def test_zeros_in_groups_of_few_channels(isa, shape):
    """There every weight is read, and yet a silent input adds nothing: no NaN, and no sign of a bias of -0 is lost."""
    channels, each, outputs = shape
    x, w = spikes(3, channels, 5, 5), torch.randn(outputs // (channels // each) * (channels // each), each, 3, 3)
    groups, bias = channels // each, torch.full((len(w),), -0.0)
    x[:, :each], w[: len(w) // groups] = 0, float("inf")
    y = snnfast.spike_conv2d(x, w, bias, 1, 1, 1, groups)
    assert not y.isnan().any() and y[:, : len(w) // groups].signbit().all()
    x[1, 0, 2, 2] = float("nan")
    found = snnfast.spike_conv2d(x, w, bias, 1, 1, 1, groups).isnan()
    assert found[1, : len(w) // groups, 1:4, 1:4].all() and found.sum() == len(w) // groups * 9


def test_triton_keeps_the_sign_of_a_bias():
    from snnfast.engines.triton import launch

    for groups in (1, 4):
        args = torch.zeros(1, 2, 2, 4), torch.ones(1, 1, 4 // groups, 4), torch.full((4,), -0.0), 1, 1, 0, 0, 1, 1
        found = launch.conv_fwd(*(a.to(DEVICE) if isinstance(a, torch.Tensor) else a for a in args)).cpu()
        assert found.signbit().all() and cases.same(found, conv._fwd(*args))


def test_layouts():
    """Any layout of x and weight gives the same bits; out is written where it lies."""
    x, w, bias = spikes(3, 8, 5, 6), torch.randn(10, 8, 3, 3), torch.randn(20)[::2]
    expected = snnfast.spike_conv2d(x, w, bias, 1, 1)
    assert expected.is_contiguous(memory_format=torch.channels_last)
    assert relaid(w).permute(2, 3, 1, 0).is_contiguous() and torch.equal(relaid(w), w)
    for a in (x.to(memory_format=torch.channels_last), x.transpose(2, 3).contiguous().transpose(2, 3), torch.cat([x, x], 1)[:, :8]):
        for b in (relaid(w), w.to(memory_format=torch.channels_last)):
            assert torch.equal(snnfast.spike_conv2d(a, b, bias, 1, 1), expected)
    out = torch.empty_like(expected)
    assert snnfast.spike_conv2d(x, w, bias, 1, 1, out=out).data_ptr() == out.data_ptr() and torch.equal(out, expected)
    x, w = spikes(2, 3, 9), torch.randn(4, 9)
    out = torch.empty(2, 3, 4)
    assert torch.equal(snnfast.spike_linear(x, w, out=out), snnfast.spike_linear(x, relaid(w))) and torch.equal(
        out, snnfast.spike_linear(x, w)
    )


def test_empty_batches():
    w = torch.randn(4, 3, 3, 3)
    assert snnfast.spike_conv2d(torch.zeros(0, 3, 5, 5), w).shape == (0, 4, 3, 3)
    assert snnfast.spike_linear(torch.zeros(0, 7), torch.randn(4, 7)).shape == (0, 4)


def test_gradients():
    """They are torch's, to the last bit: the same function computes them."""
    for options in (dict(padding=1), dict(stride=(2, 1), padding=(0, 1), dilation=(1, 2))):
        leaves = [
            [
                t.requires_grad_()
                for t in (spikes(2, 4, 6, 7, dtype=torch.float64), torch.randn(5, 4, 3, 2).double(), torch.randn(5).double())
            ]
        ]
        leaves.append([t.detach().clone().requires_grad_() for t in leaves[0]])
        results = [f(*own, **options) for f, own in zip((snnfast.spike_conv2d, F.conv2d), leaves)]
        dy = torch.randn_like(results[0])
        for y in results:
            y.backward(dy)
        for a, b in zip(*leaves, strict=True):
            assert torch.allclose(a.grad, b.grad, rtol=1e-12)
    x, w = spikes(2, 6, 5, 4, dtype=torch.float64).requires_grad_(), torch.randn(4, 3, 3, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: snnfast.spike_conv2d(x, w, None, 1, 1, 1, 2), (x, w))
    x, w = (t.double().requires_grad_() for t in (torch.randn(3, 4), torch.randn(5, 4)))
    assert torch.autograd.gradcheck(snnfast.spike_linear, (x, w, None))


def test_dispatch():
    x, w, bias = spikes(2, 5, 6, 3).requires_grad_(), torch.randn(3, 2, 3, 4, requires_grad=True), torch.randn(4, requires_grad=True)
    rule = (2, 1, 1, 0, 1, 2)
    opcheck(torch.ops.snnfast.conv_fwd.default, (x, w, bias, *rule))
    opcheck(torch.ops.snnfast.conv_fwd.default, (x, w, None, *rule))
    opcheck(torch.ops.snnfast.conv_fwd.default, (x, w[:, :, :1].detach().contiguous().repeat(1, 1, 1, 3), None, *rule))  # three groups
    out = torch.zeros_like(conv.conv_fwd(x, w, bias, *rule)).detach()
    opcheck(torch.ops.snnfast.conv_out.default, (x.detach(), w.detach(), bias.detach(), out, *rule))
    f = lambda x, w: snnfast.spike_conv2d(x, w, padding=1) * 2  # noqa: E731
    a, b = spikes(2, 3, 5, 5), torch.randn(4, 3, 3, 3)
    assert torch.equal(torch.compile(f, fullgraph=True, backend="aot_eager")(a, b), f(a, b))


X, W = torch.zeros(2, 3, 5, 5), torch.zeros(4, 3, 3, 3)
WRONG = [
    (TypeError, "x must be a torch.Tensor, got list", dict(x=[1.0])),
    (TypeError, "x has dtype float16; allowed: float32, float64", dict(x=X.half())),
    (TypeError, "weight has dtype float64; allowed: float32", dict(weight=W.double())),
    (ValueError, "x must be .R, C, H, W. and weight .O, C / groups, KY, KX., got shapes", dict(x=X[0])),
    (ValueError, "x has 3 channels, but weight .* takes 1$", dict(weight=W[:, :1])),
    (ValueError, "x has 3 channels, but weight .* takes 3 in each of 2 groups", dict(groups=2)),
    (ValueError, "has 4 outputs, which are not 3 groups of one size", dict(weight=W[:, :1], groups=3)),
    (ValueError, "groups must be >= 1, got 0", dict(groups=0)),
    (ValueError, "weight must not be empty", dict(weight=W[:0])),
    (ValueError, r"bias must be \[4\], one number per output channel, got shape \(3,\)", dict(bias=torch.zeros(3))),
    (ValueError, "stride must be >= 1, got 0", dict(stride=0)),
    (ValueError, "padding must be >= 0, got -1", dict(padding=(0, -1))),
    (TypeError, "padding must be an int or a pair of ints, got 'same'", dict(padding="same")),
    (TypeError, "dilation must be an int, got float", dict(dilation=(1, 2.0))),
    (ValueError, r"x of \(5, 5\) places with padding \(0, 0\) is smaller than the kernel", dict(dilation=3)),
    (ValueError, r"out must be .* = \(2, 4, 3, 3\) in channels_last memory, got shape \(2, 4, 3, 3\)", dict(out=torch.zeros(2, 4, 3, 3))),
    (TypeError, "out has dtype float64", dict(out=torch.zeros(2, 4, 3, 3, dtype=torch.float64).to(memory_format=torch.channels_last))),
    (ValueError, r"out must be .* got shape \(2, 4, 9\)", dict(out=torch.zeros(2, 4, 9))),
    (TypeError, "out must be a torch.Tensor, got list", dict(out=[])),
    (ValueError, "weight is on meta, but x is on cpu", dict(weight=W.to("meta"))),
]


@pytest.mark.parametrize("kind, message, given", WRONG, ids=[m[:40] for _, m, _ in WRONG])
def test_errors(kind, message, given):
    with pytest.raises(kind, match=message):
        snnfast.spike_conv2d(**(dict(x=X, weight=W) | given))


def test_errors_of_linear():
    with pytest.raises(ValueError, match="x has 3 channels, but weight"):
        snnfast.spike_linear(torch.zeros(2, 3), torch.zeros(4, 5))
    with pytest.raises(ValueError, match=r"out must be contiguous of shape \(2, 4\), got shape \(4, 2\)"):
        snnfast.spike_linear(torch.zeros(2, 3), torch.zeros(4, 3), out=torch.zeros(4, 2))
    memory = torch.zeros(12)
    with pytest.raises(ValueError, match="out overlaps the memory of x"):
        snnfast.spike_linear(memory[:6].view(2, 3), torch.zeros(3, 3), out=memory[3:9].view(2, 3))


def test_the_compiled_kernels_serve_it():
    assert info.served_by("conv_fwd")["cpu"] == "C++" and info.served_by("conv_out")["cpu"] == "C++"

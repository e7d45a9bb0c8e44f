"""Exact products: every column gives the sums that int64 gives, at full scale too."""

import copy

import pytest
import torch
from conftest import DEVICE, isas, threads
from torch.library import opcheck
from torch.nn import functional as F

import snnfast
from snnfast.equations.synapses import exact as equation
from snnfast.ops import exact
from snnfast.ops.conv import Rule

# (R, C, H, W), (O, KY, KX), stride, padding, dilation, most, signed, groups
ROWS = [
    ((3, 5, 6, 7), (3, 3, 2), (1, 1), (1, 1), (1, 1), 1, False, 1),
    ((2, 64, 5, 5), (64, 3, 3), (1, 1), (1, 1), (1, 1), 1, False, 1),
    ((2, 40, 6, 5), (33, 3, 3), (2, 1), (0, 2), (1, 2), 1, True, 1),
    ((5, 33, 4, 4), (70, 1, 1), (2, 2), (0, 0), (1, 1), 4, False, 1),
    ((130, 96, 1, 1), (10, 1, 1), (1, 1), (0, 0), (1, 1), 9, True, 1),
    ((1, 130, 3, 3), (65, 3, 3), (1, 1), (1, 1), (1, 1), 127, True, 1),
    ((70, 300, 1, 1), (70, 1, 1), (1, 1), (0, 0), (1, 1), 1, False, 1),
    ((2, 300, 3, 3), (5, 3, 3), (1, 1), (1, 1), (1, 1), 1, True, 1),
    ((3, 7, 6, 7), (7, 3, 3), (1, 1), (1, 1), (1, 1), 1, False, 7),
    ((2, 70, 7, 5), (140, 3, 2), (2, 1), (1, 1), (1, 2), 127, True, 70),
    ((2, 130, 5, 5), (130, 3, 3), (2, 2), (1, 1), (1, 1), 1, True, 130),
    ((2, 12, 5, 6), (18, 5, 5), (1, 1), (4, 2), (2, 1), 4, False, 3),
    ((2, 40, 5, 5), (64, 3, 3), (1, 1), (1, 1), (1, 1), 1, False, 2),
    ((2, 24, 4, 5), (96, 3, 3), (1, 1), (1, 1), (1, 1), 9, True, 2),
    ((2, 128, 4, 4), (38, 3, 3), (1, 1), (1, 1), (1, 1), 1, False, 2),
]
KINDS = "drawn", "largest", "cancelling", "bias alone"


def name(row):
    return "-".join(str(v).replace(" ", "") for v in row)


def case(row, kind):
    """(s int8, weight, bias, weights) of a row. largest: every input and weight is, so that sums come near 2^31."""
    (R, C, H, W), (O, KY, KX), *_, most, signed, groups = row
    C, channels = C // groups, C  # of a group, and of all
    g = torch.Generator().manual_seed(R * C + O)
    weight, bias = torch.randn(O, C, KY, KX, generator=g), torch.randn(O, generator=g)
    s = torch.randint(-most if signed else 0, most + 1, (R, channels, H, W), generator=g)
    if kind == "largest":
        s, weight = torch.full_like(s, most), weight.abs()
    elif kind == "cancelling":
        s, weight = torch.full_like(s, most), torch.where(torch.arange(C)[:, None, None] % 2 == 0, 1.0, -1.0 + 1e-6).expand(O, C, KY, KX)
    elif kind == "bias alone":
        weight, bias = weight * 1e-30, bias * 1e6
        weight[0], bias[0] = 0.0, 0.0
    return s.to(torch.int8), weight, bias, snnfast.exact_weights(weight, bias, unit=0.7, most=most, signed=signed, groups=groups)


def integers(weight, bias, row):
    (_, C, *_), (O, KY, KX), *_, most, signed, groups = row
    C //= groups
    w = (weight.double() * 0.7).permute(0, 2, 3, 1).reshape(O, -1)
    w, b, e = equation.quantised(w, bias.double(), most, signed)
    return w.view(O, KY, KX, C).permute(0, 3, 1, 2), b, e


def in_int64(s, w, b, stride, padding, dilation, groups):
    """The sums, window by window, group by group."""
    if groups > 1:
        each = zip(s.chunk(groups, 1), w.chunk(groups), b.chunk(groups))
        return torch.cat([in_int64(*parts, stride, padding, dilation, 1) for parts in each], 1)
    O, C, KY, KX = w.shape
    s = F.pad(s.long(), (padding[1], padding[1], padding[0], padding[0]))
    Ho, Wo = ((n - d * (k - 1) - 1) // st + 1 for n, k, st, d in zip(s.shape[2:], (KY, KX), stride, dilation))
    total = b[None, :, None, None].expand(len(s), O, Ho, Wo).clone()
    for ky in range(KY):
        for kx in range(KX):
            y, x = ky * dilation[0], kx * dilation[1]
            window = s[:, :, y : y + (Ho - 1) * stride[0] + 1 : stride[0], x : x + (Wo - 1) * stride[1] + 1 : stride[1]]
            total += torch.einsum("rchw,oc->rohw", window, w[:, :, ky, kx])
    return total


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("row", ROWS, ids=name)
def test_the_sums_are_those_of_int64(row, kind):
    s, weight, bias, weights = case(row, kind)
    w, b, e = integers(weight, bias, row)
    total = in_int64(s, w, b, *row[2:5], row[-1])
    assert total.abs().max() < 2**31 and w.abs().max() <= equation.LARGEST
    expected = total.float() * torch.ldexp(torch.ones(len(e)), -e)[:, None, None]  # int64 to fp32: one rounding
    got = snnfast.exact_conv2d(s, weights, *row[2:5])
    assert torch.equal(got, expected) and got.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("isa", isas(), indirect=True)
@pytest.mark.parametrize("many", [1, 2, 5])
@pytest.mark.parametrize("row", ROWS, ids=name)
def test_cpu(isa, many, row):
    """The compiled kernel against the reference: spikes as bytes and as values, whose unit may differ by channel; nothing is written beside y."""
    (_, C, *_), _, *pairs, most, signed, groups = row
    rule = tuple(n for pair in pairs for n in pair)
    for kind in KINDS:
        s, weight, bias, weights = case(row, kind)
        s, unit = s.permute(0, 2, 3, 1).contiguous(), torch.linspace(0.3, 2.0, C)
        each = snnfast.exact_weights(weight, bias, unit=unit, most=most, signed=signed, groups=groups)
        for given, w in ((s, weights), (s * 0.7, weights), (s * unit, each)):
            expected = exact._fwd(given, w.per_unit, *w[:3], *rule)
            room = torch.full((expected.numel() + 64,), 77.0)
            out = room[32:-32].view(expected.shape)
            with threads(many):
                assert torch.equal(exact.exact_fwd(given, w.per_unit, *w[:3], *rule), expected)
                exact.exact_out(given, w.per_unit, *w[:3], out, *rule)
            assert torch.equal(out, expected) and bool((room[:32] == 77).all() and (room[-32:] == 77).all())


# Interpreted, each row with every second kind, in turns (127 and groups with all four); the others take another minute, with --thorough.
PAIRS = [(row, kind, DEVICE == "cpu" and (i + j + i // 8) % 2) for i, row in enumerate(ROWS) for j, kind in enumerate(KINDS)]


@pytest.mark.parametrize(
    "row, kind", [pytest.param(r, k, marks=pytest.mark.thorough if second else (), id=f"{name(r)}-{k}") for r, k, second in PAIRS]
)
def test_triton(row, kind):
    check_triton(row, kind)


def check_triton(row, kind):
    """Triton's kernel, on a GPU or interpreted, against the default one."""
    from snnfast.engines.triton import launch

    s, _, _, weights = case(row, kind)
    x, limbs = (
        s.permute(0, 2, 3, 1).contiguous().to(DEVICE),
        torch.stack(equation.limbs(weights.packed.permute(3, 0, 1, 2).long())).to(torch.int8).to(DEVICE),
    )
    rule = tuple(n for pair in row[2:5] for n in pair)
    numbers = [t.to(DEVICE) for t in (limbs, weights.bias, weights.scale)]
    per_unit = weights.per_unit.to(DEVICE)
    expected = exact.exact_fwd(s.permute(0, 2, 3, 1).contiguous(), weights.per_unit, *weights[:3], *rule)
    assert torch.equal(launch.exact_fwd(x, per_unit, *numbers, *rule).cpu(), expected)
    assert torch.equal(launch.exact_fwd(x * 0.7, per_unit, *numbers, *rule).cpu(), expected)  # as values


def test_no_input_leaves_int32():
    """Of any weights: the inputs that make the largest and the smallest sum of each output."""
    g = torch.Generator().manual_seed(0)
    for most, signed in ((1, False), (1, True), (9, False), (127, True)):
        w = torch.randn(50, 300, generator=g).double() * torch.logspace(-30, 20, 50)[:, None].double()
        b = torch.randn(50, generator=g).double() * w.abs().amax(1)
        whole, bias, e = equation.quantised(w, b, most, signed)
        up = bias + most * (whole.abs() if signed else whole.clamp(min=0)).sum(1)
        down = bias - most * (whole.abs() if signed else (-whole).clamp(min=0)).sum(1)
        assert up.max() < 2**31 and down.min() >= -(2**31)
        again, _, finer = equation.quantised(w * 0.5, b * 0.5, most, signed)
        assert torch.equal(again, whole) and torch.equal(finer, e + 1)
        # As many bits as there are: one more would leave int32, or three bytes.
        assert bool(((torch.maximum(up, -down) > 2**29.9) | (whole.abs().amax(1) > equation.LARGEST // 2 - 1)).all())


def test_limbs():
    w = torch.tensor([0, 1, -1, 127, 128, -128, -129, 65535, -65536, equation.LARGEST, -equation.LARGEST])
    found = equation.limbs(w)
    assert all(limb.abs().max() <= 128 and limb.max() < 128 for limb in found) and torch.equal(equation.whole(found), w.double())


def test_as_close_as_fp32():
    """Root mean square of the error against fp64, beside that of torch's fp32 convolution: weights here have 24 bits for the largest sum that could
    come, fp32's rounding goes by the sums that do come."""
    g = torch.Generator().manual_seed(1)
    weight, s = torch.randn(64, 128, 3, 3, generator=g), (torch.rand(8, 128, 8, 8, generator=g) < 0.2).to(torch.int8)
    true = F.conv2d(s.double() * 0.7, weight.double(), padding=1)
    error = lambda y: float((y.double() - true).square().mean().sqrt() / true.std())  # noqa: E731
    ours = error(snnfast.exact_conv2d(s, snnfast.exact_weights(weight, unit=0.7), padding=1))
    assert ours < 3 * error(F.conv2d(s.float() * 0.7, weight, padding=1)) and ours < 1e-6


def test_weights_are_made_in_parts(monkeypatch):
    """Of some outputs at a time, the numbers are the same; so are the names of what is refused. Without inputs the bias is left."""
    weight, unit = torch.randn(12, 5, 3, 3), torch.rand(15) + 0.5
    whole = snnfast.exact_weights(weight, unit=unit, groups=3)
    monkeypatch.setattr(exact, "BLOCK", 100)
    parts = snnfast.exact_weights(weight, unit=unit, groups=3)
    assert all(torch.equal(a, b) for a, b in zip(whole, parts) if isinstance(a, torch.Tensor))
    weight[9] = 3e38
    with pytest.raises(ValueError, match="weights of output 9 sum to"):
        snnfast.exact_weights(weight)
    for empty in (torch.zeros(4, 0, 3, 3), torch.zeros(4, 0)):
        weights = snnfast.exact_weights(empty, torch.arange(4.0))
        s = torch.zeros(2, *empty.shape[1:], dtype=torch.int8)
        y = snnfast.exact_conv2d(s, weights) if s.dim() == 4 else snnfast.exact_linear(s, weights)
        assert torch.equal(y.reshape(2, 4), torch.arange(4.0).expand(2, 4))


def test_linear_and_out():
    weight, s = torch.randn(7, 20), torch.randint(0, 2, (3, 4, 20), dtype=torch.int8)
    weights, out = snnfast.exact_weights(weight), torch.empty(3, 4, 7)
    got = snnfast.exact_linear(s, weights, out=out)
    assert got.data_ptr() == out.data_ptr() and torch.equal(out, snnfast.exact_linear(s, weights))
    assert torch.allclose(out, s.float() @ weight.t(), atol=1e-5)
    each = snnfast.exact_weights(weight, unit=torch.rand(20) + 0.5, signed=True)
    assert each.to("cpu").packed.equal(each.packed)


def test_op():
    s, _, _, weights = case(ROWS[2], "drawn")
    s = s.permute(0, 2, 3, 1).contiguous()
    for given in (s, s * 0.7):
        opcheck(exact.exact_fwd, (given, weights.per_unit, *weights[:3], *Rule()), test_utils=("test_schema", "test_faketensor"))


def test_no_gradient_is_lost():
    """A unit with a gradient leaves none behind; what asks for one is refused, also in torch.func."""
    s, unit = torch.ones(1, 4, 6, 6, dtype=torch.int8), torch.nn.Parameter(torch.tensor(0.5))
    weights = snnfast.exact_weights(torch.randn(5, 4, 3, 3), unit=unit)
    assert not snnfast.exact_conv2d(s, weights).requires_grad and not copy.deepcopy(weights).per_unit.requires_grad
    x = (s * 0.5).requires_grad_()
    with torch.no_grad():
        assert torch.equal(snnfast.exact_conv2d(x, weights), snnfast.exact_conv2d(s, weights))
    with pytest.raises(ValueError, match="s requires a gradient, and exact products have none"):
        snnfast.exact_conv2d(x, weights)
    for transform in (
        lambda f: torch.func.grad(lambda a: f(a).sum())(x.detach()),
        lambda f: torch.func.jvp(f, (x.detach(),), (x.detach(),)),
    ):
        with pytest.raises(RuntimeError, match="an exact product has no derivative"):
            transform(lambda a: snnfast.exact_conv2d(a, weights))


def test_weights_of_a_gpu_on_a_cpu():
    s, _, _, weights = case(ROWS[1], "drawn")
    limbs = torch.stack(equation.limbs(weights.packed.permute(3, 0, 1, 2).long())).to(torch.int8)
    loaded = weights._replace(packed=limbs)  # as torch.load(map_location="cpu") gives them
    assert torch.equal(snnfast.exact_conv2d(s, loaded), snnfast.exact_conv2d(s, weights))


S, W = torch.zeros(2, 4, 5, 5, dtype=torch.int8), torch.zeros(3, 4, 3, 3)
WRONG = {
    "weight must be finite, 1 of 4": lambda: snnfast.exact_weights(torch.tensor([[1.0, float("nan"), 0, 0]])),
    "bias must be [O] = (3,), got shape (2,)": lambda: snnfast.exact_weights(W, torch.zeros(2)),
    "weight must be [O, C / groups, KY, KX] or [O, I], got shape (3,)": lambda: snnfast.exact_weights(torch.zeros(3)),
    "most must be 1 to 127, got 128": lambda: snnfast.exact_weights(W, most=128),
    "unit must have an inverse in fp32, got 1e-39": lambda: snnfast.exact_weights(W, unit=1e-39),
    "got weights in 3 groups: exact_conv2d takes them": lambda: snnfast.exact_linear(
        S[..., 0, 0], snnfast.exact_weights(W[:, :, :1, :1], groups=3)
    ),
    "unit must be finite and > 0": lambda: snnfast.exact_weights(W, unit=0.0),
    "unit must be a number or [C] = (4,), got shape (3,)": lambda: snnfast.exact_weights(W, unit=torch.ones(3)),
    "weights of output 1 sum to": lambda: snnfast.exact_weights(torch.tensor([[1.0], [3e38]]).double() * 1e3),
    "fewer than 8388608 together": lambda: snnfast.exact_weights(torch.zeros(1, 1 << 17), most=64),
    "O a multiple of groups = 2, got shape (3, 4, 3, 3)": lambda: snnfast.exact_weights(W, groups=2),
    "unit must be a number or [C] = (12,), got shape (4,)": lambda: snnfast.exact_weights(W, unit=torch.ones(4), groups=3),
    "with C = 12, got shape (2, 4, 5, 5)": lambda: snnfast.exact_conv2d(S, snnfast.exact_weights(W, groups=3)),
    "s has dtype float64; allowed: int8, float32": lambda: snnfast.exact_conv2d(S.double(), snnfast.exact_weights(W)),
    "s must be [R, C, H, W] with C = 4, got shape (2, 3, 5, 5)": lambda: snnfast.exact_conv2d(S[:, :3], snnfast.exact_weights(W)),
    "is smaller than the kernel (3, 3)": lambda: snnfast.exact_conv2d(S[..., :1], snnfast.exact_weights(W)),
    "weights must be what snnfast.exact_weights returned, got Tensor": lambda: snnfast.exact_conv2d(S, W),
    "s must be [..., I] with I = 4": lambda: snnfast.exact_linear(S, snnfast.exact_weights(W[..., 0, 0])),
    "out must be [R, O, Ho, Wo] = (2, 3, 3, 3)": lambda: snnfast.exact_conv2d(S, snnfast.exact_weights(W), out=torch.empty(2, 3, 3, 3)),
}


@pytest.mark.parametrize("message", WRONG)
def test_refused_by_name(message):
    with pytest.raises((ValueError, TypeError)) as error:
        WRONG[message]()
    assert message in str(error.value) and "\n" not in str(error.value)

"""Where images lie: values in which they do not come first, constants of the batch's size, indices, and results that depend on no chunk or batch."""

import copy
import pickle

import pytest
import torch
from shares import every
from torch import nn
from torch.nn import functional as F

import snnfast

X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


class Own(nn.Module):
    def __init__(self, body):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.lin, self.head, self.body = (
            nn.Conv2d(3, 4, 3, padding=1),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.Linear(4, 4),
            nn.Linear(144, 3),
            body,
        )
        self.pos, self.k = nn.Parameter(torch.randn(36, 1, 4)), nn.Parameter(torch.rand(4, 1, 1))
        self.register_buffer("mask", torch.ones(36, 36).tril().bool())

    def forward(self, x):
        return self.body(self, F.relu(self.b(F.relu(self.a(x)))))


def flat(h):
    """[B, 4, 6, 6] -> [36 * B, 4], tokens before images."""
    return h.flatten(2).permute(2, 0, 1).reshape(-1, 4)


def back(s, t):
    return s.head(s.lin(t).view(36, -1, 4).permute(1, 2, 0).flatten(1))


PER_STEP = {
    "a constant of the same order": lambda s, h: back(s, flat(h) + s.pos.expand(-1, h.size(0), -1).reshape(-1, 4)),
    "a constant repeated": lambda s, h: back(s, flat(h) * s.pos.repeat(1, h.size(0), 1).flatten(0, 1)),
    "max pooling of transposed images": lambda s, h: s.head(F.max_pool2d(h.permute(1, 0, 2, 3), 3, 1, 1).permute(1, 0, 2, 3).flatten(1)),
    "channels by constant numbers": lambda s, h: s.head(h[:, [2, 0, 1, 3]].flatten(1)),
    "the lower triangle": lambda s, h: s.head(h.tril().flatten(1)),
    "between two values": lambda s, h: s.head(torch.lerp(h, h.flip(3), 0.3).flatten(1)),
    "a part overwritten": lambda s, h: s.head(_written(h).flatten(1)),
    "a value of zeros written": lambda s, h: s.head(_copied(h).flatten(1)),
    "a product with a constant, and a sum": lambda s, h: back(s, torch.addmm(s.lin.bias, flat(h), s.lin.weight)),
    "all of a value overwritten": lambda s, h: s.head((h + _replaced(h)).flatten(1)),
    "ones of each image": lambda s, h: s.head((h @ torch.ones(h.size(0), 1, 6, 6, dtype=h.dtype)).flatten(1)),
    "ReLU behind tokens first": lambda s, h: back(s, h.flatten(2).permute(2, 0, 1).sub(0.1).relu().reshape(-1, 4)),
}  # fmt: skip


def _written(h):
    t = h * 1.0
    t[:, :2] = 0.3
    return t


def _replaced(h):
    t = h * 1.0
    t[:] = torch.tensor([0.25, 0.5, 0.75, 1.0, 1.25, 1.5], dtype=h.dtype)
    return t


def _copied(h):
    t = torch.zeros_like(h)
    t[:, :2] = h[:, 2:] * 2
    return t


def one_each(h):
    return torch.ones(h.size(0), 4, 6, 6, dtype=h.dtype)


def attention(s, h, scores):
    tokens = h.flatten(2).transpose(1, 2)
    return s.head((scores(s, s.lin(tokens) @ tokens.transpose(1, 2)).softmax(-1) @ tokens).flatten(1))


DIFFERENTIAL = {
    "scores masked": lambda s, h: attention(s, h, lambda s, x: x.masked_fill(~s.mask, float("-inf"))),
    "scores chosen": lambda s, h: attention(s, h, lambda s, x: torch.where(s.mask, x, torch.tensor(float("-inf"), dtype=x.dtype))),
    "scores added to": lambda s, h: attention(s, h, lambda s, x: torch.baddbmm(s.mask[None].to(x), x, x)),
    "max pooling padded with -inf": lambda s, h: s.head(F.max_pool2d(F.pad(h, (1, 1, 1, 1), value=float("-inf")), 3, 1).flatten(1)),
    "softmax of tokens first": lambda s, h: s.head((h.flatten(2).permute(2, 0, 1) * 3).softmax(0).permute(1, 2, 0).flatten(1)),
    "GELU of tokens first": lambda s, h: s.head(F.gelu(h.flatten(2).permute(2, 0, 1)).permute(1, 2, 0).flatten(1)),
    "a function of spikes and of a constant of each image": lambda s, h: s.head(torch.atan2(h, one_each(h)).flatten(1)),
}  # fmt: skip


def check(net, snn, T, near):
    with torch.no_grad():
        wanted = net(X)
        steps = snn.logits(X, T, chunk=1)
        assert torch.allclose(snn.logits(X, T, chunk=7), steps, atol=1e-10), "depends on the chunk"  # fp64 sums in another order
        assert torch.allclose(snn.logits(X[:1], T, chunk=3), steps[:, :1], atol=1e-10), "depends on the batch"
        given = steps.sum(0) if snn.clock.differential else steps.mean(0)
        assert (given - wanted).norm() / wanted.norm() < near


@pytest.mark.parametrize("body", every(2, PER_STEP))
def test_rates(body):
    net = Own(PER_STEP[body]).double().eval()
    snn = snnfast.convert(net, "if", calibrate=X, percentile=100)
    check(net, snn, 600, 0.02)


@pytest.mark.filterwarnings("ignore:T is too small")
@pytest.mark.parametrize("body", every(2, [*DIFFERENTIAL, "a constant repeated", "ones of each image", "a part overwritten"]))
def test_differences(body):
    net = Own((DIFFERENTIAL | PER_STEP)[body]).double().eval()
    snn = snnfast.convert(net, mode="differential", calibrate=X, percentile=100, levels=128)
    check(net, snn, 600, 0.02)
    report = snnfast.evaluate(snn, [(X, torch.zeros(4, dtype=torch.long))], T=600, deterministic=True, ann=net)
    assert report.distance[-1] < 0.05


REFUSED = {
    r"index .* takes some of the images": lambda s, h: s.head(h[torch.arange(h.size(0))].flatten(1)),
    r"index .* does not give a value per image": lambda s, h: s.head(h[[0]].flatten(1)),
    r"makes a constant of a size that is not a multiple": lambda s, h: s.head(torch.eye(h.size(0), dtype=h.dtype) @ h.flatten(1)),
    r"baddbmm .* has no spiking form that commutes|matmul .* has no spiking form that commutes": lambda s, h: s.head(
        torch.baddbmm(s.pos[:6, :, 0].view(1, 6, 1).to(h), h[:, 0], h[:, 1]).flatten(1).repeat(1, 4)
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_refused(message):
    net = Own(REFUSED[message]).double().eval()
    with pytest.raises(ValueError, match=message):
        snnfast.convert(net, "if", calibrate=X)


def test_calibration_images_of_one_kind():
    net = Own(lambda s, h: s.head(h.flatten(1))).double()
    for other, told in ((torch.randn(2, 3, 8, 8).double(), r"\[3, 8, 8\], float64"), (X.float(), r"\[3, 6, 6\], float32")):
        with pytest.raises(ValueError, match=rf"calibrate must be images of one shape and dtype; one of a batch is {told}"):
            snnfast.convert(net, calibrate=[X, other])


def test_a_cast_in_a_network_of_two_formats_stays():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.h = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
            self.register_buffer("k", torch.rand(6, dtype=torch.float64) + 0.5)

        def forward(self, x):
            return self.h(F.relu(self.b((F.relu(self.a(x)) * self.k).float())))

    x, net = torch.randn(8, 4), Two().eval()
    snn = snnfast.convert(net, calibrate=x, percentile=100)
    with torch.no_grad():
        assert (snn(x, T=512) - net(x)).abs().max() < 0.02


@pytest.mark.parametrize("body", ["ones of each image", "a constant of the same order", "ReLU behind tokens first"])
def test_copies_pickles_and_other_formats(body):
    net = Own(PER_STEP[body]).double().eval()
    snn = snnfast.convert(net, "if", calibrate=X, percentile=100)
    for other in (copy.deepcopy(snn), pickle.loads(pickle.dumps(snn))):
        assert torch.equal(other.logits(X, 20), snn.logits(X, 20))
    assert torch.allclose(copy.deepcopy(snn).float()(X.float(), T=8).double(), snn(X, T=8), atol=0.3)  # spikes move by a rounding
    for dtype in (torch.float16, torch.bfloat16):
        half = copy.deepcopy(net).to(dtype)
        assert snnfast.convert(half, "if", calibrate=X.to(dtype))(X.to(dtype), T=4).dtype == dtype


def test_a_network_with_a_relu_that_stays_can_be_pickled():
    """In front of the first neuron, where no image set its threshold."""
    layers = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3), snnfast.nn.QCFS(4, 1.0), nn.Flatten(), nn.Linear(64, 3)
    with pytest.warns(UserWarning, match=r"stays analog.*: 1 \(ReLU\)"):
        snn = snnfast.convert(nn.Sequential(*layers).double(), sample=X)
    assert torch.equal(pickle.loads(pickle.dumps(snn)).logits(X, 20), snn.logits(X, 20))


def test_outputs_that_are_not_finite_are_told():
    net = Own(lambda s, h: s.head(h.flatten(1)) / (h.flatten(1).sum(1, keepdim=True) * 0)).double().eval()
    snn = snnfast.convert(net, mode="per_step", calibrate=X)
    with pytest.warns(UserWarning, match="NaN or infinite in .*output"):
        snn(X, T=4)


def test_scripted_modules_are_refused():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), torch.jit.script(nn.Linear(4, 3)))
    with pytest.raises(ValueError, match="2 is a scripted module, which is not captured"):
        snnfast.convert(net, calibrate=torch.randn(4, 4))


@pytest.mark.parametrize("mode", ["per_step", "differential"])
@pytest.mark.parametrize("weight", [0.3, torch.linspace(0, 1, 6)], ids=["a number", "numbers"])
def test_between_spikes_and_the_image(mode, weight):
    """In a lerp the image is a term that comes once, in mode "differential" as at every step."""

    class Between(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.head = torch.nn.Linear(6, 6), torch.nn.Linear(6, 4)

        def forward(self, x):
            return self.head(torch.lerp(F.relu(self.a(x)), x, weight) + torch.lerp(x, F.relu(self.a(x)), weight))

    torch.manual_seed(0)
    net, x = Between().eval(), torch.randn(8, 6)
    snn = snnfast.convert(net, calibrate=x, percentile=100.0, mode=mode, levels=256)
    assert (snn(x, T=512) - net(x)).norm() < 0.01 * net(x).norm()

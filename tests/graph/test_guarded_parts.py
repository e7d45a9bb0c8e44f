"""The guard sees a wrong output beside a large one, and a wrong network that draws random masks."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import snnfast


class Two(nn.Module):
    """Boxes of hundreds beside scores of thousandths; captured, one of them is another."""

    def __init__(self, wrong):
        super().__init__()
        self.a, self.box, self.score, self.wrong = nn.Linear(6, 16), nn.Linear(16, 4), nn.Linear(16, 3), wrong

    def forward(self, x):
        h, twice = F.relu(self.a(x)), 2 if torch.compiler.is_compiling() else 1
        sizes = {name: twice if name == self.wrong else 1 for name in ("boxes", "scores")}
        return {"boxes": sizes["boxes"] * (320 + 100 * self.box(h)), "scores": sizes["scores"] * 1e-3 * self.score(h)}


@pytest.mark.parametrize("wrong", ["boxes", "scores", None])
def test_each_output_is_compared_by_its_own_size(wrong):
    torch.manual_seed(0)
    net, x = Two(wrong).eval(), torch.randn(8, 6)
    if wrong is not None:
        with pytest.raises(ValueError, match="captured, it gives other outputs"):
            snnfast.convert(net, calibrate=x, percentile=100.0)
        return
    found = snnfast.convert(net, calibrate=x, percentile=100.0)(x, T=1024)
    assert all((found[name] - y).norm() < 0.01 * y.norm() for name, y in net(x).items())


class Nothing(nn.Module):
    """An output that is zero but for rounding."""

    def __init__(self):
        super().__init__()
        self.a, self.head = nn.Linear(6, 16), nn.Linear(16, 4)

    def forward(self, x):
        y = self.head(F.relu(self.a(x)))
        return y, (y + 1e3) - 1e3 - y


def test_rounding_alone_refuses_no_output():
    torch.manual_seed(0)
    net, x = Nothing().eval(), torch.randn(8, 6)
    assert (snnfast.convert(net, calibrate=x)(x, T=512)[0] - net(x)[0]).norm() < 0.02 * net(x)[0].norm()


class Masked(nn.Module):
    """A mask that hardly takes a spike, and a branch that only a capture takes."""

    def __init__(self, mask, wrong):
        super().__init__()
        self.a, self.act, self.head = nn.Linear(6, 6), snnfast.nn.QCFS(64, 4.0), nn.Linear(6, 4)
        self.m, self.wrong = mask, wrong

    def forward(self, x):
        y = self.head(self.m(self.act(self.a(x))))
        return y * 2 if self.wrong and torch.compiler.is_compiling() else y


class Named(nn.Module):
    """A layer with something called mask, as attention has."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.ones(6))

    def forward(self, x):
        return x * self.mask


@pytest.mark.parametrize("mask", [snnfast.nn.SpikeMask(0.001, 0), Named()], ids=["SpikeMask", "called mask"])
def test_a_mask_does_not_take_the_guard_off(mask):
    torch.manual_seed(0)
    x = torch.randn(8, 6)
    with pytest.raises(ValueError, match="captured, it gives other outputs"):
        snnfast.convert(Masked(mask, True).eval(), sample=x)
    net = Masked(mask, False).eval()
    for how in (dict(sample=x), {}):
        assert (snnfast.convert(net, **how)(x, T=512) - net(x)).norm() < 0.1 * net(x).norm()
    assert getattr(mask, "masking", 0.001) == 0.001

"""Networks that the trial of `backward_through_time` takes, whatever they compute in and whether they draw."""

import pytest
import torch
from torch import nn

import snnfast


class Dropped(nn.Module):
    """Draws by a function, in training alone."""

    def __init__(self):
        super().__init__()
        self.f = nn.Linear(6, 8)

    def forward(self, x):
        return snnfast.lif(nn.functional.dropout(self.f(x), 0.3, self.training), 0.2)[0]


class InSingle(nn.Module):
    """Computes in fp32 whatever it is given, as many a norm does."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))

    def forward(self, x):
        h = x.float()
        return (h * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-6) * self.weight.float()).to(x.dtype)


class Wants(nn.Module):
    """Takes no other dtype."""

    def __init__(self, dtype):
        super().__init__()
        self.dtype, self.net = dtype, nn.Sequential(nn.Linear(6, 8), snnfast.nn.IF(theta=1.0, carry=True), nn.Linear(8, 3))

    def forward(self, x):
        assert x.dtype == self.dtype
        return self.net(x.float())


@pytest.mark.parametrize("net, x", [
    (nn.Sequential(nn.Linear(6, 8), InSingle(), snnfast.nn.LIF(2.0), nn.Linear(8, 3)), torch.rand(16, 5, 6) * 3),
    (nn.Sequential(nn.Linear(6, 8), snnfast.nn.LIF(2.0), Dropped().train()), torch.rand(16, 5, 6) * 0.1),  # silent
    (Wants(torch.float32), torch.rand(16, 5, 6)), (Wants(torch.bfloat16), torch.rand(16, 5, 6).bfloat16()),
], ids=["fp32 inside", "draws", "fp32 alone", "bf16 alone"])  # fmt: skip
def test_valid_networks_are_not_refused(net, x):
    if isinstance(net, nn.Sequential) and isinstance(net[-1], Dropped):
        net[-1].f = nn.Linear(8, 8)
    for _ in range(2):
        snnfast.backward_through_time(net, x, chunk=4).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


def test_what_draws_and_what_is_only_looked_at_is_taken():
    net, x = Dropped().train(), torch.rand(12, 3, 6)
    snnfast.backward_through_time(net, x, chunk=3).sum().backward()
    assert net.training and net.f.weight.grad.abs().max() > 0
    with torch.inference_mode():
        found = snnfast.backward_through_time(net.eval(), x, chunk=3)
        assert torch.allclose(found, net(x), rtol=1e-5, atol=1e-6)  # products of other sizes


class OverSteps(nn.Module):
    """A batch norm that keeps no statistics over steps and images, and what may stand behind it."""

    def __init__(self, mixes):
        super().__init__()
        self.f, self.norm, self.mixes, self.last = nn.Linear(6, 8), nn.BatchNorm1d(8, track_running_stats=False), mixes, nn.Linear(8, 3)

    def forward(self, x):
        h = self.norm(self.f(x).flatten(0, 1)).unflatten(0, x.shape[:2])
        s = snnfast.lif(h, 0.2)[0]
        return self.last(s - s.mean(0) if self.mixes else s)


def test_behind_a_batch_norm_without_statistics_steps_must_not_mix():
    x, how = torch.randn(8, 5, 6), dict(chunk=2, batch_norm="chunk")
    with pytest.raises(ValueError, match="takes steps together"):
        snnfast.backward_through_time(OverSteps(True), x, **how)
    net = OverSteps(False)
    snnfast.backward_through_time(net, x, **how).sum().backward()
    assert net.norm.running_mean is None and all(p.grad is not None for p in net.parameters())

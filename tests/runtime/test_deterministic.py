"""`deterministic`: what libraries compute over time depends on no batch either."""

import pytest
import torch
from torch.nn import functional as F
from transformers import NETS, images, network

import snnfast
from snnfast import nn
from snnfast.runtime.execution import Execution


class Attention(torch.nn.Module):
    """torch's own attention between spikes, and a SiLU, of whose elements the last ones of a tensor are computed in another way."""

    def __init__(self, features=12):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.qkv, self.out = (torch.nn.Linear(features, many) for many in (features, 3 * features, 15))
        self.norm, self.act, self.last = torch.nn.LayerNorm(features), nn.QCFS(8, 1.0), nn.QCFS(8, 1.0)
        self.q, self.k, self.v = (nn.QCFS(8, 1.0) for _ in range(3))

    def forward(self, x):
        q, k, v = self.qkv(self.norm(self.act(self.embed(x)))).unflatten(2, (3, 4, -1)).permute(0, 3, 2, 1, 4).unbind(2)
        x = F.scaled_dot_product_attention(self.q(q), self.k(k), self.v(v))
        return F.silu(self.out(self.last(x.transpose(1, 2).flatten(2)).mean(1)))


@pytest.mark.parametrize("what", ["sdpa", *NETS])
def test_deterministic_runs_depend_on_no_batch(what):
    torch.manual_seed(1)
    net = Attention() if what == "sdpa" else network(what)
    x = torch.randn(7, 5, 12) if what == "sdpa" else images(net, 7)
    snn = snnfast.convert(net, mode="differential")
    run = lambda x, chunk: torch.cat(
        list(snn.chunks(x, 12, chunk, execution=Execution(snn.gm, deterministic=True), on_end=lambda *_: None))
    )
    whole = run(x, 5)
    for part in (run(x, 12), torch.cat([run(x[:1], 5), run(x[1:4], 2), run(x[4:], 5)], 1)):
        assert torch.equal(part, whole)


@pytest.mark.parametrize("groups", [1, 16])
def test_a_pooling_of_values_whose_channels_lie_side_by_side(groups):
    """The last call of a layer, which is filled up with rows of zeros, sees the memory order of the others."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1), nn.QCFS(4, 0.7), torch.nn.Conv2d(16, 16, 3, padding=1, groups=groups), torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(), torch.nn.Linear(16, 5),
    ).eval()  # fmt: skip
    snn, x = snnfast.convert(net), torch.randn(7, 3, 8, 8)
    run = lambda x, chunk: torch.cat(list(snn.chunks(x, 12, chunk, execution=Execution(snn.gm, deterministic=True))))  # noqa: E731
    whole = run(x, 12)
    for many, chunk in ((1, 12), (3, 5), (7, 1)):
        assert torch.equal(torch.cat([run(part, chunk) for part in x.split(many)], 1), whole)

"""Sizes of feature maps in the forward of a network that runs in mode "differential"."""

import pytest
import torch

import snnfast
from snnfast import nn

SIZED = {
    "slice": lambda h: h[..., : h.size(3) - 1],
    "pad": lambda h: torch.nn.functional.pad(h, (0, 8 - h.size(3))),
    "added": lambda h: h + (h.shape[1] + 1),
    "added alone": lambda h: h + h.size(1),
}


@pytest.mark.parametrize("body", SIZED.values(), ids=SIZED)
def test_sums_of_sizes_are_no_constants(body):
    """A step without constants leaves numbers out that are added to values, also where sizes make them, and none that sizes are made of."""

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.first, self.a, self.b = torch.nn.Conv2d(1, 3, 3, padding=1), nn.QCFS(8, 2.0), nn.QCFS(8, 2.0)
            self.last = torch.nn.LazyLinear(4)

        def forward(self, x):
            return self.last(self.b(torch.softmax(body(self.a(self.first(x))), -1)).flatten(1))

    net, x = Net().double().eval(), torch.randn(3, 1, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        wanted = net(x)
        found = snnfast.convert(net, mode="differential")(x, T=96)
    assert torch.allclose(found, wanted, atol=1e-9)  # 96 differences added up in fp64

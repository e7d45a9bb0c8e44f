"""A 3x3 convolution that is trained as five layers, as in the spike-driven transformer V2.

    z = BN(A x), with a border of BN(0) = beta - mean gamma / sqrt(var + eps) ;  y = BN(P D z)

A, P: 1x1 convolutions; D: a depthwise 3x3 convolution without padding. In evaluation one 3x3 convolution of x, with a border of zeros, is the same
function: `folded`. (Yao et al., "Spike-driven transformer V2", ICLR 2024.)
"""

import copy
from typing import Any

import torch
from torch import nn


class BorderedNorm(nn.Module):
    """A batch norm whose output [B, C, H, W] is given a border of one pixel: its value for 0, through which no gradient goes."""

    whole = True  # one node of a graph

    def __init__(self, channels: int):
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x):
        y = nn.functional.pad(self.bn(x), (1, 1, 1, 1))  # from here on with the running statistics of this batch, as the authors' program
        bn = self.bn
        assert bn.running_mean is not None and bn.running_var is not None
        border = (bn.bias - bn.running_mean * bn.weight / torch.sqrt(bn.running_var + bn.eps)).detach().view(1, -1, 1, 1)
        inside = nn.functional.pad(torch.ones_like(x[:1, :1]), (1, 1, 1, 1))
        return torch.where(inside.bool(), y, border.to(y.dtype))


class RepConv(nn.Module):
    """x [B, channels, H, W] -> y of the same shape."""

    def __init__(self, channels: int):
        super().__init__()
        point = [nn.Conv2d(channels, channels, 1, bias=False) for _ in range(2)]
        depth = nn.Conv2d(channels, channels, 3, groups=channels, bias=False)
        self.body = nn.Sequential(point[0], BorderedNorm(channels), nn.Sequential(depth, point[1], nn.BatchNorm2d(channels)))

    def forward(self, x):
        return self.body(x)

    def folded(self, norm: nn.BatchNorm2d | None = None) -> nn.Conv2d:
        """The 3x3 convolution that this is in evaluation, and with `norm`, that followed by it. Folded in fp64."""
        body: Any = self.body
        first, bordered, (depth, last, own) = body
        with torch.no_grad():
            gain, shift = affine(bordered.bn)
            A, D, P = first.weight.double().flatten(1), depth.weight.double().squeeze(1), last.weight.double().flatten(1)
            weight = torch.einsum("om,mxy,mi->oixy", P, D, gain[:, None] * A)
            bias = P @ (D.sum((1, 2)) * shift)
            for bn in (own, norm):
                if bn is not None:
                    gain, shift = affine(bn)
                    weight, bias = weight * gain.view(-1, 1, 1, 1), bias * gain + shift
            conv = nn.Conv2d(weight.size(1), weight.size(0), 3, padding=1).to(first.weight)
            conv.load_state_dict({"weight": weight, "bias": bias})
        return conv


def affine(bn: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    """What a batch norm multiplies by in evaluation, and adds, in fp64."""
    assert bn.running_mean is not None and bn.running_var is not None
    gain = bn.weight.double() / torch.sqrt(bn.running_var.double() + bn.eps)
    return gain, bn.bias.double() - bn.running_mean.double() * gain


def fold_repconv(net: nn.Module) -> nn.Module:
    """A copy of a network in evaluation, in which each `RepConv`, with the batch norm that follows it, is one 3x3 convolution of the same values to
    rounding: 9 C^2 products of a spike and a weight for a place in place of 2 C^2 + 9 C, of which only the first C^2 meet spikes.

    >>> net = snnfast.models.sdt_v2(dims=(16, 32, 64, 80), num_classes=10).eval()
    >>> len(snnfast.models.fold_repconv(net).state_dict()) < len(net.state_dict())
    True
    """
    if net.training:
        raise ValueError("net must be in evaluation, net.eval(): batch norms fold with their running statistics only")
    net = copy.deepcopy(net)
    for module in list(net.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, nn.Sequential) and len(layer) == 2 and isinstance(layer[0], RepConv):
                bn: Any = layer[1]
                setattr(module, name, layer[0].folded(bn))
            elif isinstance(layer, RepConv) and not (isinstance(module, nn.Sequential) and len(module) == 2):
                setattr(module, name, layer.folded())
    return net

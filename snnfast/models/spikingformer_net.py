"""Spikingformer: a transformer whose shortcuts carry real values and whose layers take spikes, with the names of its authors' checkpoints.

    block   s = SN(x) ;  q, k, v = SN(F(s)) ;  y = A(q k^T v / 8) ;  x <- x + F(y) ;  x <- x + F(SN(F(SN(x))))

F: a 1x1 convolution and its batch norm; SN: neurons with theta = 1, A with theta = 1/2 (`spiking_attention.py`).
(Zhou et al., "Spikingformer: a key foundation model for spiking neural networks", AAAI 2026; arXiv 2304.11954.)
"""

from functools import partial
from typing import Any

from torch import nn

from snnfast.models import spiking_attention
from snnfast.models.direct import each_step, register
from snnfast.models.spiking_attention import Projection, SpikingTransformer, neuron


class Attention(Projection):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads, self.proj_lif = heads, neuron()
        for name in ("q", "k", "v"):
            self._add(name, dim, dim, "conv1d")
            self.add_module(f"{name}_lif", neuron())
        self.attn_lif = neuron(0.5)
        self._add("proj", dim, dim, "conv1d")

    def forward(self, x):
        s = self.proj_lif(x)
        q, k, v = (getattr(self, f"{name}_lif")(self._project(name, s)) for name in ("q", "k", "v"))
        return self._project("proj", self.attn_lif(spiking_attention.attention(q, k, v, self.heads)))


class MLP(Projection):
    def __init__(self, dim: int, hidden: int):
        super().__init__()
        for name, c_in, c_out in (("mlp1", dim, hidden), ("mlp2", hidden, dim)):
            self.add_module(f"{name}_lif", neuron())
            self._add(name, c_in, c_out, "conv2d")

    def forward(self, x):
        for name in ("mlp1", "mlp2"):
            x = self._project(name, getattr(self, f"{name}_lif")(x))
        return x


class Block(nn.Module):
    """x, y: real values [T, B, C, N]. norm1 and norm2 stand in the checkpoints and do nothing."""

    def __init__(self, dim: int, heads: int, hidden: int):
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = nn.LayerNorm(dim), Attention(dim, heads), nn.LayerNorm(dim), MLP(dim, hidden)

    def forward(self, x):
        x = x + self.attn(x)
        return x + self.mlp(x)


class Tokens(nn.Module):
    """An image at each step, x [T, B, C, H, W] -> real values [T, B, dim, N]. names: of the five convolutions; pools: in front of which of them, from
    the second on, a pooling stands."""

    def __init__(self, in_channels: int, dim: int, names: tuple[str, ...], pools: tuple[int, ...]):
        super().__init__()
        self.names, self.pools, c_in = names, pools, in_channels
        for i, (name, c) in enumerate(zip(names, (dim // 8, dim // 4, dim // 2, dim, dim))):
            if i:
                self.add_module(f"{name}_lif", neuron())
            self.add_module(f"{name}_conv", nn.Conv2d(c_in, c, 3, 1, 1, bias=False))
            self.add_module(f"{name}_bn", nn.BatchNorm2d(c))
            c_in = c
        self.maxpool = nn.MaxPool2d(3, 2, 1)

    def forward(self, x):
        for i, name in enumerate(self.names):
            x = getattr(self, f"{name}_lif")(x) if i else x
            x = each_step(self.maxpool, x) if i in self.pools else x
            x = each_step(lambda z, name=name: getattr(self, f"{name}_bn")(getattr(self, f"{name}_conv")(z)), x)
        return x.flatten(-2)


class Spikingformer(SpikingTransformer):
    """See `spikingformer`. small: for CIFAR."""

    def __init__(self, arch: str, small: bool, *own: Any):
        names = tuple(f"block{i}" for i in range(5)) if small else ("proj", "proj1", "proj2", "proj3", "proj4")
        super().__init__(arch, partial(Tokens, names=names, pools=(3, 4) if small else (1, 2, 3, 4)), Block, *own)


@register
def spikingformer(
    depth: int = 8, dim: int = 768, heads: int = 8, mlp_ratio: float = 4.0, T: int = 4, num_classes: int = 1000, in_channels: int = 3
) -> Spikingformer:
    """Spikingformer for ImageNet (Zhou et al., arXiv 2304.11954), tokens of 16 x 16 pixels, with the authors' names: "8-768" is depth 8, dim 768.

    Args:
        depth, dim, heads: blocks, channels of a token, attention heads; a checkpoint does not say how many heads there are.
        mlp_ratio: hidden channels of a block's MLP, in dim.
        T: for how many steps an image is shown.
        num_classes, in_channels: the size of the logits, the channels of the image.

    >>> net = snnfast.models.spikingformer(depth=1, dim=32, heads=4, num_classes=10).eval()
    >>> net(torch.randn(1, 3, 32, 32)).shape
    torch.Size([1, 10])
    """
    return Spikingformer("spikingformer", False, depth, dim, heads, mlp_ratio, T, num_classes, in_channels)


@register
def spikingformer_cifar(
    depth: int = 4, dim: int = 384, heads: int = 12, mlp_ratio: float = 4.0, T: int = 4, num_classes: int = 10, in_channels: int = 3
) -> Spikingformer:
    """Spikingformer for CIFAR (Zhou et al., arXiv 2304.11954), tokens of 4 x 4 pixels, with the authors' names.

    Args: as `spikingformer`.

    >>> net = snnfast.models.spikingformer_cifar(depth=1, dim=32, heads=4).eval()
    >>> net(torch.randn(1, 3, 32, 32)).shape
    torch.Size([1, 10])
    """
    return Spikingformer("spikingformer_cifar", True, depth, dim, heads, mlp_ratio, T, num_classes, in_channels)

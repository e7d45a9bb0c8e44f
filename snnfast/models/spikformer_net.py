"""Spikformer: a transformer whose tokens are spike counts, with the names of its authors' checkpoints.

    block   q, k, v = SN(F(x)) ;  y = A(q k^T v / 8) ;  x <- x + SN(F(y)) ;  x <- x + SN(F(SN(F(x))))

F: a 1x1 convolution or a linear layer and its batch norm; SN: neurons with theta = 1, A with theta = 1/2 (`spiking_attention.py`).
(Zhou et al., "Spikformer: when spiking neural network meets transformer", ICLR 2023.)
"""

from functools import partial
from typing import Any

from torch import nn

from snnfast.models import spiking_attention
from snnfast.models.direct import each_step, register
from snnfast.models.spiking_attention import Projection, SpikingTransformer, neuron


class Attention(Projection):
    def __init__(self, dim: int, heads: int, kind: str):
        super().__init__()
        self.heads = heads
        for name in ("q", "k", "v", "proj"):
            self._add(name, dim, dim, kind)
            self.add_module(f"{name}_lif", neuron())
        self.attn_lif = neuron(0.5)

    def forward(self, x):
        q, k, v = (getattr(self, f"{name}_lif")(self._project(name, x)) for name in ("q", "k", "v"))
        return self.proj_lif(self._project("proj", self.attn_lif(spiking_attention.attention(q, k, v, self.heads))))


class MLP(Projection):
    def __init__(self, dim: int, hidden: int, kind: str):
        super().__init__()
        for name, c_in, c_out in (("fc1", dim, hidden), ("fc2", hidden, dim)):
            self._add(name, c_in, c_out, kind)
            self.add_module(f"{name}_lif", neuron())

    def forward(self, x):
        return self.fc2_lif(self._project("fc2", self.fc1_lif(self._project("fc1", x))))


class Block(nn.Module):
    """x, y: counts [T, B, C, N]. linear: linear layers, as in the networks for CIFAR. norm1 and norm2 stand in the checkpoints and do nothing."""

    def __init__(self, dim: int, heads: int, hidden: int, linear: bool = False):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim), Attention(dim, heads, "linear" if linear else "conv1d")
        self.norm2, self.mlp = nn.LayerNorm(dim), MLP(dim, hidden, "linear" if linear else "conv2d")

    def forward(self, x):
        x = x + self.attn(x)
        return x + self.mlp(x)


class Tokens(nn.Module):
    """An image at each step, x [T, B, C, H, W] -> counts [T, B, dim, N]. pools: which of the four convolutions a pooling follows."""

    def __init__(self, in_channels: int, dim: int, pools: tuple[int, ...]):
        super().__init__()
        self.pools, c_in = pools, in_channels
        for i, c in enumerate((dim // 8, dim // 4, dim // 2, dim)):
            self._add("proj", c_in, c, str(i or ""))
            c_in = c
        self._add("rpe", dim, dim)
        self.maxpool = nn.MaxPool2d(3, 2, 1)

    def _add(self, name, c_in, c_out, number=""):
        self.add_module(f"{name}_conv{number}", nn.Conv2d(c_in, c_out, 3, 1, 1, bias=False))
        self.add_module(f"{name}_bn{number}", nn.BatchNorm2d(c_out))
        self.add_module(f"{name}_lif{number}", neuron())

    def _spikes(self, name, x, number=""):
        conv, norm, fire = (getattr(self, f"{name}_{what}{number}") for what in ("conv", "bn", "lif"))
        return fire(each_step(lambda z: norm(conv(z)), x))

    def forward(self, x):
        for i in range(4):
            x = self._spikes("proj", x, str(i or ""))
            x = each_step(self.maxpool, x) if i in self.pools else x
        return (x + self._spikes("rpe", x)).flatten(-2)


class Spikformer(SpikingTransformer):
    """See `spikformer`. small: for CIFAR."""

    def __init__(self, arch: str, small: bool, *own: Any):
        pools = (2, 3) if small else (0, 1, 2, 3)
        super().__init__(arch, partial(Tokens, pools=pools), partial(Block, linear=small), *own)


@register
def spikformer(
    depth: int = 8, dim: int = 512, heads: int = 8, mlp_ratio: float = 4.0, T: int = 4, num_classes: int = 1000, in_channels: int = 3
) -> Spikformer:
    """Spikformer for ImageNet (Zhou et al., ICLR 2023), tokens of 16 x 16 pixels, with the authors' names: "Spikformer-8-512" is depth 8, dim 512.

    Args:
        depth, dim, heads: blocks, channels of a token, attention heads; a checkpoint does not say how many heads there are.
        mlp_ratio: hidden channels of a block's MLP, in dim.
        T: for how many steps an image is shown.
        num_classes, in_channels: the size of the logits, the channels of the image.

    >>> net = snnfast.models.spikformer(depth=1, dim=32, heads=4, num_classes=10).eval()
    >>> net(torch.randn(1, 3, 32, 32)).shape
    torch.Size([1, 10])
    """
    return Spikformer("spikformer", False, depth, dim, heads, mlp_ratio, T, num_classes, in_channels)


@register
def spikformer_cifar(
    depth: int = 4, dim: int = 384, heads: int = 12, mlp_ratio: float = 4.0, T: int = 4, num_classes: int = 10, in_channels: int = 3
) -> Spikformer:
    """Spikformer for CIFAR (Zhou et al., ICLR 2023), tokens of 4 x 4 pixels, linear layers in place of convolutions, with the authors' names.

    Args: as `spikformer`.

    >>> net = snnfast.models.spikformer_cifar(depth=1, dim=32, heads=4).eval()
    >>> net(torch.randn(1, 3, 32, 32)).shape
    torch.Size([1, 10])
    """
    return Spikformer("spikformer_cifar", True, depth, dim, heads, mlp_ratio, T, num_classes, in_channels)

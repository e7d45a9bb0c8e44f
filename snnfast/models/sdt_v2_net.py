"""The spike-driven transformer V2: two stages of convolutions, two of attention. Shortcuts carry real values.

    convolutions   x <- x + BN(P D SN(BN(P SN(x)))) ;  x <- x + BN(F SN(BN(F SN(x))))     P 1x1, D depthwise 7x7, F 3x3
    attention      s = SN(x) ;  q, k, v = SN(BN(R(s))) ;  x <- x + BN(R(A(q k^T v / 8))) ;  x <- x + F(SN(F(SN(x))))

R: `repconv.py`; SN: neurons with theta = 1, A with theta = 1/2. (Yao et al., "Spike-driven transformer V2: meta spiking neural network architecture
inspiring the design of next-generation neuromorphic chips", ICLR 2024.)
"""

from torch import nn

from snnfast import checks
from snnfast.models import spiking_attention
from snnfast.models.direct import DirectNetwork, each_step, over_time, register
from snnfast.models.repconv import RepConv
from snnfast.models.spiking_attention import Projection, neuron


def conv_norm(conv, norm, x):
    return each_step(lambda z: norm(conv(z)), x)


class Separable(nn.Module):
    """x: real values [T, B, C, H, W] -> what is added to them."""

    def __init__(self, dim: int, ratio: int = 2):
        super().__init__()
        hidden = ratio * dim
        self.lif1, self.pwconv1, self.bn1 = neuron(), nn.Conv2d(dim, hidden, 1, bias=False), nn.BatchNorm2d(hidden)
        self.lif2, self.dwconv = neuron(), nn.Conv2d(hidden, hidden, 7, padding=3, groups=hidden, bias=False)
        self.pwconv2, self.bn2 = nn.Conv2d(hidden, dim, 1, bias=False), nn.BatchNorm2d(dim)

    def forward(self, x):
        x = self.lif2(conv_norm(self.pwconv1, self.bn1, self.lif1(x)))
        return each_step(lambda z: self.bn2(self.pwconv2(self.dwconv(z))), x)


class ConvBlock(nn.Module):
    """x, y: real values [T, B, C, H, W]."""

    def __init__(self, dim: int, ratio: int = 4):
        super().__init__()
        self.Conv = Separable(dim)
        self.lif1, self.conv1, self.bn1 = neuron(), nn.Conv2d(dim, ratio * dim, 3, padding=1, bias=False), nn.BatchNorm2d(ratio * dim)
        self.lif2, self.conv2, self.bn2 = neuron(), nn.Conv2d(ratio * dim, dim, 3, padding=1, bias=False), nn.BatchNorm2d(dim)

    def forward(self, x):
        x = x + self.Conv(x)
        return x + conv_norm(self.conv2, self.bn2, self.lif2(conv_norm(self.conv1, self.bn1, self.lif1(x))))


class Attention(nn.Module):
    """x: real values [T, B, C, H, W] -> what is added to them."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads, self.head_lif, self.attn_lif = heads, neuron(), neuron(0.5)
        for name in ("q", "k", "v", "proj"):
            self.add_module(f"{name}_conv", nn.Sequential(RepConv(dim), nn.BatchNorm2d(dim)))
        self.q_lif, self.k_lif, self.v_lif = neuron(), neuron(), neuron()

    def forward(self, x):
        s = self.head_lif(x)
        q, k, v = (getattr(self, f"{name}_lif")(each_step(getattr(self, f"{name}_conv"), s)).flatten(-2) for name in ("q", "k", "v"))
        return each_step(self.proj_conv, self.attn_lif(spiking_attention.attention(q, k, v, self.heads)).unflatten(-1, x.shape[-2:]))


class MLP(Projection):
    """x: real values [T, B, C, N] -> what is added to them."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        for name, c_in, c_out in (("fc1", dim, hidden), ("fc2", hidden, dim)):
            self.add_module(f"{name}_lif", neuron())
            self._add(name, c_in, c_out, "conv1d")

    def forward(self, x):
        for name in ("fc1", "fc2"):
            x = self._project(name, getattr(self, f"{name}_lif")(x))
        return x


class Block(nn.Module):
    """x, y: real values [T, B, C, H, W]."""

    def __init__(self, dim: int, heads: int, hidden: int):
        super().__init__()
        self.attn, self.mlp = Attention(dim, heads), MLP(dim, hidden)

    def forward(self, x):
        x = x + self.attn(x)
        return x + self.mlp(x.flatten(-2)).unflatten(-1, x.shape[-2:])


class Down(nn.Module):
    """A convolution between stages: x [T, B, C, H, W] -> real values. first: it sees the image, without a neuron."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, first: bool = False):
        super().__init__()
        self.encode_lif = nn.Identity() if first else neuron()
        self.encode_conv, self.encode_bn = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2), nn.BatchNorm2d(c_out)

    def forward(self, x):
        return conv_norm(self.encode_conv, self.encode_bn, self.encode_lif(x))


class SDTV2(DirectNetwork):
    """See `sdt_v2`. depths: attention blocks of the last two stages."""

    def __init__(
        self, arch: str, dims: tuple[int, int, int, int], depths: tuple[int, int], heads: int, mlp_ratio: float, kd: bool, T: int, num_classes: int,
        in_channels: int,
    ):  # fmt: skip
        super().__init__(arch, T, num_classes, in_channels, dims=list(dims), depths=list(depths), heads=heads, mlp_ratio=mlp_ratio, kd=kd)
        C, (n3, n4) = sizes("dims", dims, 4), sizes("depths", depths, 2)
        if C[0] % 2 or C[2] % checks.integer("heads", heads) or C[3] % heads:
            raise ValueError(f"dims must be even in front, and its last two multiples of heads, got dims {tuple(C)} and heads {heads}")
        ratio = checks.number("mlp_ratio", mlp_ratio, positive=True)
        self.downsample1_1, self.ConvBlock1_1 = Down(in_channels, C[0] // 2, 7, 2, first=True), nn.ModuleList([ConvBlock(C[0] // 2)])
        self.downsample1_2, self.ConvBlock1_2 = Down(C[0] // 2, C[0], 3, 2), nn.ModuleList([ConvBlock(C[0])])
        self.downsample2 = Down(C[0], C[1], 3, 2)
        self.ConvBlock2_1, self.ConvBlock2_2 = nn.ModuleList([ConvBlock(C[1])]), nn.ModuleList([ConvBlock(C[1])])
        self.downsample3, self.block3 = Down(C[1], C[2], 3, 2), nn.ModuleList(Block(C[2], heads, int(C[2] * ratio)) for _ in range(n3))
        self.downsample4, self.block4 = Down(C[2], C[3], 3, 1), nn.ModuleList(Block(C[3], heads, int(C[3] * ratio)) for _ in range(n4))
        self.lif, self.head = neuron(), nn.Linear(C[3], num_classes)
        self.head_kd = nn.Linear(C[3], num_classes) if checks.yes_or_no("kd", kd) else None

    def features(self, x, T):
        x = over_time(x, T)
        for stage in (
            [self.downsample1_1], self.ConvBlock1_1, [self.downsample1_2], self.ConvBlock1_2, [self.downsample2], self.ConvBlock2_1,
            self.ConvBlock2_2, [self.downsample3], self.block3, [self.downsample4], self.block4,
        ):  # fmt: skip
            for layer in stage:
                x = layer(x)
        return self.lif(x.mean((-2, -1)))

    def last(self, features):
        if self.head_kd is None:
            return self.head(features)
        both = self.head(features), self.head_kd(features)
        return both if self.training else (both[0] + both[1]) / 2


def sizes(name, given, count):
    given = list(given) if isinstance(given, (tuple, list)) else [given]
    if len(given) != count:
        raise ValueError(f"{name} must be {count} whole numbers, got {given!r}")
    return [checks.integer(name, value) for value in given]


@register
def sdt_v2(
    dims: tuple[int, int, int, int] = (128, 256, 512, 640), depths: tuple[int, int] = (6, 2), heads: int = 8, mlp_ratio: float = 4.0,
    kd: bool = False, T: int = 4, num_classes: int = 1000, in_channels: int = 3,
) -> SDTV2:  # fmt: skip
    """Spike-driven transformer V2, or "Meta-SpikeFormer", for ImageNet (Yao et al., ICLR 2024), with the authors' names.

    Args:
        dims: channels of the four stages: (96, 192, 384, 480), 31 M parameters; (128, 256, 512, 640), 55 M; (192, 384, 768, 960), 124 M.
        depths: attention blocks of the last two stages.
        heads: attention heads; a checkpoint does not say how many there are.
        mlp_ratio: hidden channels of a block's MLP, in its channels.
        kd: with a second last layer for distillation, `head_kd`. In training the result is then the pair (logits, those of head_kd), in evaluation
            their mean.
        T: for how many steps an image is shown; the authors train with 1, then with 4.
        num_classes, in_channels: the size of the logits, the channels of the image.

    >>> net = snnfast.models.sdt_v2(dims=(16, 32, 64, 80), num_classes=10).eval()
    >>> net(torch.randn(1, 3, 32, 32)).shape
    torch.Size([1, 10])
    """
    return SDTV2("sdt_v2", dims, depths, heads, mlp_ratio, kd, T, num_classes, in_channels)

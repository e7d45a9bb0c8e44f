"""The spike-driven transformer: its attention multiplies no numbers. Shortcuts carry real values; with the names of its authors' checkpoints.

    block   s = SN(x) ;  q, k, v = SN(F(s)) ;  m = A(sum over tokens of k * v) ;  x <- x + F(q * m) ;  x <- x + F(SN(F(SN(x))))

F: a 1x1 convolution and its batch norm; SN: neurons with theta = 1, A with theta = 1/2. With tau = 2, A fires for every sum of 1 and more, and keeps
nothing: m says whether any token has both k and v. (Yao et al., "Spike-driven transformer", NeurIPS 2023.)
"""

from torch import nn

from snnfast import checks
from snnfast.models.direct import DirectNetwork, LearntSpikes, each_step, over_time, register
from snnfast.models.spiking_attention import Projection, hidden_of, neuron

MODES = ("lif", "plif")


def spikes(mode: str, theta: float = 1.0) -> nn.Module:
    """A neuron with tau = 2, or with a tau that is learnt from there on."""
    if mode == "lif":
        return neuron(theta)
    return LearntSpikes(2.0, theta=theta, reset="hard", surrogate="sigmoid", gamma=4.0, detach_reset=True)


class Attention(Projection):
    """x: real values [T, B, C, H, W] -> what is added to them. attn_lif and talking_heads stand in the checkpoints and do nothing.

    events: k, v, their product and the result each pass a maximum over 3 x 3, the last two over tokens and channels of a head.
    """

    def __init__(self, dim: int, heads: int, mode: str = "lif", events: bool = False):
        super().__init__()
        self.heads, self.shortcut_lif = heads, spikes(mode)
        for name in ("q", "k", "v"):
            self._add(name, dim, dim, "maps")
            self.add_module(f"{name}_lif", spikes(mode))
        if mode == "plif":
            self.attn_lif = spikes(mode, 0.5)
        self.talking_heads = nn.Conv1d(heads, heads, 1, bias=False)
        self.talking_heads_lif = spikes(mode, 0.5)
        self._add("proj", dim, dim, "maps")
        self.spread = nn.MaxPool2d(3, 1, 1) if events else nn.Identity()

    def forward(self, x):
        s = self.shortcut_lif(x)
        q, k, v = (getattr(self, f"{name}_lif")(self._project(name, s)) for name in ("q", "k", "v"))
        k, v = each_step(self.spread, k), each_step(self.spread, v)
        heads = [z.flatten(-2).unflatten(-2, (self.heads, -1)).mT for z in (q, k, v)]  # [T, B, h, N, d]
        m = self.talking_heads_lif(each_step(self.spread, heads[1] * heads[2]).sum(-2, keepdim=True))
        y = each_step(self.spread, heads[0] * m)
        return self._project("proj", y.mT.flatten(-3, -2).unflatten(-1, x.shape[-2:]))


class MLP(Projection):
    """x, y: real values [T, B, C, H, W]. Where the hidden channels are as many as x's, a shortcut leads around each layer."""

    def __init__(self, dim: int, hidden: int, mode: str = "lif"):
        super().__init__()
        self.each = dim == hidden
        for name, c_in, c_out in (("fc1", dim, hidden), ("fc2", hidden, dim)):
            self.add_module(f"{name}_lif", spikes(mode))
            self._add(name, c_in, c_out, "maps")

    def forward(self, x):
        y = self._project("fc1", self.fc1_lif(x))
        if self.each:
            x = y = x + y
        return x + self._project("fc2", self.fc2_lif(y))


class Block(nn.Module):
    """x, y: real values [T, B, C, H, W]."""

    def __init__(self, dim: int, heads: int, hidden: int, mode: str = "lif", events: bool = False):
        super().__init__()
        self.attn, self.mlp = Attention(dim, heads, mode, events), MLP(dim, hidden, mode)

    def forward(self, x):
        return self.mlp(x + self.attn(x))


class Tokens(nn.Module):
    """An image at each step, x [T, B, C, H, W] -> real values [T, B, dim, H', W']. pools: for each of four convolutions, "1" where a pooling follows.
    rpe_lif stands in the checkpoints and does nothing."""

    def __init__(self, in_channels: int, dim: int, pools: str, mode: str = "lif"):
        super().__init__()
        self.pools, c_in = pools, in_channels
        for i, c in enumerate((dim // 8, dim // 4, dim // 2, dim)):
            self._add("proj", c_in, c, str(i or ""))
            self.add_module(f"proj_lif{i or ''}", spikes(mode))
            c_in = c
        self._add("rpe", dim, dim)
        if mode == "plif":
            self.rpe_lif = spikes(mode)
        self.maxpool = nn.MaxPool2d(3, 2, 1)

    def _add(self, name, c_in, c_out, number=""):
        self.add_module(f"{name}_conv{number}", nn.Conv2d(c_in, c_out, 3, 1, 1, bias=False))
        self.add_module(f"{name}_bn{number}", nn.BatchNorm2d(c_out))

    def _layer(self, name, x, number=""):
        conv, norm = getattr(self, f"{name}_conv{number}"), getattr(self, f"{name}_bn{number}")
        return each_step(lambda z: norm(conv(z)), x)

    def forward(self, x):
        for i in range(4):
            x = self._layer("proj", x, str(i or ""))
            x = getattr(self, f"proj_lif{i or ''}")(x) if i < 3 else x
            x = each_step(self.maxpool, x) if self.pools[i] == "1" else x
        return x + self._layer("rpe", self.proj_lif3(x))


class SDT(DirectNetwork):
    """See `sdt`. frames: for event data."""

    def __init__(
        self, arch: str, pools: str, frames: bool, depth: int, dim: int, heads: int, mlp_ratio: float, spike_mode: str, T: int, num_classes: int,
        in_channels: int,
    ):  # fmt: skip
        super().__init__(arch, T, num_classes, in_channels, depth=depth, dim=dim, heads=heads, mlp_ratio=mlp_ratio, spike_mode=spike_mode)
        checks.choice("spike_mode", spike_mode, MODES)
        hidden = hidden_of(dim, heads, mlp_ratio)
        self.frames, self.patch_embed = frames, Tokens(in_channels, dim, pools, spike_mode)
        self.block = nn.ModuleList(Block(dim, heads, hidden, spike_mode, frames) for _ in range(checks.integer("depth", depth)))
        self.head_lif, self.head = spikes(spike_mode), nn.Linear(dim, num_classes)

    def features(self, x, T):
        x = self.patch_embed(x if self.frames else over_time(x, T))
        for block in self.block:
            x = block(x)
        return self.head_lif(x.mean((-2, -1)))

    def last(self, features):
        return self.head(features)


@register
def sdt(
    depth: int = 8, dim: int = 768, heads: int = 8, mlp_ratio: float = 4.0, spike_mode: str = "lif", T: int = 4, num_classes: int = 1000,
    in_channels: int = 3,
) -> SDT:  # fmt: skip
    """Spike-driven transformer for ImageNet (Yao et al., NeurIPS 2023), tokens of 16 x 16 pixels. "8-768" is depth 8, dim 768.

    Args:
        depth, dim, heads: blocks, channels of a token, attention heads; how many heads changes no value but in `sdt_dvs`.
        mlp_ratio: hidden channels of a block's MLP, in dim.
        spike_mode: "lif", tau = 2, or "plif", a tau for each layer that is learnt.
        T: for how many steps an image is shown.
        num_classes, in_channels: the size of the logits, the channels of the image.

    >>> net = snnfast.models.sdt(depth=1, dim=32, heads=4, num_classes=10).eval()
    >>> net(torch.randn(1, 3, 32, 32)).shape
    torch.Size([1, 10])
    """
    return SDT("sdt", "1111", False, depth, dim, heads, mlp_ratio, spike_mode, T, num_classes, in_channels)


@register
def sdt_cifar(
    depth: int = 2, dim: int = 512, heads: int = 8, mlp_ratio: float = 4.0, spike_mode: str = "lif", T: int = 4, num_classes: int = 10,
    in_channels: int = 3,
) -> SDT:  # fmt: skip
    """Spike-driven transformer for CIFAR (Yao et al., NeurIPS 2023), tokens of 4 x 4 pixels, with the authors' names.

    Args: as `sdt`.

    >>> net = snnfast.models.sdt_cifar(depth=1, dim=32, heads=4).eval()
    >>> net(torch.randn(1, 3, 32, 32)).shape
    torch.Size([1, 10])
    """
    return SDT("sdt_cifar", "0011", False, depth, dim, heads, mlp_ratio, spike_mode, T, num_classes, in_channels)


@register
def sdt_dvs(
    depth: int = 2, dim: int = 256, heads: int = 8, mlp_ratio: float = 4.0, spike_mode: str = "lif", T: int = 16, num_classes: int = 10,
    in_channels: int = 2, pooling: str = "0011",
) -> SDT:  # fmt: skip
    """Spike-driven transformer for event data (Yao et al., NeurIPS 2023): x is frames [B, T, in_channels, H, W]. With the authors' names.

    Args: as `sdt`, and
        pooling: for each of four convolutions, "1" where a pooling by 2 follows, "0" where none does.

    >>> net = snnfast.models.sdt_dvs(depth=1, dim=32, heads=4, pooling="1111").eval()
    >>> net(torch.randn(1, 4, 2, 32, 32)).shape
    torch.Size([1, 10])
    """
    if not isinstance(pooling, str) or len(pooling) != 4 or set(pooling) - set("01"):
        raise ValueError(f'pooling must be four of "0" and "1", got {pooling!r}')
    net = SDT("sdt_dvs", pooling, True, depth, dim, heads, mlp_ratio, spike_mode, T, num_classes, in_channels)
    net.config["pooling"] = pooling
    return net

"""Swin-T (Liu et al., ICCV 2021) with quantised activations, and the Masked Spiking Transformer (MST; Wang et al., ICCV 2023), which is one.

Keys of weights are timm's: `patch_embed.{proj, norm}`, `layers.N.downsample.{norm, reduction}` (N >= 1), `norm`, `head.fc`, and in each block
`layers.N.blocks.M.` `norm1`, `attn.{qkv, relative_position_bias_table, proj}`, `norm2`, `mlp.{fc1, fc2}`. Activations of a block:
`attn.{q,k,v,attn,av,proj}_act`, `mlp.{act,fc2_act}`; with the wiring "mst" also `norm1_act`, `norm2_act`, batch norms `mlp.{norm1,norm2}`, and
`patch_embed.act`, `layers.N.downsample.act`.
"""

import torch
from torch import nn

from snnfast import checks
from snnfast.models.attention import MASKED, Attention
from snnfast.models.network import Network
from snnfast.models.registry import register
from snnfast.models.tokens import NORMS, DropPath, Mlp, divided, first_weights, norm_of, places

# Features, blocks and heads of each stage.
SIZES = {"swin_tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24))}
WIRINGS = ("swin", "mst")
EPS = 1e-5
FAR = -100.0  # added to the logits of tokens that only the shift has made neighbours


class PatchEmbed(nn.Module):
    """Image [B, C, H, W] -> tokens [B, H W / patch^2, dim]."""

    def __init__(self, net, dim):
        super().__init__()
        c = net.config
        self.proj = nn.Conv2d(c["in_channels"], dim, c["patch_size"], c["patch_size"])
        self.norm, self.act = norm_of(c["norm"], dim, EPS), net.between(dim)

    def forward(self, x):
        return self.act(self.norm(self.proj(x).flatten(2).transpose(1, 2)))


class PatchMerging(nn.Module):
    """Four neighbours become one token of twice the features: x [B, side^2, dim] -> [B, side^2/4, 2 dim]."""

    def __init__(self, net, side, dim):
        super().__init__()
        self.half, self.dim = places("image_size", side, 2, "tokens that merge"), dim
        self.norm = norm_of(net.config["norm"], 4 * dim, EPS)
        self.reduction, self.act = nn.Linear(4 * dim, 2 * dim, bias=False), net.between(2 * dim)

    def forward(self, x):
        # [B, row, its half, column, its half, C]: the halves of columns come before those of rows.
        x = x.unflatten(1, (self.half, 2, self.half, 2)).permute(0, 1, 3, 4, 2, 5)
        return self.act(self.reduction(self.norm(x.flatten(3).flatten(1, 2))))


class WindowAttention(Attention):
    """Attention within windows x [B, windows, window^2, dim], with a bias for each distance of two tokens."""

    def __init__(self, net, dim, heads, window, far):
        mst = net.config["wiring"] == "mst"
        super().__init__(dim, heads, net.head_act, net.act, quantised_logits=mst)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        at = torch.stack(torch.meshgrid(torch.arange(window, device="cpu"), torch.arange(window, device="cpu"), indexing="ij")).flatten(1)
        apart = at[:, :, None] - at[:, None, :] + window - 1  # [2, tokens, tokens], each >= 0
        # In no file: constants, which are real where a network is built without memory.
        self.register_buffer("distance", apart[0] * (2 * window - 1) + apart[1], persistent=False)
        self.register_buffer("far", far, persistent=False)

    def forward(self, x):
        bias = self.relative_position_bias_table[self.distance].permute(2, 0, 1)  # [heads, tokens, tokens]
        return super().forward(x, bias if self.far is None else bias + self.far)


def _far(side, window, shift):
    """[windows, 1, tokens, tokens]: FAR where two tokens of a window are neighbours only because the image was rolled."""
    if not shift:
        return None
    part = torch.zeros(side, device="cpu")
    part[side - window : side - shift], part[side - shift :] = 1, 2
    image = 3 * part[:, None] + part[None, :]
    many = side // window
    windows = image.view(many, window, many, window).permute(0, 2, 1, 3).reshape(many * many, -1)
    apart = windows[:, :, None] != windows[:, None, :]
    return torch.where(apart, FAR, 0.0)[:, None]


class Block(nn.Module):
    """Attention within windows, shifted in every other block, then the MLP: x [B, side^2, dim].

    swin: x + attn(norm1(x)), then x + mlp(norm2(x)).  mst: x + attn(act(norm1(x))); then, with z = norm2(x), z + mlp(act(z)): the residual is the
    normalised tensor.
    """

    def __init__(self, net, dim, side, heads, shifted, share):
        super().__init__()
        c = net.config
        self.mst, self.side, self.window = c["wiring"] == "mst", side, min(c["window"], side)
        self.shift = self.window // 2 if shifted and side > self.window else 0
        self.many = places(f"the image's {side} tokens a side", side, self.window, "the window")
        self.norm1, self.norm1_act = norm_of(c["norm"], dim, EPS), net.between(dim)
        self.attn = WindowAttention(net, dim, heads, self.window, _far(side, self.window, self.shift))
        self.norm2, self.norm2_act = norm_of(c["norm"], dim, EPS), net.between(dim)
        self.mlp = Mlp(dim, int(dim * c["mlp_ratio"]), net.feature_act, c["mlp_norm"])
        self.drop_path = DropPath(share)

    def attention(self, x):
        x = x.unflatten(1, (self.side, self.side))
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), (1, 2))
        x = x.unflatten(2, (self.many, self.window)).unflatten(1, (self.many, self.window)).transpose(2, 3)
        x = self.attn(x.flatten(3, 4).flatten(1, 2))  # [B, windows, tokens, dim]
        x = x.unflatten(2, (self.window, self.window)).unflatten(1, (self.many, self.many)).transpose(2, 3)
        x = x.flatten(3, 4).flatten(1, 2)
        if self.shift:
            x = torch.roll(x, (self.shift, self.shift), (1, 2))
        return x.flatten(1, 2)

    def forward(self, x):
        x = x + self.drop_path(self.attention(self.norm1_act(self.norm1(x))))
        z = self.norm2(x)
        return (z if self.mst else x) + self.drop_path(self.mlp(self.norm2_act(z)))


class Stage(nn.Module):
    """Merging of patches (not in the first stage), then blocks."""

    def __init__(self, net, dim, side, heads, shares, merge):
        super().__init__()
        self.downsample = PatchMerging(net, 2 * side, dim // 2) if merge else nn.Identity()
        self.blocks = nn.Sequential(*(Block(net, dim, side, heads, i % 2 == 1, share) for i, share in enumerate(shares)))

    def forward(self, x):
        return self.blocks(self.downsample(x))


class Swin(Network):
    """See `swin_tiny` for the arguments."""

    kind = "transformer"
    head_weight = "head.fc.weight"

    def __init__(
        self, arch, num_classes, levels, activation, theta, width, image_size, patch_size, in_channels, dim, depths, heads, window, mlp_ratio, norm,
        drop_path, wiring, mlp_norm, masking, channel_num=None,
    ):  # fmt: skip
        checks.choice("arch", arch, tuple(SIZES))
        own = dict(image_size=image_size, patch_size=patch_size, dim=dim, depths=depths, heads=heads, window=window, mlp_ratio=mlp_ratio, norm=norm,
                   drop_path=drop_path, wiring=wiring, mlp_norm=mlp_norm)  # fmt: skip
        super().__init__(arch, num_classes, in_channels, levels, activation, theta, width, channel_num, masking, **own)
        dim, depths, heads = (asked if asked is not None else usual for asked, usual in zip((dim, depths, heads), SIZES[arch]))
        _check(own, depths, heads)
        dim, side = self.wide(checks.integer("dim", dim)), places("image_size", image_size, patch_size, "patch_size")
        shares = [drop_path * i / max(1, sum(depths) - 1) for i in range(sum(depths))]
        self.patch_embed, stages = PatchEmbed(self, dim), []
        for i, (depth, many) in enumerate(zip(depths, heads)):
            if i:
                side, dim = places("image_size", side, 2, "tokens that merge"), 2 * dim
            divided(dim, many)
            stages.append(Stage(self, dim, side, many, [shares.pop(0) for _ in range(depth)], i > 0))
        self.layers = nn.Sequential(*stages)
        self.norm = nn.LayerNorm(dim, EPS)
        self.head = nn.Sequential()
        self.head.add_module("fc", nn.Linear(dim, num_classes))
        first_weights(self)
        self.finish()

    def between(self, features):
        """What MST has behind norms, the patch embedding and the merging of patches."""
        return self.act(features, True) if self.config["wiring"] == "mst" else nn.Identity()

    def is_masked(self, name):
        return name.endswith(MASKED)

    @classmethod
    def for_images(cls, size):
        return dict(image_size=size, **(dict(patch_size=2, window=4) if size <= 64 else {}))

    def forward(self, x):
        """x: [B, in_channels, image_size, image_size] -> logits [B, num_classes]."""
        return self.head(self.norm(self.layers(self.patch_embed(x))).mean(1))


def _check(own, depths, heads):
    for name in ("image_size", "patch_size", "window"):
        checks.integer(name, own[name])
    for name, numbers in (("depths", depths), ("heads", heads)):
        if not isinstance(numbers, (tuple, list)):
            raise TypeError(f"{name} must be a tuple with a number for each stage, got {type(numbers).__name__}")
    checks.yes_or_no("mlp_norm", own["mlp_norm"])
    if len(depths) != len(heads) or not depths:
        raise ValueError(f"depths and heads need a number for each stage, got {depths} and {heads}")
    for name, numbers in (("depths", depths), ("heads", heads)):
        for number in numbers:
            checks.integer(name, number)
    checks.number("mlp_ratio", own["mlp_ratio"], positive=True)
    checks.choice("norm", own["norm"], NORMS)
    checks.choice("wiring", own["wiring"], WIRINGS)
    checks.share("drop_path", own["drop_path"])


@register(Swin)
def swin_tiny(
    num_classes: int = 10,
    levels: int = 16,
    activation: str = "s-qcfs",
    theta: float = 3.0,
    width: float = 1.0,
    image_size: int = 224,
    patch_size: int = 4,
    in_channels: int = 3,
    dim: int | None = None,
    depths: tuple[int, ...] | None = None,
    heads: tuple[int, ...] | None = None,
    window: int = 7,
    mlp_ratio: float = 4.0,
    norm: str = "ln",
    drop_path: float = 0.0,
    wiring: str = "swin",
    mlp_norm: bool = False,
    masking: float = 0.0,
    channel_num: int | None = None,
) -> Swin:
    """Swin-T with quantised activations: 96 features, blocks (2, 2, 6, 2), heads (3, 6, 12, 24), if not given otherwise.

    Args:
        num_classes: size of the logits.
        levels: quantisation levels L of every activation.
        activation: "qcfs", "s-qcfs" (theta = softplus(lam)), "e-qcfs" (exp), one threshold per layer; or HN-QCFS, per head in the attention and per
            feature in the MLP, as "hn-qcfs", "hns-qcfs", "hne-qcfs".
        theta: first threshold of every activation.
        width: factor on the features.
        image_size, patch_size: in pixels. Tokens a side are image_size/patch_size, halved by each further stage; windows must divide them.
        in_channels: channels of the image.
        dim, depths, heads: features of the first stage; blocks and attention heads of each stage. Heads must divide the features.
        window: tokens a side of a window; where a stage has fewer, it is one window.
        mlp_ratio: hidden features of the MLP, per feature.
        norm: "ln" or "bn", batch norm over tokens and images in place of layer norms (but for the last).
        drop_path: stochastic depth of the last block in training; it grows from 0 at the first.
        wiring: "swin", or "mst": activations behind the norms and on the logits instead of behind the softmax, and the MLP's residual is the
            normalised tensor.
        mlp_norm: batch norms behind fc1 and fc2, as MST's network for ImageNet has.
        masking: share of the spikes of q, k and the attention map that is masked at random, in [0, 1); see `snnfast.nn.SpikeMask`.
        channel_num: with HN-QCFS, how many of the last layers have a threshold per head or feature (None: all).

    >>> net = snnfast.models.swin_tiny(num_classes=10, image_size=32, patch_size=2, window=4, dim=12, heads=(1, 1, 2, 2))
    >>> net(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    return Swin(
        "swin_tiny", num_classes, levels, activation, theta, width, image_size, patch_size, in_channels, dim, depths, heads, window, mlp_ratio, norm,
        drop_path, wiring, mlp_norm, masking, channel_num,
    )  # fmt: skip

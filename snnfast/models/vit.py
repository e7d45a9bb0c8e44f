"""ViT-Ti/S/B (Dosovitskiy et al., ICLR 2021; Touvron et al., ICML 2021) with quantised activations.

Keys of weights are timm's: `cls_token`, `pos_embed`, `patch_embed.proj`, `blocks.N.{norm1, attn.qkv, attn.proj, norm2, mlp.fc1, mlp.fc2}`, `norm`
(`fc_norm` with pooling by the mean), `head`. Activations: `blocks.N.attn.{q,k,v,attn,av,proj}_act`, `blocks.N.mlp.{act,fc2_act}`; with the placement
"spikezip" also `patch_embed.act`, `blocks.N.{norm1_act,norm2_act}` and `norm_act`.
"""

import torch
from torch import nn
from torch.nn import functional as F

from snnfast import checks
from snnfast.models.attention import MASKED, Attention
from snnfast.models.network import Network
from snnfast.models.registry import register
from snnfast.models.tokens import NORMS, DropPath, Mlp, divided, first_weights, norm_of, places

# Features, blocks, heads.
SIZES = {"vit_tiny": (192, 12, 3), "vit_small": (384, 12, 6), "vit_base": (768, 12, 12)}
POOLS = ("token", "mean")
PLACEMENTS = ("hn", "spikezip")
SIGNS = ("authors", "all", "none")
EPS = 1e-6


class PatchEmbed(nn.Module):
    """Image [B, C, H, W] -> tokens [B, H W / patch^2, dim]."""

    def __init__(self, channels, dim, patch, act):
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch, patch)
        self.act = act(dim)

    def forward(self, x):
        return self.act(self.proj(x).flatten(2).transpose(1, 2))


class Block(nn.Module):
    """x + attn(norm1(x)), then x + mlp(norm2(x)): x [B, tokens, dim]."""

    def __init__(self, net, share):
        super().__init__()
        c = net.config
        self.norm1, self.norm1_act = norm_of(c["norm"], net.dim, EPS), net.between(net.dim)
        self.attn = Attention(net.dim, net.heads, net.head_act, net.act, c["qkv_bias"])
        self.norm2, self.norm2_act = norm_of(c["norm"], net.dim, EPS), net.between(net.dim)
        self.mlp = Mlp(net.dim, int(net.dim * c["mlp_ratio"]), net.feature_act)
        self.drop_path = DropPath(share)

    def forward(self, x):
        x = x + self.drop_path(self.attn(self.norm1_act(self.norm1(x))))
        return x + self.drop_path(self.mlp(self.norm2_act(self.norm2(x))))


class ViT(Network):
    """See `vit_tiny` for the arguments."""

    kind = "transformer"

    def __init__(
        self, arch, num_classes, levels, activation, theta, width, image_size, patch_size, in_channels, dim, depth, heads, mlp_ratio, norm, pool,
        class_token, qkv_bias, drop_path, placement, channel_num=None,
        masking=0.0, signs="authors",
    ):  # fmt: skip
        checks.choice("arch", arch, tuple(SIZES))
        own = dict(image_size=image_size, patch_size=patch_size, dim=dim, depth=depth, heads=heads, mlp_ratio=mlp_ratio, norm=norm, pool=pool,
                   class_token=class_token, qkv_bias=qkv_bias, drop_path=drop_path, placement=placement, signs=signs)  # fmt: skip
        super().__init__(arch, num_classes, in_channels, levels, activation, theta, width, channel_num, masking, **own)
        dim, depth, self.heads = (asked if asked is not None else usual for asked, usual in zip((dim, depth, heads), SIZES[arch]))
        _check(own, depth, self.heads, activation)
        self.dim = self.wide(checks.integer("dim", dim))
        divided(self.dim, self.heads)
        tokens = places("image_size", image_size, patch_size, "patch_size") ** 2
        self.patch_embed = PatchEmbed(in_channels, self.dim, patch_size, self.between)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, self.dim)) if class_token else None
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens + bool(class_token), self.dim))
        self.blocks = nn.Sequential(*(Block(self, drop_path * i / max(1, depth - 1)) for i in range(depth)))
        setattr(
            self, "norm" if pool == "token" else "fc_norm", norm_of(norm, self.dim, EPS) if pool == "token" else nn.LayerNorm(self.dim, EPS)
        )
        self.norm_act = self.between(self.dim)
        self.head = nn.Linear(self.dim, num_classes)
        first_weights(self)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        if class_token and not self.cls_token.is_meta:  # as in Network.finish
            nn.init.normal_(self.cls_token, std=1e-6)
        self.finish()

    def between(self, features):
        """What stands behind a norm and the patch embedding."""
        return self.act(features, True) if self.config["placement"] == "spikezip" else nn.Identity()

    def is_masked(self, name):
        return name.endswith(MASKED)

    def position(self):
        """What is added to the tokens: the positions, and the class token, whose own place is zero before. A constant of its own is what runs over
        time can add once or at every step."""
        if self.cls_token is None:
            return self.pos_embed
        return torch.cat((self.cls_token + self.pos_embed[:, :1], self.pos_embed[:, 1:]), 1)

    @classmethod
    def for_images(cls, size):
        return dict(image_size=size, **(dict(patch_size=4) if size <= 64 else {}))

    def forward(self, x):
        """x: [B, in_channels, image_size, image_size] -> logits [B, num_classes]."""
        x = self.patch_embed(x)
        if self.cls_token is not None:
            x = F.pad(x, (0, 0, 1, 0))
        x = self.blocks(x + self.position())
        if self.config["pool"] == "token":
            return self.head(self.norm_act(self.norm(x))[:, 0])
        x = (x if self.cls_token is None else x[:, 1:]).mean(1)
        return self.head(self.norm_act(self.fc_norm(x)))


def _check(own, depth, heads, activation):
    for name in ("image_size", "patch_size"):
        checks.integer(name, own[name])
    checks.integer("depth", depth)
    checks.integer("heads", heads)
    checks.number("mlp_ratio", own["mlp_ratio"], positive=True)
    checks.choice("norm", own["norm"], NORMS)
    checks.choice("pool", own["pool"], POOLS)
    checks.choice("placement", own["placement"], PLACEMENTS)
    checks.choice("signs", own["signs"], SIGNS)
    for name in ("class_token", "qkv_bias"):
        checks.yes_or_no(name, own[name])
    checks.share("drop_path", own["drop_path"])
    if own["placement"] == "spikezip" and activation != "lsq":
        raise ValueError(f"placement='spikezip' quantises norms, which have signs: it needs activation 'lsq', got {activation!r}")
    if own["signs"] != "authors" and activation != "lsq":
        raise ValueError(f"signs={own['signs']!r} is of activation 'lsq', whose levels can have a sign, not of {activation!r}")
    if own["pool"] == "token" and not own["class_token"]:
        raise ValueError("pool='token' reads the class token: it needs class_token=True")


def _make(arch):
    dim, depth, heads = SIZES[arch]

    def build(
        num_classes: int = 10,
        levels: int = 16,
        activation: str = "s-qcfs",
        theta: float = 3.0,
        width: float = 1.0,
        image_size: int = 224,
        patch_size: int = 16,
        in_channels: int = 3,
        dim: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        mlp_ratio: float = 4.0,
        norm: str = "ln",
        pool: str = "token",
        class_token: bool = True,
        qkv_bias: bool = True,
        drop_path: float = 0.0,
        placement: str = "hn",
        channel_num: int | None = None,
        masking: float = 0.0,
        signs: str = "authors",
    ) -> ViT:
        return ViT(
            arch, num_classes, levels, activation, theta, width, image_size, patch_size, in_channels, dim, depth, heads, mlp_ratio, norm, pool,
            class_token, qkv_bias, drop_path, placement, channel_num, masking, signs,
        )  # fmt: skip

    build.__name__ = build.__qualname__ = arch
    build.__doc__ = f"""{arch.replace("vit_", "ViT-")} with quantised activations: {dim} features, {depth} blocks and {heads} heads if not given.

    Args:
        num_classes: size of the logits.
        levels: quantisation levels L of every activation.
        activation: "qcfs", "s-qcfs" (theta = softplus(lam)), "e-qcfs" (exp), one threshold per layer; HN-QCFS, per head in the attention and per
            feature in the MLP, as "hn-qcfs", "hns-qcfs", "hne-qcfs"; or "lsq", signed levels with a learned step, as SpikeZIP has them.
        theta: first threshold of every activation.
        width: factor on the features.
        image_size, patch_size: in pixels; the first is a multiple of the second.
        in_channels: channels of the image.
        dim, depth, heads: features, blocks and attention heads, which must divide the features.
        mlp_ratio: hidden features of the MLP, per feature.
        norm: "ln" or "bn", batch norm over tokens and images in place of the blocks' layer norms.
        pool: "token", the class token's features are read, or "mean" of all others.
        class_token: whether there is one.
        qkv_bias: whether the projection to q, k and v has a bias.
        drop_path: stochastic depth of the last block in training; it grows from 0 at the first.
        placement: of activations: "hn", on q, k, v, the softmax's output, attention times v, the projection, fc1 and fc2; or "spikezip": also
            behind the patch embedding and every norm, so that all matrix products take spikes; it needs activation "lsq".
        channel_num: with HN-QCFS, how many of the last layers have a threshold per head or feature (None: all).
        masking: share of the spikes of q, k and the attention map that is masked at random, in [0, 1); see `snnfast.nn.SpikeMask`.
        signs: with "lsq", which levels have a sign: "authors", all but those behind the softmax and fc1, "all" or "none".

    >>> net = snnfast.models.{arch}(num_classes=10, image_size=16, patch_size=4, dim=24, depth=2, heads=2)
    >>> net(torch.zeros(2, 3, 16, 16)).shape
    torch.Size([2, 10])
    """
    return register(ViT)(build)


vit_tiny, vit_small, vit_base = (_make(a) for a in SIZES)

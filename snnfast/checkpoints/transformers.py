"""Checkpoints of transformers that other programs left: their names in ours, and the network that their shapes tell.

    family     threshold key, shape    theta    what the file does not say
    mst        .up (1,)                raw      levels                          (Masked Spiking Transformer: Swin-T with batch norms)
    spikezip   .s []                   raw      levels; which have a sign       (SpikeZIP-TF: ViT)

Both lie under "model" beside a configuration that is an object; `snnfast extract` takes the weights out of such a file.
"""

import re

from snnfast import checks, models
from snnfast.models.vit import SIGNS

FAMILIES = ("mst", "spikezip")
# MST's constants, which are made again: distances of tokens in a window, masks of shifted windows.
_CONSTANTS = ("relative_position_index", "attn_mask")
_MST = (
    ("patch_embed.proj_if.up", "patch_embed.act.thresh"),
    ("shortcut1_if.up", "norm1_act.thresh"),
    ("shortcut2_if.up", "norm2_act.thresh"),
    ("attn.attn_v_if.up", "attn.av_act.thresh"),
    ("mlp.fc1_if.up", "mlp.act.thresh"),
    ("mlp.fc2_if.up", "mlp.fc2_act.thresh"),
    ("downsample.reduction_if.up", "downsample.act.thresh"),
)
_SPIKEZIP = (
    (r"patch_embed\.proj\.0\.", "patch_embed.proj."),
    (r"patch_embed\.proj\.1\.s$", "patch_embed.act.s"),
    (r"\b(norm|fc_norm)\.0\.", r"\1."),
    (r"\b(norm|fc_norm)\.1\.s$", "norm_act.s"),
    (r"\b(norm[12])\.0\.", r"\1."),
    (r"\b(norm[12])\.1\.s$", r"\1_act.s"),
    (r"attn\.quan_(\w+)\.s$", r"attn.\1_act.s"),
    (r"attn\.attn_quan\.s$", "attn.attn_act.s"),
    (r"attn\.after_attn_quan\.s$", "attn.av_act.s"),
    (r"mlp\.act\.0\.s$", "mlp.act.s"),
    (r"mlp\.fc2\.0\.", "mlp.fc2."),
    (r"mlp\.fc2\.1\.s$", "mlp.fc2_act.s"),
)


def family_of(state):
    """ "mst", "spikezip" or None, by the names in a file."""
    if any(key.endswith("shortcut1_if.up") for key in state):
        return "mst"
    return "spikezip" if any(key.endswith("attn.quan_q.s") for key in state) else None


def without_constants(state):
    return {key: t for key, t in state.items() if not key.endswith(_CONSTANTS)}


def read(family, state, masks, path, arch, num_classes, levels, threshold, signs, options):
    """(config, state dict in our names). masks: MST's masks of shifted windows by name."""
    if threshold is not None:
        raise ValueError(f"threshold={threshold!r} is of family 'cs-qcfs'; thresholds of {family!r} are raw")
    if levels is None:
        raise ValueError(f"{path} does not store the quantisation levels it was trained with: give levels=")
    if family == "mst":
        if signs is not None:
            raise ValueError("signs is of family 'spikezip'; levels of 'mst' have none")
        state = _renamed_mst(state, path)
        config = _swin(state, masks)
    else:
        if signs is None:
            raise ValueError(
                f"{path} does not store which of its levels have a sign: give signs='authors' (all but those behind the softmax and fc1), 'all' or "
                "'none'"
            )
        state = _renamed_spikezip(state, path)
        config = _vit(state) | dict(activation="lsq", placement="spikezip", signs=checks.choice("signs", signs, SIGNS))
    if arch not in (None, config["arch"]):
        raise ValueError(f"{path} holds a {config['arch']}, by its shapes, not arch={arch!r}")
    classes = _size(state, _head(config), 0) if _head(config) in state else None
    if num_classes not in (None, classes):
        raise ValueError(f"{path} is of {classes} classes, not of num_classes={num_classes}")
    return dict(levels=levels, num_classes=classes, theta=3.0, width=1.0, channel_num=None, drop_path=0.0) | config | options, state


def _head(config):
    return models.CLASS_OF[config["arch"]].head_weight


def _renamed_mst(state, path):
    found = {}
    for key, t in state.items():
        for theirs, ours in _MST:
            key = key.replace(theirs, ours)
        key = re.sub(r"attn\.(q|k|v|attn|proj)_if\.up$", r"attn.\1_act.thresh", key)
        # They merge patches at the end of a stage, timm at the beginning of the next.
        key = re.sub(r"layers\.(\d+)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample", key)
        _put(found, re.sub(r"^head\.(weight|bias)$", r"head.fc.\1", key), t, path)
    return found


def _renamed_spikezip(state, path):
    found = {}
    for key, t in state.items():
        for theirs, ours in _SPIKEZIP:
            key = re.sub(theirs, ours, key)
        _put(found, key, t, path)
    return found


def _put(found, key, t, path):
    if key in found:
        raise ValueError(f"{path} has two tensors for {key}")
    found[key] = t


def _many(state, pattern):
    """How many different numbers stand at the place of the group of a pattern."""
    return len({m[1] for m in (re.match(pattern, key) for key in state) if m})


def _size(state, key, dim):
    """A size of a weight, or 1 where it is not there: what is missing is told later, by name."""
    return state[key].size(dim) if key in state and state[key].dim() > dim else 1


def _swin(state, masks):
    stages = max(1, _many(state, r"layers\.(\d+)\.blocks"))
    tables = [f"layers.{i}.blocks.0.attn.relative_position_bias_table" for i in range(stages)]
    windows = [(1 + round(_size(state, key, 0) ** 0.5)) // 2 for key in tables]
    patch, dim = _size(state, "patch_embed.proj.weight", 2), _size(state, "patch_embed.proj.weight", 0)
    many = next((t.size(0) for key, t in masks.items() if key.startswith("layers.0.")), 1)  # windows of the first stage
    return dict(
        arch="swin_tiny", activation="qcfs", in_channels=_size(state, "patch_embed.proj.weight", 1), image_size=patch * windows[0] * round(many**0.5),
        patch_size=patch, dim=dim, depths=[max(1, _many(state, rf"layers\.{i}\.blocks\.(\d+)\.")) for i in range(stages)],
        heads=[_size(state, key, 1) for key in tables], window=max(windows),
        mlp_ratio=_size(state, "layers.0.blocks.0.mlp.fc1.weight", 0) / dim, norm="bn", wiring="mst",
        mlp_norm="layers.0.blocks.0.mlp.norm1.weight" in state, masking=0.0,
    )  # fmt: skip


def _vit(state):
    patch, dim = _size(state, "patch_embed.proj.weight", 2), _size(state, "patch_embed.proj.weight", 0)
    token = "cls_token" in state
    arch = {192: "vit_tiny", 384: "vit_small", 768: "vit_base"}.get(dim, "vit_tiny")
    return dict(
        arch=arch, in_channels=_size(state, "patch_embed.proj.weight", 1), image_size=patch * round((_size(state, "pos_embed", 1) - token) ** 0.5),
        patch_size=patch, dim=dim, depth=max(1, _many(state, r"blocks\.(\d+)\.")), heads=max(1, dim // 64), class_token=token,
        mlp_ratio=_size(state, "blocks.0.mlp.fc1.weight", 0) / dim, norm="ln", pool="mean" if "fc_norm.weight" in state else "token",
        qkv_bias="blocks.0.attn.qkv.bias" in state,
    )  # fmt: skip

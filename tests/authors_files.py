"""State dicts as the authors' programs write them, made of those of our networks."""

import re

from snnfast.checkpoints import convolutional


def as_older(state):
    """Names of the SRP, COS and older QCFS programs: .up, and relu behind a residual addition."""
    return {
        key.removesuffix(".thresh").removesuffix(".lam").replace("act", "relu") + ".up" if convolutional.is_threshold(key) else key: t
        for key, t in state.items()
    }


def as_mst(net):
    """The state dict as MST's program writes it: neurons named _if with `up`, merging at a stage's end, constants beside the weights."""
    names = {"norm1_act": "shortcut1_if", "norm2_act": "shortcut2_if", "q_act": "q_if", "k_act": "k_if", "v_act": "v_if", "attn_act": "attn_if",
             "av_act": "attn_v_if", "proj_act": "proj_if", "fc2_act": "fc2_if"}  # fmt: skip
    found = {}
    for key, t in net.state_dict().items():
        key = key.replace("head.fc.", "head.").replace("patch_embed.act.", "patch_embed.proj_if.").replace("mlp.act.", "mlp.fc1_if.")
        key = key.replace("downsample.act.", "downsample.reduction_if.")
        for ours, theirs in names.items():
            key = key.replace(f".{ours}.", f".{theirs}.")
        key = re.sub(r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", key)
        found[key.replace(".thresh", ".up")] = t
    for name, m in net.named_modules():
        if hasattr(m, "distance"):
            found[f"{name}.relative_position_index"] = m.distance
            if m.far is not None:
                found[f"{name.removesuffix('.attn')}.attn_mask"] = m.far[:, 0]
    return found


def as_spikezip(net):
    """As SpikeZIP's program writes it: quantisers second in a Sequential, or in the attention as quan_q, attn_quan, after_attn_quan."""
    found = {}
    for key, t in net.state_dict().items():
        key = re.sub(r"^patch_embed\.proj\.", "patch_embed.proj.0.", key).replace("patch_embed.act.", "patch_embed.proj.1.")
        key = re.sub(r"(norm[12])\.(weight|bias)$", r"\1.0.\2", key).replace("norm1_act.", "norm1.1.").replace("norm2_act.", "norm2.1.")
        key = re.sub(r"^(norm|fc_norm)\.(weight|bias)$", r"\1.0.\2", key)
        key = key.replace("norm_act.", "norm.1." if "norm.weight" in net.state_dict() else "fc_norm.1.")
        key = re.sub(r"attn\.([qkv]|proj)_act", r"attn.quan_\1", key)
        key = key.replace("attn.attn_act", "attn.attn_quan").replace("attn.av_act", "attn.after_attn_quan")
        key = key.replace("mlp.fc2.", "mlp.fc2.0.").replace("mlp.fc2_act.", "mlp.fc2.1.").replace("mlp.act.", "mlp.act.0.")
        found[key] = t
    return found

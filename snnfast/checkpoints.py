"""snnfast's own checkpoint format: weights, and all that is needed to build and use the network again."""

import torch

from snnfast import models
from snnfast.nn import is_quantised, threshold_of
from snnfast.ops import checks

FORMAT = "snnfast-1"


def save_checkpoint(path, net, /, **facts):
    """Writes a network of `snnfast.models`, its configuration, and `facts` (preprocessing, training; plain values only)."""
    if not hasattr(net, "config"):
        raise TypeError(f"net must be a network of snnfast.models, got {type(net).__name__}")
    for key, value in facts.items():
        _check_plain(key, value)
    torch.save({"format": FORMAT, "config": net.config, "state_dict": net.state_dict(), "facts": facts}, path)


def _check_plain(key, value):
    if isinstance(value, (list, tuple)):
        for v in value:
            _check_plain(key, v)
    elif type(value) not in (int, float, str, bool, type(None)):
        raise TypeError(f"fact {key} is a {type(value).__name__}; safe loading takes numbers, strings, booleans and lists of them")


def load_checkpoint(path):
    """Reads what `save_checkpoint` wrote, with safe loading. Returns (net in eval mode, facts)."""
    try:
        file = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch.load raises many kinds
        raise ValueError(f"{path} is not a readable checkpoint: {error}") from error
    if not isinstance(file, dict) or file.get("format") != FORMAT:
        raise ValueError(f"{path} is not a checkpoint of snnfast (format {FORMAT!r})")
    try:
        net = models.VGG(**file["config"])
        net.to(next(t.dtype for t in file["state_dict"].values() if t.is_floating_point()))
        net.load_state_dict(file["state_dict"])
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    for name, module in net.named_modules():
        if is_quantised(module):
            checks.positive(f"threshold of {name} in {path}", threshold_of(module))
    return net.eval(), file["facts"]

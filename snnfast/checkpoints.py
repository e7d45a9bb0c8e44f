"""snnfast's own checkpoint format: weights, and all that is needed to build and use the network again."""

import torch

from snnfast import models

FORMAT = "snnfast-1"


def save_checkpoint(path, net, **facts):
    """Writes a network of `snnfast.models`, its configuration, and `facts` (preprocessing, training; plain values only)."""
    torch.save({"format": FORMAT, "config": net.config, "state_dict": net.state_dict(), "facts": facts}, path)


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
    net = models.VGG(**file["config"])
    net.load_state_dict(file["state_dict"])
    return net.eval(), file["facts"]

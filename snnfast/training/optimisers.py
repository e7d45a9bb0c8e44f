"""Two-stage training: from a layer-wise network to the channel-wise one that starts at the same function."""

from collections.abc import Callable
from typing import Any

import torch

from snnfast import checks


def parameter_groups(net, weight_decay, everywhere=False):
    """Optimiser groups: weight decay on weights, none on thresholds, biases and batch norm unless `everywhere`."""
    if everywhere:
        return [{"params": list(net.parameters()), "weight_decay": weight_decay}]
    decayed = {id(m.weight) for m in net.modules() if isinstance(m, (torch.nn.modules.conv._ConvNd, torch.nn.Linear))}
    yes = [p for p in net.parameters() if id(p) in decayed]
    no = [p for p in net.parameters() if id(p) not in decayed]
    return [{"params": yes, "weight_decay": weight_decay}, {"params": no, "weight_decay": 0.0}]


STATES = {"sgd": 1, "adamw": 2, "lamb": 2}  # of each weight: momentum; two moments
OPTIMISERS = tuple(STATES)
MORE: dict[str, Callable[[Any, float], torch.optim.Optimizer]] = {}  # of other packages: `lamb.py`


def optimiser_of(name, groups, lr, nesterov=False):
    """The optimiser of these groups by name; "sgd" has momentum 0.9, "lamb" is timm's."""
    if checks.choice("optimiser", name, OPTIMISERS) == "adamw":
        return torch.optim.AdamW(groups, lr=lr)
    if name in MORE:
        return MORE[name](groups, lr)
    return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=nesterov)


def warmed_cosine(optimiser, epochs, warmup=0):
    """A cosine from the optimiser's rate to 0, after `warmup` epochs (at most all but one) in which the rate rises to it."""
    warmup, kinds = min(warmup, max(0, epochs - 1)), torch.optim.lr_scheduler
    cosine = kinds.CosineAnnealingLR(optimiser, max(1, epochs - warmup))
    if not warmup:
        return cosine
    return kinds.SequentialLR(optimiser, [kinds.LinearLR(optimiser, 1 / (warmup + 1), 1.0, warmup), cosine], [warmup])

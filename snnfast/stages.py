"""Two-stage training: from a layer-wise network to the channel-wise one that starts at the same function."""

import torch

from snnfast import models, nn
from snnfast.models.activation import FINE_OF
from snnfast.ops import checks


def to_channelwise(net, channel_num=None):
    """A new network with a threshold per channel in place of one per layer, and the same outputs as `net`.

    "qcfs" becomes "c-qcfs", "s-qcfs" "cs-qcfs", "e-qcfs" "ce-qcfs"; in a transformer "hn-qcfs", "hns-qcfs", "hne-qcfs", per attention head and
    feature. Each threshold starts from its layer's parameter, so that nothing jumps. `net` is one of `snnfast.models` and is not changed.
    channel_num: only the last `channel_num` layers (None: all).
    """
    kind = getattr(net, "config", {}).get("activation")
    finer = FINE_OF[getattr(net, "kind", "convolutional")]
    if kind not in finer:
        raise ValueError(f"net must be a layer-wise network of snnfast.models ({', '.join(finer)}), got activation {kind!r}")
    new = models.build({**net.config, "activation": finer[kind], "channel_num": channel_num})
    like = next(net.parameters())
    new = new.to(like.dtype)
    state = net.state_dict()
    for name, module in new.named_modules():
        if isinstance(module, nn.Quantised):
            checks.positive(f"threshold of {name}", net.get_submodule(name).threshold())
            for key, p in module.named_parameters():
                state[f"{name}.{key}"] = state[f"{name}.{key}"].expand(p.shape)
    new.load_state_dict(state)
    new.train(net.training)
    return new.to(like.device)


def parameter_groups(net, weight_decay, everywhere=False):
    """Optimiser groups: weight decay on weights, none on thresholds, biases and batch norm unless `everywhere`."""
    if everywhere:
        return [{"params": list(net.parameters()), "weight_decay": weight_decay}]
    decayed = {id(m.weight) for m in net.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))}
    yes = [p for p in net.parameters() if id(p) in decayed]
    no = [p for p in net.parameters() if id(p) not in decayed]
    return [{"params": yes, "weight_decay": weight_decay}, {"params": no, "weight_decay": 0.0}]


OPTIMISERS = ("sgd", "adamw")


def optimiser_of(name, groups, lr, nesterov=False):
    """The optimiser of these groups by name; "sgd" has momentum 0.9."""
    if checks.choice("optimiser", name, OPTIMISERS) == "adamw":
        return torch.optim.AdamW(groups, lr=lr)
    return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=nesterov)


def warmed_cosine(optimiser, epochs, warmup=0):
    """A cosine from the optimiser's rate to 0, after `warmup` epochs (at most all but one) in which the rate rises to it."""
    warmup, kinds = min(warmup, max(0, epochs - 1)), torch.optim.lr_scheduler
    cosine = kinds.CosineAnnealingLR(optimiser, max(1, epochs - warmup))
    if not warmup:
        return cosine
    return kinds.SequentialLR(optimiser, [kinds.LinearLR(optimiser, 1 / (warmup + 1), 1.0, warmup), cosine], [warmup])

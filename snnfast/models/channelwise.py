"""From a layer-wise network to the channel-wise one that starts at the same function: the second of two training stages."""

import copy

import torch

from snnfast import checks, models, nn
from snnfast.models.activation import FINE_OF
from snnfast.nn import Quantised, threshold_of


def to_channelwise(net: torch.nn.Module, channel_num: int | None = None, sample: torch.Tensor | None = None) -> torch.nn.Module:
    """A new network with a threshold per channel in place of one per layer, and the same outputs as `net`.

    "qcfs" becomes "c-qcfs", "s-qcfs" "cs-qcfs", "e-qcfs" "ce-qcfs"; in a transformer "hn-qcfs", "hns-qcfs", "hne-qcfs", per attention head and
    feature. Each threshold starts from its layer's parameter, so that nothing jumps. `net` is not changed.
    channel_num: only the last `channel_num` layers (None: all).  sample: images [1 or more, ...], for a network that is none of `snnfast.models`:
    on them the channels of its QCFS, SQCFS and EQCFS are counted, along dimension 1, along the last for values [B, N, C].

    >>> snnfast.to_channelwise(snnfast.models.vgg11(width=0.05)).config["activation"]
    'cs-qcfs'
    """
    if not isinstance(net, torch.nn.Module):
        raise TypeError(f"net must be a torch.nn.Module, got {type(net).__name__}")
    if channel_num is not None:
        checks.integer("channel_num", channel_num, 0)
    if not isinstance(net, models.Network):
        return _of_any(net, channel_num, sample)
    kind = net.config["activation"]
    finer = FINE_OF[net.kind]
    if kind not in finer:
        raise ValueError(f"net must be layer-wise ({', '.join(finer)}), got activation {kind!r}")
    new = models.build({**net.config, "activation": finer[kind], "channel_num": channel_num})
    like = next(net.parameters())
    new = new.to(like.dtype)
    state = net.state_dict()
    for name, module in new.named_modules():
        if isinstance(module, Quantised):
            checks.positive(f"threshold of {name}", threshold_of(net.get_submodule(name)))
            for key, p in module.named_parameters():
                state[f"{name}.{key}"] = state[f"{name}.{key}"].expand(p.shape)
    new.load_state_dict(state)
    new.train(net.training)
    return new.to(like.device)


FINER = {nn.QCFS: (nn.CQCFS, nn.NQCFS), nn.SQCFS: (nn.CSQCFS, nn.NSQCFS), nn.EQCFS: (nn.CEQCFS, nn.NEQCFS)}  # per channel, per feature


def _of_any(net, channel_num, sample):
    """A copy of a network with finer layers in place of its layer-wise ones."""
    coarse = [(name, m) for name, m in net.named_modules() if type(m) in FINER and threshold_of(m).numel() == 1]
    if not coarse:
        raise ValueError(f"net has no layer-wise activation ({', '.join(cls.__name__ for cls in FINER)})")
    if sample is None:
        raise ValueError(
            "net is none of snnfast.models: give sample=, images [1 or more, ...], on which the channels of its layers are counted"
        )
    checks.tensor("sample", sample)
    shapes, new = {}, copy.deepcopy(net)
    for name, _ in coarse:
        new.get_submodule(name).register_forward_pre_hook(lambda m, inputs, name=name: shapes.setdefault(name, set()).add(inputs[0].shape))
    was = net.training
    with torch.no_grad():
        new.eval()(sample)
    new = copy.deepcopy(net)
    for name, old in coarse[max(0, len(coarse) - channel_num) if channel_num is not None else 0 :]:
        if name not in shapes:
            raise ValueError(f"{name} ({type(old).__name__}) is not called for sample=, so its channels are not known")
        places = {(shape[-1], 1) if len(shape) == 3 else (shape[1], 0) for shape in shapes[name]}
        if len(places) > 1:
            raise ValueError(
                f"{name} ({type(old).__name__}) is called for values of {len(places)} numbers of channels: it keeps one threshold"
            )
        many, which = places.pop()
        finer = FINER[type(old)][which](many, levels=old.levels, grad=old.grad).to(next(old.parameters()))
        for key, p in old.named_parameters(recurse=False):
            getattr(finer, key).data = p.detach().expand(many).clone()
        finer.mask = copy.deepcopy(old.mask)
        parent, _, last = name.rpartition(".")
        setattr(new.get_submodule(parent), last, finer)
    return new.train(was)

"""From a layer-wise network to the channel-wise one that starts at the same function: the second of two training stages."""

import copy

import torch

from snnfast import checks, models, nn
from snnfast.models.activation import FINE_OF
from snnfast.nn import Quantised, threshold_of
from snnfast.system.text import first_line


def to_channelwise(net: torch.nn.Module, channel_num: int | None = None, sample: torch.Tensor | None = None) -> torch.nn.Module:
    """A new network with a threshold per channel in place of one per layer, and the outputs of `net` (a threshold may differ in its last bit:
    torch's softplus of many numbers and of one may).

    "qcfs" becomes "c-qcfs", "s-qcfs" "cs-qcfs", "e-qcfs" "ce-qcfs"; in a transformer "hn-qcfs", "hns-qcfs", "hne-qcfs", per attention head and
    feature. Each threshold starts from its layer's parameter, so that nothing jumps. `net` is not changed.
    channel_num: only the last `channel_num` layers (None: all).  sample: images [1 or more, ...], for a network that is none of `snnfast.models`:
    on them the channels of its QCFS, SQCFS and EQCFS are counted: along dimension 1 behind convolutions and batch norms, along the last behind linear
    layers and layer norms.

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
        raise ValueError(f"net must be a layer-wise network ({', '.join(finer)}), got activation {kind!r}")
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
    coarse = {m: name for name, m in net.named_modules() if type(m) in FINER and threshold_of(m).numel() == 1}
    if not coarse:
        raise ValueError(f"net has no layer-wise activation ({', '.join(cls.__name__ for cls in FINER)})")
    if sample is None:
        raise ValueError(
            "net is none of snnfast.models: give sample=, images [1 or more, ...], on which the channels of its layers are counted"
        )
    checks.tensor("sample", sample)
    places, new, was = _places(net, sample), copy.deepcopy(net), net.training
    names = list(coarse.values())
    for old, name in coarse.items():
        if channel_num is not None and names.index(name) < len(names) - channel_num:
            continue
        found = places.get(name, set())
        if len(found) != 1:
            why = f"is called for values of {len(found)} kinds" if found else "is not called for sample="
            raise ValueError(f"{name} ({type(old).__name__}) {why}, so its channels are not known")
        many, which = next(iter(found))
        finer = FINER[type(old)][which](many, levels=old.levels, grad=old.grad).to(next(old.parameters()))
        for key, p in old.named_parameters(recurse=False):
            getattr(finer, key).data = p.detach().expand(many).clone()
        finer.mask = copy.deepcopy(old.mask)
        for also in [n for n, m in net.named_modules(remove_duplicate=False) if m is old]:
            parent, _, last = also.rpartition(".")
            setattr(new.get_submodule(parent), last, finer)
    return new.train(was)


_MAPS = (torch.nn.modules.conv._ConvNd, torch.nn.modules.batchnorm._BatchNorm)  # channels along dimension 1
_LAST = (torch.nn.Linear, torch.nn.LayerNorm)  # features along the last


def _places(net, sample):
    """{name: {(channels, 0 where they lie along dimension 1, 1 where along the last)}} of the layer-wise activations that are called.

    Where they lie is said by the layer with weights that was called last before.
    """
    twin, last, found = copy.deepcopy(net).eval(), [0], {}

    def weighted(m, inputs, y):
        last[0] = 1 if isinstance(m, _LAST) and y.dim() > 2 else 0

    def called(m, inputs, name):
        shape = inputs[0].shape
        if len(shape) < 2:
            raise ValueError(f"{name} takes values {list(shape)}, which have no channels")
        found.setdefault(name, set()).add((shape[-1], 1) if last[0] else (shape[1], 0))

    for name, m in twin.named_modules():
        if isinstance(m, (*_MAPS, *_LAST)):
            m.register_forward_hook(weighted)
        elif type(m) in FINER:
            m.register_forward_pre_hook(lambda m, inputs, name=name: called(m, inputs, name))
    try:
        with torch.no_grad():
            twin(sample)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(f"net does not run on sample= {list(sample.shape)}: {first_line(error)}") from error
    return found

"""From a layer-wise network to the channel-wise one that starts at the same function: the second of two training stages."""

from snnfast import checks, models
from snnfast.models.activation import FINE_OF
from snnfast.nn import Quantised, threshold_of


def to_channelwise(net: models.Network, channel_num: int | None = None) -> models.Network:
    """A new network with a threshold per channel in place of one per layer, and the same outputs as `net`.

    "qcfs" becomes "c-qcfs", "s-qcfs" "cs-qcfs", "e-qcfs" "ce-qcfs"; in a transformer "hn-qcfs", "hns-qcfs", "hne-qcfs", per attention head and
    feature. Each threshold starts from its layer's parameter, so that nothing jumps. `net` is one of `snnfast.models` and is not changed.
    channel_num: only the last `channel_num` layers (None: all).

    >>> snnfast.to_channelwise(snnfast.models.vgg11(width=0.05)).config["activation"]
    'cs-qcfs'
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
        if isinstance(module, Quantised):
            checks.positive(f"threshold of {name}", threshold_of(net.get_submodule(name)))
            for key, p in module.named_parameters():
                state[f"{name}.{key}"] = state[f"{name}.{key}"].expand(p.shape)
    new.load_state_dict(state)
    new.train(net.training)
    return new.to(like.device)

"""What the networks share: a configuration that builds them again, and activations by name."""

from torch import nn

from snnfast.models.activation import CHANNELWISE, CHANNELWISE_OF, activation
from snnfast.nn import Quantised
from snnfast.ops import checks


class Network(nn.Module):
    """A network with quantised activations. `config` holds all its arguments: `snnfast.models.build(net.config)` makes the same network again.

    Args (of every network, beside its own):
        arch, num_classes, in_channels: what it is called, the size of the logits, the channels of the image.
        levels: quantisation levels L of every activation.
        activation: "qcfs", "s-qcfs" (theta = softplus(lam)), "e-qcfs" (theta = exp(lam)), or per channel "c-qcfs", "cs-qcfs", "ce-qcfs".
        theta: first threshold of every activation.
        width: factor on all channel counts.
        channel_num: for the channel-wise activations: only the last `channel_num` layers have a threshold per channel (None: all).
    """

    def __init__(self, arch, num_classes, in_channels, levels, activation, theta, width, channel_num, **own):
        super().__init__()
        self.config = dict(arch=arch, num_classes=num_classes, in_channels=in_channels, levels=levels, activation=activation, theta=theta)
        self.config |= dict(width=width, channel_num=channel_num, **own)
        checks.integer("num_classes", num_classes)
        checks.integer("in_channels", in_channels)
        checks.number("width", width, positive=True)
        if channel_num is not None and activation not in CHANNELWISE:
            raise ValueError(f"channel_num is for channel-wise activations ({', '.join(CHANNELWISE)}), got activation {activation!r}")
        if channel_num is not None:
            checks.integer("channel_num", channel_num, 0)

    def wide(self, channels):
        """`channels` of the paper, in this network's width."""
        return max(1, round(channels * self.config["width"]))

    def act(self, channels):
        """A new activation for a layer of `channels` channels or features."""
        made = activation(self.config["activation"], channels, self.config["levels"], self.config["theta"])
        made.channels = channels
        return made

    def finish(self):
        """Called at the end of a constructor: first weights, and one threshold for the layers that `channel_num` leaves layer-wise."""
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
                if m.bias is not None:
                    nn.init.zeros_(m.bias)
        if self.config["channel_num"] is None:
            return
        layerwise = next(one for one, many in CHANNELWISE_OF.items() if many == self.config["activation"])
        names = [n for n, m in self.named_modules() if isinstance(m, Quantised)]
        for name in names[: max(0, len(names) - self.config["channel_num"])]:
            channels = self.get_submodule(name).channels
            made = activation(layerwise, channels, self.config["levels"], self.config["theta"])
            made.channels = channels
            parent, _, child = name.rpartition(".")
            setattr(self.get_submodule(parent), child, made)

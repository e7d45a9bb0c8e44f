"""What the networks share: a configuration that builds them again, and activations by name."""

from torch import nn

from snnfast import checks
from snnfast.models.activation import FINE, NAMES, activation, layerwise_of
from snnfast.nn import Quantised, SpikeMask


class Network(nn.Module):
    """A network with quantised activations. `config` holds all its arguments: `snnfast.models.build(net.config)` makes the same network again.

    Args (of every network, beside its own):
        arch, num_classes, in_channels: what it is called, the size of the logits, the channels of the image.
        levels: quantisation levels L of every activation.
        activation: "qcfs", "s-qcfs" (theta = softplus(lam)), "e-qcfs" (theta = exp(lam)), one threshold per layer, or a kind with several.
        theta: first threshold of every activation.
        width: factor on all channel counts.
        channel_num: for the kinds with several thresholds in a layer: only the last `channel_num` layers have them (None: all).
        masking: share of spikes that are masked at random, see `snnfast.nn.SpikeMask`; `is_masked` says of which activations.
    """

    kind = "convolutional"
    head_weight = "head.weight"  # where a transformer's last layer keeps its weight

    @classmethod
    def for_images(cls, size):
        """Arguments of a network for square images of `size` pixels, beside those that every network has."""
        return {}

    @classmethod
    def read_off(cls, state):
        """Arguments that the shapes of the weights in a state dict say."""
        first = next((t for t in state.values() if t.dim() == 4), None)
        return dict(width=1.0, in_channels=3 if first is None else first.size(1))

    def __init__(self, arch, num_classes, in_channels, levels, activation, theta, width, channel_num, masking=0.0, **own):
        super().__init__()
        self.config = dict(arch=arch, num_classes=num_classes, in_channels=in_channels, levels=levels, activation=activation, theta=theta)
        self.config |= dict(width=width, channel_num=channel_num, masking=masking, **own)
        SpikeMask(masking)  # which refuses what is no share
        checks.integer("num_classes", num_classes)
        checks.integer("in_channels", in_channels)
        checks.number("width", width, positive=True)
        checks.choice("activation", activation, NAMES[self.kind])
        fine = [name for name in NAMES[self.kind] if name in FINE]
        if channel_num is not None and activation not in fine:
            raise ValueError(f"channel_num is for several thresholds in a layer ({', '.join(fine)}), got activation {activation!r}")
        if channel_num is not None:
            checks.integer("channel_num", channel_num, 0)

    def wide(self, channels):
        """`channels` of the paper, in this network's width."""
        return max(1, round(channels * self.config["width"]))

    def is_masked(self, name):
        """Whether the spikes of this activation are masked, where masking is asked for."""
        return True

    def _act(self, along, many, signed=False):
        c = self.config
        signed = {"all": True, "none": False}.get(c.get("signs"), signed)
        return activation(c["activation"], along, many, c["levels"], c["theta"], signed)

    def act(self, channels, signed=False):
        """A new activation for a layer of `channels` channels or, in a transformer, for one that keeps a single threshold."""
        return self._act("channel" if self.kind == "convolutional" else "layer", channels, signed)

    def head_act(self, heads, signed=False):
        return self._act("head", heads, signed)

    def feature_act(self, features, signed=False):
        return self._act("feature", features, signed)

    def finish(self):
        """Called at the end of a constructor: first weights, and one threshold for the layers that `channel_num` leaves layer-wise."""
        for m in self.modules():
            if (
                isinstance(m, nn.Conv2d) and not m.weight.is_meta
            ):  # there, where a file's network is built, this would bring in torch._dynamo
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
                if m.bias is not None:
                    nn.init.zeros_(m.bias)
        c, names = self.config, [n for n, m in self.named_modules() if isinstance(m, Quantised)]
        for name in names[: max(0, len(names) - c["channel_num"])] if c["channel_num"] is not None else ():
            old = self.get_submodule(name)
            parent, _, child = name.rpartition(".")
            setattr(
                self.get_submodule(parent), child, activation(layerwise_of(c["activation"]), old.along, old.many, c["levels"], c["theta"])
            )
        for i, name in enumerate(n for n in names if c["masking"] and self.is_masked(n)):
            self.get_submodule(name).mask = SpikeMask(c["masking"], layer=i)

"""The quantised activation of a network, by name."""

from snnfast import nn
from snnfast.ops import checks

LAYERWISE = {"qcfs": nn.QCFS, "s-qcfs": nn.SQCFS, "e-qcfs": nn.EQCFS}
CHANNELWISE = {"c-qcfs": nn.CQCFS, "cs-qcfs": nn.CSQCFS, "ce-qcfs": nn.CEQCFS}
NAMES = (*LAYERWISE, *CHANNELWISE)
# The kind that stage two makes of the kind of stage one: softplus stays softplus, so that no threshold jumps.
CHANNELWISE_OF = {"qcfs": "c-qcfs", "s-qcfs": "cs-qcfs", "e-qcfs": "ce-qcfs"}


def activation(name, channels, levels, theta):
    """A new activation for a layer of `channels` channels or features."""
    checks.choice("activation", name, NAMES)
    if name in LAYERWISE:
        return LAYERWISE[name](levels=levels, theta=theta)
    return CHANNELWISE[name](channels, levels=levels, theta=theta)

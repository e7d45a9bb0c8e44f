"""The quantised activation of a network, by name."""

from snnfast import checks, nn

LAYERWISE = {"qcfs": nn.QCFS, "s-qcfs": nn.SQCFS, "e-qcfs": nn.EQCFS}
CHANNELWISE = {"c-qcfs": nn.CQCFS, "cs-qcfs": nn.CSQCFS, "ce-qcfs": nn.CEQCFS}
# HN-QCFS, of transformers: a threshold per attention head and, in the MLP, per feature.
HEADWISE = {"hn-qcfs": nn.HQCFS, "hns-qcfs": nn.HSQCFS, "hne-qcfs": nn.HEQCFS}
FEATUREWISE = {"hn-qcfs": nn.NQCFS, "hns-qcfs": nn.NSQCFS, "hne-qcfs": nn.NEQCFS}
FINE = (*CHANNELWISE, *HEADWISE)  # several thresholds in a layer
NAMES = {"convolutional": (*LAYERWISE, *CHANNELWISE), "transformer": (*LAYERWISE, *HEADWISE, "lsq")}
ALL_NAMES = (*LAYERWISE, *CHANNELWISE, *HEADWISE, "lsq")
# The kind that stage two makes of the kind of stage one: softplus stays softplus, so that no threshold jumps.
FINE_OF = {
    "convolutional": dict(zip(LAYERWISE, CHANNELWISE)),
    "transformer": dict(zip(LAYERWISE, HEADWISE)),
}


def layerwise_of(name):
    """The kind with one threshold per layer that a finer kind comes from."""
    return next((one for of in FINE_OF.values() for one, many in of.items() if many == name), name)


def activation(name, along, many, levels, theta, signed=False):
    """A new activation for a layer of `many` channels, heads or features.

    along: what a threshold of its own is for, where the kind has several: "channel", "head", "feature", or "layer", one for all.  signed: whether
    "lsq" has levels below 0.
    """
    checks.choice("activation", name, ALL_NAMES)
    if name == "lsq":
        return nn.LSQ(levels, signed, theta)
    kinds = {"channel": CHANNELWISE, "head": HEADWISE, "feature": FEATUREWISE}.get(along, {})
    made = kinds[name](many, levels=levels, theta=theta) if name in kinds else LAYERWISE[layerwise_of(name)](levels=levels, theta=theta)
    made.along, made.many = along, many
    return made

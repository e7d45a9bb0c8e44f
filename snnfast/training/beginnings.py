"""Where a training starts that does not start from random weights: at those of a network that was trained before."""

import torch

from snnfast import nn
from snnfast.checkpoints import names


def _of_activations(net):
    """{name of a quantised activation: its tensors by their names in the network}"""
    found = {}
    for place, m in net.named_modules():
        if isinstance(m, nn.Quantised):
            found[place] = {f"{place}.{name}": t for name, t in m.state_dict().items()}
    return found


def take_over(net: torch.nn.Module, earlier: torch.nn.Module) -> None:
    """Gives `net` the weights of `earlier`, a network of the same layers, in place. An activation takes the thresholds of the one at its place if
    this has the same kind and shape, and else keeps its own.

    Raises:
        ValueError: other layers, at most ten names say which; nothing of `net` is changed then.
    """
    own, before = _of_activations(net), _of_activations(earlier)
    thresholds = {name for of in (own, before) for tensors in of.values() for name in tensors}
    there = earlier.state_dict()
    expected = {name: t for name, t in net.state_dict().items() if name not in thresholds}
    taken = {name: t for name, t in there.items() if name not in thresholds}
    wrong = names.differing(expected, taken, "the network")
    if wrong:
        raise ValueError(f"earlier, the weights to start from, are of another network: {names.told(wrong, 2)}")
    for place, tensors in own.items():
        same = type(net.get_submodule(place)) is type(earlier.get_submodule(place)) if place in before else False
        if same and all(name in there and there[name].shape == t.shape for name, t in tensors.items()):
            taken |= {name: there[name] for name in tensors}
    net.load_state_dict(taken, strict=False)

"""The network that is captured: a copy in eval mode, without wrappers; which of its layers stay whole."""

import copy

import torch
from torch.nn.parallel import DataParallel, DistributedDataParallel

from snnfast import nn
from snnfast.nn.deferred import apart
from snnfast.system.text import first_line


def unwrapped(net):
    """The network inside DataParallel, torch.compile's and AveragedModel's wrappers."""
    while True:
        inside = getattr(net, "_orig_mod", None)
        if isinstance(net, (DataParallel, DistributedDataParallel, torch.optim.swa_utils.AveragedModel)):
            inside = net.module
        if inside is None:
            return net
        net = inside


def stays_whole(m):
    """Whether a layer is one node of a captured network: layers of snnfast, which keep the shape of their input, and those with `whole = True`."""
    return getattr(m, "whole", False) is True or nn.is_quantised(m) or isinstance(m, (nn.IF, nn.SpikeMask)) or hasattr(m, "over_last")


def copied(net):
    """A copy of a network, in eval mode, without wrappers."""
    net = unwrapped(net)
    scripted = next((f"{name or type(net).__name__}" for name, m in net.named_modules() if isinstance(m, torch.jit.ScriptModule)), None)
    if scripted:
        raise ValueError(f"net cannot be converted: {scripted} is a scripted module, which is not captured: give the module it was made of")
    # Tensors that layers compute in hooks before their forward, as pruning and torch.nn.utils.weight_norm do, are copied by value.
    computed = [t for m in net.modules() for t in vars(m).values() if isinstance(t, torch.Tensor) and not t.is_leaf]
    try:
        return apart(copy.deepcopy(net, {id(t): t.detach().clone() for t in computed}).eval())
    except RuntimeError as error:
        raise ValueError(f"net cannot be copied: {first_line(error)}") from error

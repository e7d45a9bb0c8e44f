"""Batch norms and thresholds multiplied into the weights of the layers beside them, for simulators that read neither."""

import collections
import copy

import torch
from torch import fx

from snnfast import nn
from snnfast.graph import rewrite
from snnfast.graph.vocabulary import module_of
from snnfast.interop.nir_layers import norm_as_conv, passes_sizes
from snnfast.runtime.network import SpikingNetwork
from snnfast.system.text import first_line

WEIGHTED = torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Linear
NEAR, STEPS = 1e-6, 3  # of the comparison in fp64, where rounding moves no spike


def folded(snn: SpikingNetwork, x: torch.Tensor, unit_spikes: bool) -> SpikingNetwork:
    """A copy without batch norms behind convolutions, and with `unit_spikes` with spikes of 1 wherever only layers with weights read them.

    x: an image [1, ...]; in fp64 both networks must give the same outputs on it.

    Raises:
        ValueError: they do not, or the network casts to a dtype of its own.
    """
    double, ranks = copy.deepcopy(snn).double(), {}
    hooks = [
        layer.register_forward_hook(lambda layer, given, y, name=name: ranks.update({name: given[0].dim()}))
        for name, layer in double.gm.named_modules()
        if type(layer) is torch.nn.BatchNorm1d  # of features, or of features along a line
    ]
    outputs = lambda net: torch.cat(list(net.chunks(x.double(), STEPS, STEPS)))
    with torch.no_grad():
        try:
            one = outputs(double)
        except (TypeError, RuntimeError) as error:
            raise ValueError(
                "snn does not run in float64, in which the graph is compared with it; a cast in its forward, such as .float(), is a usual cause: "
                + first_line(error)
            ) from error
        for hook in hooks:
            hook.remove()
        other = outputs(_folded(double, unit_spikes, ranks))
    off = float((one - other).norm() / one.norm().clamp(min=1e-300))
    if not off <= NEAR:
        raise ValueError(
            f"snn with its batch norms and thresholds in the weights gives other outputs (relative difference {off:.2g}): a layer in it reads "
            "another's weights, or with unit_spikes channels of different thresholds are mixed in front of a layer with weights"
        )
    return _folded(snn, unit_spikes, ranks)


def _folded(snn, unit_spikes, ranks):
    """ranks: {name of a BatchNorm1d: the rank of what it takes}"""
    gm = copy.deepcopy(snn.gm)
    rewrite.fold_batch_norms(gm)
    for name, layer in list(gm.named_modules()):  # those that no convolution stands in front of
        dims = 2 if type(layer) is torch.nn.BatchNorm2d else ranks.get(name, 0) - 2
        if dims > 0 and layer.running_mean is not None:
            rewrite.replace(gm, name, norm_as_conv(layer, dims))
    if unit_spikes:
        _fold_thresholds(gm)
    gm.recompile()
    return SpikingNetwork(gm.eval(), snn.levels, snn.method, snn.clock).eval()


def _fold_thresholds(gm):
    calls = collections.Counter(n.target for n in gm.graph.nodes if n.op == "call_module")
    read = {n.target.rpartition(".")[0] for n in gm.graph.find_nodes(op="get_attr")}
    for node in gm.graph.nodes:
        layer = module_of(gm, node)
        if not isinstance(layer, nn.IF) or layer.options.get("spikes", "scaled") != "scaled" or calls[node.target] != 1:
            continue
        theta = layer.theta.flatten()
        if layer.theta.numel() > 1 and layer.axis != 1:
            continue
        behind = _behind(gm, node)
        if behind is None or any(calls[n.target] != 1 or n.target in read for n in behind):
            continue
        if len(theta) > 1 and not all(_fits(gm.get_submodule(n.target), len(theta)) for n in behind):
            continue
        for reader in behind:
            weighted = gm.get_submodule(reader.target)
            weighted.weight.data = _times(weighted, theta)
        layer.options["spikes"] = "unit"


def _behind(gm, node) -> list[fx.Node] | None:
    """The layers with weights that read a value, through views and poolings; None if something else reads it."""
    found = []
    for user in node.users:
        layer = module_of(gm, user)
        if type(layer) in WEIGHTED:
            found.append(user)
            continue
        further = _behind(gm, user) if passes_sizes(user, layer) else None
        if further is None:
            return None
        found += further
    return found


def _fits(layer, channels):
    """Whether a layer's inputs can be the values of so many channels, one after the other."""
    return layer.in_features % channels == 0 if isinstance(layer, torch.nn.Linear) else layer.in_channels == channels


def _times(layer, theta):
    """Its weights times the size of what comes in: one for all, or one for each channel, whose values lie together."""
    w = layer.weight.data
    if len(theta) == 1:
        return w * theta
    if isinstance(layer, torch.nn.Linear):
        return w * theta.repeat_interleave(w.size(1) // len(theta))
    groups = layer.groups
    return (w.unflatten(0, (groups, -1)) * theta.view(groups, 1, -1, *[1] * (w.dim() - 2))).flatten(0, 1)

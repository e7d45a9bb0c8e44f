"""ANN to SNN: fold the batch norms, put a neuron in place of every quantised activation."""

import copy

import torch
from torch import fx

from snnfast import nn
from snnfast.ops import checks
from snnfast.spiking import SpikingNetwork


class _Tracer(fx.Tracer):
    """Records the network's graph; layers, ours and torch's, are its leaves."""

    def is_leaf_module(self, m, name):
        return nn.is_quantised(m) or isinstance(m, nn.IF) or super().is_leaf_module(m, name)


def trace(net):
    """The graph of `net`, from one input to one output."""
    try:
        graph = _Tracer().trace(net)
    except Exception as error:  # torch.fx raises many kinds
        raise ValueError(f"net cannot be converted: torch.fx cannot trace {type(net).__name__}.forward ({error})") from error
    inputs = [n for n in graph.nodes if n.op == "placeholder"]
    if len(inputs) != 1:
        raise ValueError(f"net must take one input, the image; {type(net).__name__}.forward takes {len(inputs)}")
    return fx.GraphModule(net, graph)


def _check_convertible(gm):
    """Every layer must commute with rates: what does not is refused by name."""
    bad = (
        torch.nn.MaxPool2d,
        torch.nn.AdaptiveMaxPool2d,
        torch.nn.ReLU,
        torch.nn.GELU,
        torch.nn.Sigmoid,
        torch.nn.Softmax,
        torch.nn.LayerNorm,
    )
    for name, m in gm.named_modules():
        if isinstance(m, bad):
            raise ValueError(
                f"{name} is {type(m).__name__}, which has no spiking form here: train with a quantised activation (snnfast.nn) "
                "and average pooling instead"
            )


def fold_batch_norms(gm):
    """Folds every batch norm that follows a convolution or a linear layer into it, in place (W gamma/sqrt(var + eps), ...)."""
    modules = dict(gm.named_modules())
    for node in list(gm.graph.nodes):
        bn = modules.get(node.target) if node.op == "call_module" else None
        if not isinstance(bn, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            continue
        before = node.args[0]
        layer = modules.get(before.target) if before.op == "call_module" else None
        if not isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)) or len(before.users) != 1:
            continue  # stays as the affine map that it is in eval mode
        fuse = torch.nn.utils.fuse_conv_bn_eval if isinstance(layer, torch.nn.Conv2d) else torch.nn.utils.fuse_linear_bn_eval
        _replace(gm, before.target, fuse(layer, bn))
        node.replace_all_uses_with(before)
        gm.graph.erase_node(node)


def _replace(gm, name, module):
    parent, _, child = name.rpartition(".")
    setattr(gm.get_submodule(parent), child, module)


def _drop_dropout(gm):
    for node in list(gm.graph.nodes):
        if node.op == "call_module" and isinstance(gm.get_submodule(node.target), torch.nn.modules.dropout._DropoutNd):
            node.replace_all_uses_with(node.args[0])
            gm.graph.erase_node(node)


def _neurons(gm, v0, unit):
    """Puts an IF in place of every quantised activation; returns their names and levels."""
    levels = {}
    for name, m in list(gm.named_modules()):
        if not nn.is_quantised(m):
            continue
        theta = checks.positive(f"threshold of {name}", nn.threshold_of(m).detach())
        levels[name] = m.levels if isinstance(m, nn.Quantised) else m.L
        _replace(gm, name, nn.IF(theta=theta, channelwise=True, carry=True, v0=v0, unit=unit))
    if not levels:
        raise ValueError("net has no quantised activation (snnfast.nn.QCFS and its kin), so there is nothing to put neurons in place of")
    return levels


def convert(net, method="if", *, v0=0.5, parity=False):
    """A spiking network with the weights of `net`, which is not changed.

    Batch norms are folded, dropout is dropped, every quantised activation becomes an integrate-and-fire neuron with its thresholds;
    the last linear layer has no neuron: its output is read.

    Args:
        net: a network of `snnfast.models`, or any traceable module whose activations are layers of `snnfast.nn`.
        method: "if", the plain neuron.
        v0: start voltage in units of theta; 0.5 is optimal for QCFS.
        parity: the authors' arithmetic: normalised units (v += x/theta, fire at 1) instead of volts.

    Raises:
        ValueError: a threshold is not > 0 (the message names the layer), or a layer has no spiking form.
    """
    checks.choice("method", method, ("if",))
    checks.number("v0", v0)
    if not isinstance(net, torch.nn.Module):
        raise TypeError(f"net must be a torch.nn.Module, got {type(net).__name__}")
    gm = trace(copy.deepcopy(net).eval())
    _check_convertible(gm)
    _drop_dropout(gm)
    fold_batch_norms(gm)
    levels = _neurons(gm, v0, "normalised" if parity else "volts")
    gm.graph.eliminate_dead_code()
    gm.delete_all_unused_submodules()
    gm.recompile()
    return SpikingNetwork(gm.requires_grad_(False).eval(), levels)

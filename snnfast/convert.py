"""ANN to SNN: fold the batch norms, put a neuron in place of every quantised activation."""

import collections
import copy

import torch
from torch import fx

from snnfast import nn, rates
from snnfast.methods import Method, method_of, voltage_of
from snnfast.neuron import PythonNeuron
from snnfast.ops import checks
from snnfast.spiking import Plan, SpikingNetwork


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


def _replace(gm, name, module):
    parent, _, child = name.rpartition(".")
    setattr(gm.get_submodule(parent), child, module)


def _module(gm, node):
    return gm.get_submodule(node.target) if node.op == "call_module" else None


def fold_batch_norms(gm):
    """Folds every batch norm that follows a convolution or a linear layer into it, in place (W gamma/sqrt(var + eps), ...).

    One whose layer is used elsewhere too stays as the affine map that it is in eval mode.
    """
    calls = collections.Counter(n.target for n in gm.graph.nodes if n.op == "call_module")
    fuse = {torch.nn.Conv2d: torch.nn.utils.fuse_conv_bn_eval, torch.nn.Linear: torch.nn.utils.fuse_linear_bn_eval}
    for node in list(gm.graph.nodes):
        bn = _module(gm, node)
        if not isinstance(bn, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)) or bn.running_mean is None:
            continue
        before = node.all_input_nodes[0]
        layer = _module(gm, before)
        if type(layer) not in fuse or len(before.users) != 1 or calls[before.target] != 1:
            continue
        _replace(gm, before.target, fuse[type(layer)](layer, bn))
        node.replace_all_uses_with(before)
        gm.graph.erase_node(node)


def _drop_dropout(gm):
    for node in list(gm.graph.nodes):
        if isinstance(_module(gm, node), torch.nn.modules.dropout._DropoutNd):
            node.replace_all_uses_with(node.all_input_nodes[0])
            gm.graph.erase_node(node)


def _put_neurons(gm, options):
    """Puts an IF in place of every quantised activation; returns their names and levels."""
    levels = {}
    for name, m in list(gm.named_modules()):
        if not nn.is_quantised(m):
            continue
        theta = checks.positive(f"threshold of {name}", nn.threshold_of(m).detach())
        levels[name] = m.levels if isinstance(m, nn.Quantised) else m.L
        _replace(gm, name, nn.IF(theta=theta, channelwise=True, **{**options, "v0": voltage_of(options["v0"], name)}))
    unknown = set(options["v0"]) - set(levels) if isinstance(options["v0"], dict) else ()
    if unknown:
        raise ValueError(f"v0 names {', '.join(sorted(unknown))}, which is no activation of net; its activations: {', '.join(levels)}")
    if not levels:
        raise ValueError("net has no quantised activation (snnfast.nn.QCFS and its kin), so there is nothing to put neurons in place of")
    return levels


def convert(net, method="if", *, v0=None, parity=False, tau=None, mask=None, rho=None, max_shift=None, caps=None, neuron=None, **options):
    """A spiking network with the weights of `net`, which is not changed.

    Batch norms are folded, dropout is dropped, every quantised activation becomes an integrate-and-fire neuron with its thresholds;
    the last linear layer has no neuron: its output is read.

    Args:
        net: a network of `snnfast.models`, or any traceable module whose activations are layers of `snnfast.nn` and whose other layers, behind
            the first activation, commute with rates (`snnfast/rates.py` lists them).
        method: "if", "stbif", "snm", "srp", "srp+stbif", "srp+snm" or "cos"; `snnfast/methods.py` says what each does.
        v0: start voltage in units of theta: a number, or a dictionary of numbers or tensors by layer name; 0.5 (the default) is optimal for QCFS.
        parity: the arithmetic of the method's authors, for comparison with their programs.
        tau: steps of SRP's first phase, >= 1 (4). They come on top of T.
        mask: which neurons SRP lets emit: "authors" (v > 1e-3 theta after the first phase, as their program) or "paper" (v >= 0).
        rho: inputs that COS calibrates on, >= 1 (4); runs need T >= rho.
        max_shift: largest upward shift of COS, in units of theta; None as the authors have it.
        caps: (n_min, p_max) of the net spike count, for methods with negative spikes; see `snnfast.iaf`.
        neuron: a neuron of `snnfast.neuron` in place of integrate-and-fire, with method "if"; `options` are fields of its Rule.

    Raises:
        ValueError: a threshold is not > 0, or a layer has no spiking form; the message names the layer.
    """
    how = method_of(method, v0=v0, parity=parity, tau=tau, mask=mask, rho=rho, max_shift=max_shift, caps=caps)
    if neuron is None and options:
        raise TypeError(f"convert got unexpected options: {', '.join(options)}")
    if neuron is not None:
        if not isinstance(neuron, PythonNeuron):
            raise TypeError(f"neuron must be what snnfast.neuron returned, got {type(neuron).__name__}")
        neuron.rule(**options)
        if parity or method != "if":
            raise ValueError("method and parity are of integrate-and-fire; a neuron of one's own has its own rule and arithmetic")
        how = Method(f"if, neuron {neuron.__name__}", {"v0": how.options["v0"], "neuron": neuron, **options})
    if not isinstance(net, torch.nn.Module):
        raise TypeError(f"net must be a torch.nn.Module, got {type(net).__name__}")
    net = copy.deepcopy(net).eval()
    for m in net.modules():
        if getattr(m, "inplace", False):
            m.inplace = False  # fixed values are used again in every chunk
    gm = trace(torch.nn.Sequential(net) if nn.is_quantised(net) else net)
    _drop_dropout(gm)
    fold_batch_norms(gm)
    gm.graph.eliminate_dead_code()
    levels = _put_neurons(gm, how.options)
    plan = Plan(gm)
    for node in gm.graph.nodes:
        if node in plan.spiking and node not in plan.firing and node.op != "output":
            rates.check(node, gm, plan)
        elif node.op == "call_method" and node.target.endswith("_"):
            raise ValueError(f"{node.target} (node {node.name}) works in place on a value that every chunk of time uses again")
    gm.delete_all_unused_submodules()
    gm.recompile()
    return SpikingNetwork(gm.requires_grad_(False).eval(), levels, how)

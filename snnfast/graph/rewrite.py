"""Changes of a graph: a layer or a node replaced, batch norms folded, dropout taken out, a softmax taken off the end."""

import collections
import operator

import torch
from torch import fx
from torch.nn import functional as F

from snnfast.graph.rows import rows_of
from snnfast.graph.vocabulary import module_of, softmax_of


def replace(gm, name, module):
    parent, _, child = name.rpartition(".")
    setattr(gm.get_submodule(parent), child, module)


def keep_reads(gm, name):
    """Tensors below a module that the graph reads by themselves get a name of their own, before the module is replaced."""
    for node in gm.graph.find_nodes(op="get_attr"):
        if node.target.startswith(f"{name}."):
            own = node.target.replace(".", "_")
            while hasattr(gm, own):
                own += "_"
            gm.register_buffer(own, operator.attrgetter(node.target)(gm).detach().clone())
            node.target = own


def places(node):
    """The notes of a node that say where its images lie (`rows`) and where the node stands (`place`), for a node that replaces it."""
    return {k: node.meta[k] for k in ("rows", "place") if k in node.meta}


def moved(graph, node, to):
    """A node of the same graph that has the images of `node` along dimension `to`; `node` itself if the images lie there already."""
    rows = rows_of(node)
    if rows.axis == to:
        return node
    new = graph.call_function(torch.movedim, (node, rows.axis, to))
    new.meta.update(places(node), kind="view", rows=rows._replace(axis=to))
    return new


def put_in_place(gm, node, name, module):
    """Puts a call of `module`, under `name`, in place of a node, on the node's first input."""
    gm.add_submodule(name, module)
    with gm.graph.inserting_before(node):
        new = gm.graph.call_module(name, (node.all_input_nodes[0],))
    new.meta.update(places(node))
    node.replace_all_uses_with(new)
    gm.graph.erase_node(node)


def put_behind(gm, node, name, module):
    """Puts a call of `module`, under `name`, between a node and all that takes its value."""
    gm.add_submodule(name, module)
    with gm.graph.inserting_after(node):
        new = gm.graph.call_module(name, ())
    new.meta.update(places(node))
    node.replace_all_uses_with(new)
    new.args = (node,)


def fold_batch_norms(gm):
    """Folds every batch norm that follows a `Conv2d` into that layer, in place (W gamma/sqrt(var + eps), ...).

    A batch norm stays the affine map that it is in eval mode in three cases: its layer, or a weight of its layer, is used elsewhere too; it is behind
    a linear layer, and so may run along another dimension than that layer's features; or it is behind a weight that is computed (weight_norm).
    """
    read = {n.target.rpartition(".")[0] for n in gm.graph.find_nodes(op="get_attr")}
    calls = collections.Counter(n.target for n in gm.graph.nodes if n.op == "call_module")
    for node in list(gm.graph.nodes):
        bn = module_of(gm, node)
        if not isinstance(bn, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.SyncBatchNorm)) or bn.running_mean is None:
            continue
        before = node.all_input_nodes[0]
        layer = module_of(gm, before)
        if before.target in read or node.target in read:
            continue
        if type(layer) is not torch.nn.Conv2d or "weight" not in layer._parameters or len(before.users) != 1 or calls[before.target] != 1:
            continue
        replace(gm, before.target, torch.nn.utils.fuse_conv_bn_eval(layer, bn))
        node.replace_all_uses_with(before)
        gm.graph.erase_node(node)


_DROPOUT = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, torch.dropout)


def drop_dropout(gm):
    """Takes out the dropouts, which do nothing in eval mode."""
    for node in list(gm.graph.nodes):
        training = node.kwargs.get("training", node.args[2] if len(node.args) > 2 else True)
        off = node.op == "call_function" and node.target in _DROPOUT and training is False
        if off or isinstance(module_of(gm, node), torch.nn.modules.dropout._DropoutNd):
            node.replace_all_uses_with(node.all_input_nodes[0])
            gm.graph.erase_node(node)


def views_as_reshapes(gm):
    """Replaces `view` to another shape by `reshape`: spikes may lie in another order of memory than the network's values."""
    for node in gm.graph.find_nodes(op="call_method", target="view"):
        if not any(isinstance(a, torch.dtype) for a in (*node.args, *node.kwargs.values())):
            node.target = "reshape"


def take_readout(gm):
    """Takes a softmax over the classes off the end of the graph and returns its name and dimension: the softmax is taken of the mean output."""
    output = next(n for n in gm.graph.nodes if n.op == "output")
    last = output.args[0]
    if not isinstance(last, fx.Node) or last.op == "placeholder":
        return None
    found = softmax_of(gm, last)
    if found is None or found[1] not in (1, -1):
        return None
    output.args = (last.all_input_nodes[0],)
    gm.graph.erase_node(last)
    return found

"""The graph of a network, made ready for conversion: traced, without dropout, batch norms folded, a softmax at its end taken off."""

import collections
import copy
import operator

import torch
from torch import fx
from torch.nn import functional as F
from torch.nn.utils import parametrize

from snnfast import nn
from snnfast.inplace import make_functional


class Value(fx.Proxy):
    """A value of the graph. `h += 1` writes h, which fx would take for `h = h + 1`."""

    def __getattr__(self, name):
        return Part(self, name)


class Part(fx.proxy.Attribute):
    """Its attribute: h.T."""


def _in_place(name):
    return lambda self, other: self.tracer.create_proxy("call_function", getattr(operator, name), (self, other), {})


for _name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor"):
    for _class in (Value, Part):
        setattr(_class, f"__{_name}__", _in_place(_name))


class Tracer(fx.Tracer):
    """Records the network's graph; layers, ours and torch's, are its leaves.

    sample: images [1, ...] that decide a branch of the forward, such as one on the size of a feature map; without them a branch is an error.
    """

    def __init__(self, sample=None):
        super().__init__()
        self.sample, self.deciding, self.failed = sample, False, None

    def proxy(self, node):
        return Value(node, self)

    def to_bool(self, obj):
        if self.sample is None:
            return super().to_bool(obj)
        self.deciding = True  # what runs now is not recorded
        try:
            return bool(self._value(obj.node))
        finally:
            self.deciding = False

    @torch.no_grad()
    def _value(self, node):
        run = fx.Interpreter(self.root, graph=self.graph)
        run.env, run.args_iter = {}, iter([self.sample])
        for n in self.graph.nodes:
            run.env[n] = run.run_node(n)
            if n is node:
                return run.env[n]

    def call_module(self, m, forward, args, kwargs):
        if self.deciding:
            return forward(*args, **kwargs)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed = self.failed or f"{self.path_of_module(m)} ({type(m).__name__})"  # the innermost
            raise

    def getattr(self, attr, attr_val, parameter_proxy_cache):
        return attr_val if self.deciding else super().getattr(attr, attr_val, parameter_proxy_cache)

    def is_leaf_module(self, m, name):
        ours = nn.is_quantised(m) or isinstance(m, (nn.IF, nn.SpikeMask)) or hasattr(m, "over_last")
        return ours or super().is_leaf_module(m, name)


def trace(net, sample=None):
    """The graph of `net`, from one input to one output."""
    tracer = Tracer(sample)
    try:
        graph = tracer.trace(net)
    except Exception as error:  # torch.fx raises many kinds
        where = f", in {tracer.failed}" if tracer.failed else ""
        raise ValueError(f"net cannot be converted: torch.fx cannot trace {type(net).__name__}.forward{where} ({error})") from error
    inputs = [n for n in graph.nodes if n.op == "placeholder"]
    if len(inputs) != 1:
        raise ValueError(f"net must take one input, the image; {type(net).__name__}.forward takes {len(inputs)}")
    return fx.GraphModule(net, graph)


def replace(gm, name, module):
    parent, _, child = name.rpartition(".")
    setattr(gm.get_submodule(parent), child, module)


def put_in_place(gm, node, name, module):
    """Puts a call of `module`, under `name`, in place of a node, on the node's first input."""
    gm.add_submodule(name, module)
    with gm.graph.inserting_before(node):
        new = gm.graph.call_module(name, (node.all_input_nodes[0],))
    node.replace_all_uses_with(new)
    gm.graph.erase_node(node)


def module_of(gm, node):
    return gm.get_submodule(node.target) if node.op == "call_module" else None


def fold_batch_norms(gm):
    """Folds every batch norm that follows a convolution into it, in place (W gamma/sqrt(var + eps), ...).

    One whose layer is used elsewhere too stays as the affine map that it is in eval mode, and so does one behind a linear layer, which may run along
    another dimension than that layer's features, and one behind a weight that is computed (weight_norm).
    """
    calls = collections.Counter(n.target for n in gm.graph.nodes if n.op == "call_module")
    for node in list(gm.graph.nodes):
        bn = module_of(gm, node)
        if not isinstance(bn, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)) or bn.running_mean is None:
            continue
        before = node.all_input_nodes[0]
        layer = module_of(gm, before)
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


def _compute_weights(net):
    """Weights that are parametrised (weight_norm, spectral_norm) become plain ones. torch's own way changes a class that the original shares."""
    for m in [m for m in net.modules() if parametrize.is_parametrized(m)]:
        weights = {name: torch.nn.Parameter(getattr(m, name).detach()) for name in m.parametrizations}
        m.__class__ = parametrize.type_before_parametrizations(m)
        del m.parametrizations
        for name, w in weights.items():
            m.register_parameter(name, w)


def prepared(net, sample=None):
    """A traced copy of `net` in eval mode: nothing in place, no dropout, batch norms folded, no weight that is computed."""
    try:
        net = copy.deepcopy(net).eval()
    except RuntimeError as error:  # a weight that is computed, as weight_norm's is
        raise ValueError(f"net cannot be copied: {str(error).splitlines()[0]}") from error
    _compute_weights(net)
    inplace = {m for m in net.modules() if getattr(m, "inplace", False)}
    for m in inplace:
        m.inplace = False  # fixed values are used again in every chunk
    gm = trace(torch.nn.Sequential(net) if nn.is_quantised(net) else net, sample)
    drop_dropout(gm)
    make_functional(gm, inplace)
    fold_batch_norms(gm)
    gm.graph.eliminate_dead_code()
    return gm


SOFTMAX = {torch.nn.Softmax: "softmax", torch.nn.LogSoftmax: "log_softmax", F.softmax: "softmax", torch.softmax: "softmax",
           F.log_softmax: "log_softmax", torch.log_softmax: "log_softmax", "softmax": "softmax", "log_softmax": "log_softmax"}  # fmt: skip


def softmax_of(gm, node):
    """(name, dimension) of the softmax or log_softmax that a node is, or None; the dimension is None where it is not given."""
    layer = module_of(gm, node)
    if layer is not None:
        name, dim = SOFTMAX.get(type(layer)), getattr(layer, "dim", None)
    else:
        name, dim = SOFTMAX.get(node.target), node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
    return None if name is None else (name, dim)


def take_readout(gm):
    """Takes a softmax over the classes off the end of the graph; returns its name and dimension: it is a function of the mean output."""
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

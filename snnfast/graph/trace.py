"""The graph of a network, made ready for conversion: traced, without dropout, batch norms folded."""

import operator

import torch
from torch import fx
from torch.nn.utils import parametrize

from snnfast import checks, nn
from snnfast.graph import guard
from snnfast.graph.copies import copied, stays_whole
from snnfast.graph.inplace import make_functional
from snnfast.graph.rewrite import drop_dropout, fold_batch_norms, views_as_reshapes

GIVE = "give sample=, images [1 or more, ...], with which torch.export captures the network, arguments with a default among it"


class Value(fx.Proxy):
    """A value of the graph. `h += 1` writes h, which fx would take for `h = h + 1`."""

    def __getattr__(self, name):
        return Part(self, name)


class Part(fx.proxy.Attribute):
    """An attribute of a value, such as h.T."""


def _in_place(name):
    return lambda self, other: self.tracer.create_proxy("call_function", getattr(operator, name), (self, other), {})


for _name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor"):
    for _class in (Value, Part):
        setattr(_class, f"__{_name}__", _in_place(_name))


class Tracer(fx.Tracer):
    """Records the network's graph; layers, ours and torch's, are its leaves."""

    failed = None

    def proxy(self, node):
        return Value(node, self)

    def call_module(self, m, forward, args, kwargs):
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed = self.failed or f"{self.path_of_module(m)} ({type(m).__name__})"  # the innermost
            raise

    def is_leaf_module(self, m, name):
        return stays_whole(m) or super().is_leaf_module(m, name)


def trace(net):
    """The graph of `net`, from one input to one output."""
    tracer = Tracer()
    try:
        graph = tracer.trace(net)
    except Exception as error:  # torch.fx raises many kinds
        where = f", in {tracer.failed}" if tracer.failed else ""
        raise ValueError(f"net cannot be converted: torch.fx cannot trace {type(net).__name__}.forward{where} ({error}); {GIVE}") from error
    inputs = [n for n in graph.nodes if n.op == "placeholder"]
    if len(inputs) != 1:
        raise ValueError(f"net must take one input, the image; {type(net).__name__}.forward takes {len(inputs)}; {GIVE}")
    return fx.GraphModule(net, graph)


def _compute_weights(net):
    """Weights that are parametrised (weight_norm, spectral_norm) become plain ones. torch's own way changes a class that the original shares."""
    for m in [m for m in net.modules() if parametrize.is_parametrized(m)]:
        weights = {name: torch.nn.Parameter(getattr(m, name).detach()) for name in m.parametrizations}
        m.__class__ = parametrize.type_before_parametrizations(m)
        del m.parametrizations
        for name, w in weights.items():
            m.register_parameter(name, w)


def prepared(net, fold=True):
    """A traced copy of `net` in eval mode: nothing in place, no dropout, no weight that is computed, and with `fold` batch norms folded."""
    net = copied(net)
    _compute_weights(net)
    inplace = {m for m in net.modules() if getattr(m, "inplace", False)}
    for m in inplace:
        m.inplace = False  # fixed values are used again in every chunk
    gm = trace(torch.nn.Sequential(net) if nn.is_quantised(net) else guard.with_hooks_inside(net))
    guard.check_layers(guard.layers_of(gm))
    drop_dropout(gm)
    make_functional(gm, inplace)
    views_as_reshapes(gm)
    if fold:
        fold_batch_norms(gm)
    gm.graph.eliminate_dead_code()
    checks.weights(gm, "the captured network")  # also the weights that were computed
    for node in gm.graph.find_nodes(op="get_attr"):
        value = operator.attrgetter(node.target)(gm)
        if isinstance(value, torch.Tensor) and not isinstance(value, torch.nn.Parameter):
            checks.constant(node.target, value, "the captured network")
    return gm

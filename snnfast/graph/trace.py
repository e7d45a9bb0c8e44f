"""The graph of a network, made ready for conversion: traced, without dropout, batch norms folded, a softmax at its end taken off."""

import copy
import operator

import torch
from torch import fx
from torch.nn.utils import parametrize

from snnfast import checks, nn
from snnfast.graph import guard
from snnfast.graph.inplace import make_functional
from snnfast.graph.rewrite import drop_dropout, fold_batch_norms


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
        if sample is None and "control flow" in str(error):
            where += "; a branch on sizes is decided by sample=, an image [1, ...]"
        raise ValueError(f"net cannot be converted: torch.fx cannot trace {type(net).__name__}.forward{where} ({error})") from error
    inputs = [n for n in graph.nodes if n.op == "placeholder"]
    if len(inputs) != 1:
        raise ValueError(f"net must take one input, the image; {type(net).__name__}.forward takes {len(inputs)}")
    return fx.GraphModule(net, graph)


def _compute_weights(net):
    """Weights that are parametrised (weight_norm, spectral_norm) become plain ones. torch's own way changes a class that the original shares."""
    for m in [m for m in net.modules() if parametrize.is_parametrized(m)]:
        weights = {name: torch.nn.Parameter(getattr(m, name).detach()) for name in m.parametrizations}
        m.__class__ = parametrize.type_before_parametrizations(m)
        del m.parametrizations
        for name, w in weights.items():
            m.register_parameter(name, w)


def prepared(net, samples=()):
    """A traced copy of `net` in eval mode: nothing in place, no dropout, batch norms folded, no weight that is computed.

    samples: images [1, ...]; the first decides branches, and for each the graph must give what the network gives.
    """
    try:
        net = copy.deepcopy(net).eval()
    except RuntimeError as error:  # a weight that is computed, as weight_norm's is
        raise ValueError(f"net cannot be copied: {str(error).splitlines()[0]}") from error
    _compute_weights(net)
    expected = guard.outputs(net, samples)
    inplace = {m for m in net.modules() if getattr(m, "inplace", False)}
    for m in inplace:
        m.inplace = False  # fixed values are used again in every chunk
    whole = torch.nn.Sequential(net) if nn.is_quantised(net) else guard.with_hooks_inside(net)
    gm = trace(whole, samples[0] if len(samples) else None)
    guard.check_layers(gm)
    drop_dropout(gm)
    make_functional(gm, inplace)
    guard.check(gm, samples, expected, fold_batch_norms)
    fold_batch_norms(gm)
    gm.graph.eliminate_dead_code()
    checks.weights(gm, "the captured network")  # also what was computed
    for node in gm.graph.find_nodes(op="get_attr"):
        value = operator.attrgetter(node.target)(gm)
        if isinstance(value, torch.Tensor) and not isinstance(value, torch.nn.Parameter):
            checks.constant(node.target, value, "the captured network")
    return gm

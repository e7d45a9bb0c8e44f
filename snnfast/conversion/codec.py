"""A graph and its layers as plain values (numbers, texts, lists, dictionaries), and back. Anything not known by name is refused, both ways.

A file may come from anybody: only layers of torch.nn and of this package are made, only functions of the tables of `snnfast.graph` are called, and
nothing that is read is run before all of it is known.
"""

import operator
from typing import Any

import torch
from torch import fx
from torch.nn import functional as F

from snnfast import checks, nn
from snnfast.graph import commutes, inplace, vocabulary
from snnfast.graph.outputs import Outputs
from snnfast.graph.rows import Rows
from snnfast.models.tokens import TokenBatchNorm
from snnfast.nn import over_time
from snnfast.nn.pointwise import Pointwise
from snnfast.runtime import linear_part

_LOWERED = {torch.reshape, torch.relu, torch.clamp, torch.movedim, torch.full, torch.amax, torch.mean, operator.add, operator.floordiv,
            F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d, F.adaptive_avg_pool3d}  # fmt: skip
_TABLES = (commutes.LINEAR, commutes.SCALE, commutes.MATMUL, commutes.REDUCE, vocabulary.ADD, vocabulary.PRODUCTS, vocabulary.FUNCTIONS,
           vocabulary.SOFTMAX, linear_part.JOINS, _LOWERED)  # fmt: skip
_KNOWN: set[Any] = {entry for table in _TABLES for entry in table}
METHODS = {entry for entry in _KNOWN if isinstance(entry, str)} | {"expand", "mean", "sum", "float", "double", "to", "type_as"}
ATTRIBUTES = {"shape", "ndim", "dtype", "device", *inplace.ATTRIBUTES}
_SPACES: dict[str, Any] = {"operator": operator, "torch": torch, "F": F}


def _named(function):
    """The names under which a function is found."""
    name = function.__name__
    return [f"{space}.{name}" for space, of in _SPACES.items() if getattr(of, name, None) is function]


FUNCTIONS = {name: entry for entry in _KNOWN if not isinstance(entry, str) for name in _named(entry)}
_LAYERS = (
    nn.IF,
    nn.Quanta,
    nn.SpikeMask,
    Pointwise,
    over_time.Pool,
    over_time.Differential,
    over_time.Call,
    over_time.RowsFirst,
    TokenBatchNorm,
)
OURS = {cls.__name__: cls for cls in _LAYERS}
FUSED = {"softmax": over_time.FusedSoftmax, "layer norm": over_time.FusedLayerNorm}
NOTES = ("kind", "rows", "place", "told", "shape", "outputs")


class Unknown(ValueError):
    """Something that no file can hold."""


# ---- values


def builtin(value):
    """A number or a text of numpy's as Python's own, which a file holds; also inside of dictionaries. Anything else as it is."""
    if isinstance(value, dict):
        return {k: builtin(v) for k, v in value.items()}
    return next((kind(value) for kind in (bool, int, float, str) if isinstance(value, kind)), value)


def encoded(value, place=None):
    """A value of a node's arguments or of a layer's settings. place: {node: its number}."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return builtin(value)
    for kind, is_it, parts in (
        ("node", isinstance(value, fx.Node), lambda: (place or {})[value]),
        ("rows", isinstance(value, Rows), lambda: list(value)),
        ("outputs", isinstance(value, Outputs), lambda: [encoded(v, place) for v in value]),
        ("slot", isinstance(value, over_time._Place), lambda: value.index),
        ("slice", isinstance(value, slice), lambda: [encoded(p, place) for p in (value.start, value.stop, value.step)]),
        ("list", isinstance(value, list), lambda: [encoded(v, place) for v in value]),
        ("tuple", isinstance(value, tuple), lambda: [encoded(v, place) for v in value]),
        ("dict", isinstance(value, dict), lambda: [[k, encoded(v, place)] for k, v in value.items()]),
        ("dtype", isinstance(value, torch.dtype), lambda: checks.dtype_name(value)),
        ("device", isinstance(value, torch.device), lambda: str(value)),
        ("ellipsis", value is Ellipsis, lambda: None),
    ):
        if is_it:
            return {"is": kind, "of": parts()}
    raise Unknown(f"a {type(value).__name__} cannot be saved")


def decoded(value, nodes=()):
    """The inverse of `encoded`. nodes: the nodes, by number."""
    if not isinstance(value, dict):
        return value
    kind, of = value["is"], value["of"]
    inside = lambda: [decoded(v, nodes) for v in of]
    return {
        "node": lambda: nodes[of],
        "rows": lambda: Rows(*map(int, of)),
        "outputs": lambda: Outputs(*inside()),
        "slot": lambda: over_time._Place(int(of)),
        "slice": lambda: slice(*inside()),
        "list": inside,
        "tuple": lambda: tuple(inside()),
        "dict": lambda: {k if type(k) is int else str(k): decoded(v, nodes) for k, v in of},
        "dtype": lambda: _dtype(of),
        "device": lambda: torch.device(of),
        "ellipsis": lambda: Ellipsis,
    }[kind]()


def _dtype(name):
    found = getattr(torch, name)
    if not isinstance(found, torch.dtype):
        raise Unknown(f"{name} is no dtype")
    return found


def name_of(op, target):
    """What a node or a `Call` calls, as text."""
    if op in ("call_module", "get_attr", "placeholder", "output") or (op == "call_method" and target in METHODS):
        return target
    if isinstance(target, torch._ops.OpOverload) and target.namespace == "aten":
        return str(target)
    found = next((name for name, function in FUNCTIONS.items() if function is target), "getattr" if target is getattr else None)
    if found is None:
        raise Unknown(f"{getattr(target, '__name__', target)} is no function that a file can hold")
    return found


def target_of(op, name):
    """The inverse of `name_of`."""
    if op == "call_function" and name.startswith("aten."):
        _, packet, overload = name.split(".")
        if "file" in packet or not packet.replace("_", "").isalnum():
            raise Unknown(f"{name} is no function that a file can hold")
        return getattr(getattr(torch.ops.aten, packet), overload)
    if op == "call_function":
        return getattr if name == "getattr" else FUNCTIONS[name]
    if op == "call_method" and name not in METHODS:
        raise Unknown(f"{name} is no method that a file can hold")
    return name


# ---- layers


def _settings(m):
    """What a layer holds beside tensors and other layers."""
    if isinstance(m, nn.IF) and m.neuron is not nn.neurons.iaf:
        raise Unknown("a neuron of one's own, whose equation is a program, cannot be saved: save the network and convert it again")
    left = {k: v for k, v in vars(m).items() if k == "_reversed_padding_repeated_twice" or not k.startswith("_")}
    drop = {"training", "neuron", "state", "fused", *(("target", "module") if isinstance(m, over_time.Call) else ())}
    found = {k: v for k, v in left.items() if k not in drop}
    if isinstance(m, over_time.Call):
        found["target"] = name_of(m.op, m.target)
    if isinstance(m, over_time.Differential):
        found["fused"] = next((name for name, cls in FUSED.items() if isinstance(m.fused, cls)), None)
    return {k: encoded(v) for k, v in found.items()}


def layers(gm):
    """{path: [class, settings, names of parameters, names of buffers]}, parents first; a second path of the same layer maps to its first path."""
    found, first = {}, {}
    for path, m in gm.named_modules(remove_duplicate=False):
        if path == "":
            continue
        if m in first:
            found[path] = first[m]
            continue
        first[m] = path
        cls = type(m).__name__
        if OURS.get(cls) is not type(m) and getattr(torch.nn, cls, None) is not type(m):
            raise Unknown(f"{path} ({cls}) is no layer that a file can hold")
        lists = ([name for name, t in group.items() if t is not None] for group in (m._parameters, m._buffers))
        found[path] = [cls, _settings(m), *lists, [name for name in (*m._parameters, *m._buffers) if getattr(m, name) is None]]
    return found


def made(root, found, state):
    """Puts the layers under `root`, with the tensors of `state`."""
    known = {}
    for path, what in found.items():
        parent, _, name = path.rpartition(".")
        if isinstance(what, str):
            known[path] = known[what]
        else:
            known[path] = _layer(*what, {key.rpartition(".")[2]: t for key, t in state.items() if key.rpartition(".")[0] == path})
        (known[parent] if parent else root).add_module(name, known[path])
    for m in known.values():
        if isinstance(m, over_time.Call) and "module" not in m._modules:
            m.module = None
        if isinstance(m, over_time.Differential) and m.fused is not None:
            m.fused = FUSED[m.fused](*([m.function.module] if m.fused == "layer norm" else []))


def _layer(cls, settings, parameters, buffers, empty, tensors):
    kind = OURS.get(cls) or getattr(torch.nn, cls)
    if not (isinstance(kind, type) and issubclass(kind, torch.nn.Module)) or kind.__module__.partition(".")[0] not in ("torch", "snnfast"):
        raise Unknown(f"{cls} is no layer that a file can hold")
    m = kind.__new__(kind)
    torch.nn.Module.__init__(m)
    for key, value in settings.items():
        if callable(getattr(kind, str(key), None)):
            raise Unknown(f"{cls}.{key} is no setting")
        object.__setattr__(m, str(key), decoded(value))
    for name in (*parameters, *buffers, *empty):
        t = None if name in empty else tensors[name]
        if name in parameters:
            m.register_parameter(name, torch.nn.Parameter(t, requires_grad=False))
        elif name in buffers:
            m.register_buffer(name, t)
        else:
            m.register_parameter(name, None)
    if isinstance(m, nn.IF):
        m.neuron, m.state = nn.neurons.iaf, None
    if isinstance(m, over_time.Call):
        m.target = target_of(m.op, m.target)
    return m.eval()


# ---- graphs


def nodes(graph):
    """The nodes of a graph, in order."""
    place = {node: i for i, node in enumerate(graph.nodes)}
    found = []
    for node in graph.nodes:
        notes = {k: encoded(node.meta[k]) for k in NOTES if k in node.meta}
        found.append(
            [node.op, node.name, name_of(node.op, node.target), encoded(list(node.args), place), encoded(dict(node.kwargs), place), notes]
        )
    return found


def graph_of(found):
    """The graph with these nodes."""
    graph, done = fx.Graph(), []
    for op, name, target, args, kwargs, notes in found:
        args, kwargs = decoded(args, done), decoded(kwargs, done)
        if target == "getattr" and args[1] not in ATTRIBUTES:
            raise Unknown(f"{args[1]} is no attribute that a file can hold")
        node = graph.create_node(op, target_of(op, target), tuple(args), kwargs, name)
        node.meta.update({k: decoded(v) for k, v in notes.items() if k in NOTES})
        done.append(node)
    graph.lint()
    return graph

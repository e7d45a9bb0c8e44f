"""Activation functions that are written out, such as x sigmoid(1.702 x), h (h > 0) or a GELU by its formula: each becomes one function.

A region is what operators of single values make of one value, and of constants. It ends where something else takes its result. Constants that are
added or multiplied at its end stay outside, as they commute with rates. What is done to an image in front of the first weights is no activation.
"""

import operator

import torch

from snnfast.graph.aten import name_of
from snnfast.graph.gates import ELEMENTWISE, gates, values_of
from snnfast.graph.rewrite import moved, places
from snnfast.graph.rows import rows_of
from snnfast.graph.vocabulary import is_product
from snnfast.nn.over_time import Call
from snnfast.nn.pointwise import Pointwise

ARITHMETIC = {operator.add, operator.sub, operator.mul, operator.truediv, operator.neg}
MORE = {"to", "_to_copy", "type_as", "prelu", "_prelu_kernel", "where", "hardtanh"}  # which torch does not mark as pointwise
SURE = ELEMENTWISE | {"erf", "where", "heaviside"}  # what only activations are made of, where it is not a mask


def write_relus(gm):
    """Puts a ReLU in place of what is one in other words."""
    while found := list(_written_relus(gm)):
        for source, node in found:
            _put_relu(gm, source, node)
    gm.graph.eliminate_dead_code()


def _written_relus(gm):
    """(source, node) of the first of each source: with it in place, what follows from it has another source."""
    for source, nodes in _members(gm).items():
        if rows_of(source).outer == 1:
            written = (n for n in nodes if n.users and _is_relu(gm, source, _region(n, nodes)))
            if first := next(written, None):
                yield source, first


def _put_relu(gm, source, node):
    with gm.graph.inserting_after(node):
        first = moved(gm.graph, source, 0)
        with gm.graph.inserting_after(first if first is not source else node):
            relu = gm.graph.call_function(torch.relu, (first,))
            notes = {k: node.meta[k] for k in ("told", "size") if k in node.meta}
            relu.meta.update(places(node) | notes, kind="activation", rows=rows_of(first))
            with gm.graph.inserting_after(relu):
                last = moved(gm.graph, relu, rows_of(source).axis)
    node.replace_all_uses_with(last)


def mark(gm, alone):
    """Makes one function of every activation that is written out, and notes what else fires in mode "differential": these functions, gated linear
    units and gates, where weights take their values.

    alone: whether the network has no other activation. Then also what may be one fires: any function of single values, such as a sine, and gates in
    front of a norm. In other networks these are parts of norms, of poolings and the like.
    """
    behind = _behind_weights(gm)
    for source, nodes in _members(gm).items():
        ends = dict.fromkeys(_end(node, nodes) for node in nodes if any(user not in nodes for user in node.users))
        for end in (
            reversed([node for node in nodes if node in ends]) if source in behind else ()
        ):  # an inner one may be part of an outer one
            _merge(gm, source, _region(end, nodes), end, alone)
    gm.graph.eliminate_dead_code()
    units = [n for n in gm.graph.nodes if n.meta.get("kind") == "function" and name_of(n.target) == "glu"]
    for node in [*units, *gates(gm)]:
        if alone or _reaches_weights(node, gm):
            node.meta["fires"] = True


def _behind_weights(gm):
    found = set()
    for node in gm.graph.nodes:
        if is_product(node, gm) or any(a in found for a in node.all_input_nodes):
            found.add(node)
    return found


def _members(gm):
    """{value: the nodes that are functions of its single numbers}, in the order of the graph."""
    of, found = {}, {}
    for node in gm.graph.nodes:
        values = values_of(node)
        roots = {of.get(a, a) for a in values}
        if len(roots) == 1 and _is_pointwise(node) and all(_size(a) in (None, _size(node)) for a in values):
            of[node] = roots.pop()
            found.setdefault(of[node], {})[node] = None
    return found


def _size(node):
    return node.meta.get("size")


def _is_pointwise(node):
    if any(a.meta.get("kind") in ("rows", "size") for a in node.all_input_nodes) or _size(node) is None:
        return False
    if node.meta.get("kind") == "activation" or node.target in ARITHMETIC:
        return True
    if not isinstance(node.target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded in node.target.tags:
        return False
    return torch.Tag.pointwise in node.target.tags or name_of(node.target) in MORE


def _is_mask(node):
    """Whether a node puts constants at places that are known."""
    name = name_of(node.target)
    return name in ("where", "masked_fill") and len(values_of(node)) == 1 and node.args[name == "masked_fill"] not in values_of(node)


def _is_scaled(node):
    """Whether a node adds constants to one value, multiplies the value by them, or puts constants at places that are known."""
    if node.target is operator.truediv and node.args[0] not in values_of(node):
        return False
    return _is_mask(node) or (
        node.target in ARITHMETIC and len(values_of(node)) == 1 and (node.target is not operator.mul or node.args[0] is not node.args[1])
    )


def _end(node, nodes):
    """The last node of a region that is more than constants added and multiplied, or None."""
    while _is_scaled(node):
        (node,) = values_of(node)
        if node not in nodes:
            return None
    return node


def _region(end, nodes):
    """The nodes that an end is made of, in order."""
    found, left = {end}, [end]
    while left:
        more = [a for a in left.pop().all_input_nodes if a in nodes and a not in found]
        found.update(more)
        left += more
    return [node for node in nodes if node in found]


def _merge(gm, source, region, end, alone):
    curved = [node for node in region if not _is_scaled(node)]
    named = [name_of(node.target) for node in curved]
    # A ReLU inside has a neuron of its own.
    known = any(node.meta.get("kind") == "activation" for node in curved) or (curved == [end] and named[0] in ELEMENTWISE)
    if known or not curved or end.meta.get("kind") not in ("function", "product", "affine", "linear"):
        return
    sure = bool(SURE & set(named)) or ("exp" in named and len(curved) > 1)
    if not sure and not (alone and _reaches_weights(end, gm)):
        return
    path = f"{end.name}_function"
    gm.add_submodule(path, _written_out(gm, source, region))
    with gm.graph.inserting_after(end):
        new = gm.graph.call_module(path, (source,))
    notes = {k: end.meta[k] for k in ("told", "size") if k in end.meta}
    new.meta.update(places(end) | notes, kind="function", fires=True)
    end.replace_all_uses_with(new)


def _written_out(gm, source, region):
    constants = dict.fromkeys(a for node in region for a in node.all_input_nodes if a is not source and a not in region)
    at = {node: i for i, node in enumerate([source, *constants, *region])}
    tensors = [operator.attrgetter(node.target)(gm) for node in constants]
    return Pointwise([Call(gm, node) for node in region], [[at[a] for a in node.all_input_nodes] for node in region], tensors).eval()


def _reaches_weights(node, gm):
    """Whether a layer with weights takes a value, perhaps through views, constants and sums."""
    left, seen = [node], set()
    while left:
        for user in left.pop().users:
            if is_product(user, gm):
                return True
            if user not in seen and (user.meta.get("kind") == "view" or user.target in (operator.add, operator.sub) or _is_scaled(user)):
                seen.add(user)
                left.append(user)
    return False


# ---- ReLUs

_DEGREE_0 = {"gt", "ge", "lt", "le", "sign", "heaviside"}
_TURNS = {"abs", "maximum", "minimum"} | _DEGREE_0  # without one of them nothing of degree 1 is more than linear


def _is_relu(gm, source, region):
    """Whether a region is max(x, 0): proved for what keeps f(a x) = a f(x) with a > 0, where f(1) = 1 and f(-1) = 0 are enough."""
    if not any(name_of(node.target) in _TURNS for node in region) or any(node.meta.get("kind") == "activation" for node in region):
        return False
    degree = {source: 1}
    for node in region:
        degree[node] = _degree(node, degree)
        if degree[node] is None:
            return False
    if degree[region[-1]] != 1:
        return False
    found = _written_out(gm, source, region)(torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64))
    return found.tolist() == [1.0, 0.0, 0.0]


def _degree(node, degree):
    """1 if a node grows as its source does, 0 if it does not change, None if neither is known."""
    values = [degree[a] for a in values_of(node)]
    if len(values) < len(node.all_input_nodes):  # a constant tensor
        return None
    constants = [a for a in node.args if not isinstance(a, torch.fx.Node)]
    name = name_of(node.target) or getattr(node.target, "__name__", "")
    if name in _DEGREE_0 and values == [1] and all(isinstance(a, (int, float)) and a == 0 for a in constants):
        return 0
    if name in ("_to_copy", "to") and values == [0]:
        return 0
    if name in ("neg", "abs", "leaky_relu"):
        return values[0]
    if name in ("add", "sub", "maximum", "minimum") and len(node.args) == 2 and not constants:
        return 1 if set(values) == {1} else None
    if name == "mul" and not constants:
        both = sum(degree[a] for a in node.args)
        return both if both < 2 else None
    if name in ("mul", "truediv") and len(constants) == 1 and node.args[0] in degree and isinstance(constants[0], (int, float)):
        return values[0]
    return None

"""Turns operations that write their input into ones that do not: in a run over time every chunk uses a value again.

A written value has aliases, views of the same memory, which change with it. If an alias is read later, no graph of values computes the same, and the
conversion refuses the operation by name.
"""

import operator

import torch
from torch.nn import functional as F

from snnfast.graph.vocabulary import called, is_size

# Functions, methods and attributes that may give a view of their input.
VIEWS = frozenset(
    "adjoint as_strided atleast_1d atleast_2d atleast_3d broadcast_to chunk contiguous cpu cuda detach diagonal double dsplit expand "
    "expand_as flatten float getitem hsplit imag movedim moveaxis narrow permute positive ravel real reshape reshape_as select split "
    "split_with_sizes squeeze swapaxes swapdims t tensor_split to transpose type type_as unbind unflatten unfold unsqueeze view view_as "
    "vsplit".split()
)  # fmt: skip
_LISTS = ("chunk", "split", "split_with_sizes", "hsplit", "vsplit", "dsplit", "tensor_split", "unbind")  # their parts do not overlap
ATTRIBUTES = ("T", "H", "mT", "mH", "data", "real", "imag")
_MODULES = (torch.nn.Identity, torch.nn.Flatten, torch.nn.Unflatten, torch.nn.modules.dropout._DropoutNd)


def _name(node):
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def _is_view(gm, node):
    if node.op == "call_module":
        return isinstance(gm.get_submodule(node.target), _MODULES)
    if node.target is getattr:
        return node.args[1] in ATTRIBUTES
    return node.op in ("call_function", "call_method") and _name(node) in VIEWS


def _aliases(gm, node, is_before):
    """The values that may lie in the same memory as `node`, of those for which `is_before`."""
    found, ahead = {node}, [(node, False)]
    while ahead:
        value, from_part = ahead.pop()
        near = [] if from_part and _name(value) in _LISTS else [user for user in value.users if is_before(user) and _is_view(gm, user)]
        near = [(user, False) for user in near if user.all_input_nodes[0] is value]
        near += [(source, True) for source in value.all_input_nodes[:1] if _is_view(gm, value)]
        ahead += [step for step in near if step[0] not in found]
        found.update(value for value, _ in near)
    return found - {node}


def _twin(node):
    """The function or method that computes a new value where the node's one writes in place; None if the node does not write."""
    name = _name(node)
    if node.op == "call_method":
        if not name.endswith("_") or name.endswith("__") or name == "requires_grad_":
            return None
        where, name = torch.Tensor, name[:-1]
    elif getattr(node.target, "__module__", "") == "_operator":
        anew = name[1:] if name.startswith("i") else ""
        return getattr(operator, anew + "_" if anew in ("and", "or") else anew, None) if anew else None
    elif name.endswith("_") and not name.endswith("__"):
        where, name = F if hasattr(F, name[:-1]) else torch, name[:-1]
    else:
        return None
    if not hasattr(where, name):
        raise ValueError(f"{node.name} ({name}_) writes over a value, which has no form that computes a new one")
    return name if node.op == "call_method" else getattr(where, name)


def _is_number(node):
    """Whether a node is a size or computed from sizes: `n += 1` then makes a new number, and other users of n keep the old one."""
    inputs = node.all_input_nodes
    return is_size(node) or (node.op == "call_function" and bool(inputs) and all(_is_number(a) for a in inputs))


def _works_in_place(gm, node, inplace):
    """Whether a node writes its first input. Changes such a function or method to one that does not write."""
    if node.op == "call_module":
        return gm.get_submodule(node.target) in inplace
    if node.op not in ("call_function", "call_method"):
        return False
    if isinstance(node.kwargs.get("out"), torch.fx.Node):
        raise ValueError(f"{called(node, gm)} writes into out=, a value that every chunk of time uses again: use what it returns")
    if node.kwargs.get("inplace"):
        node.kwargs = {**node.kwargs, "inplace": False}
        return True
    twin = _twin(node)
    node.target = node.target if twin is None else twin
    return twin is not None


def make_functional(gm, inplace):
    """Modules of `inplace` and in-place operations compute new values instead; later readers of the written value read the new one."""
    order = {node: i for i, node in enumerate(gm.graph.nodes)}
    for node in list(gm.graph.nodes):
        if not _works_in_place(gm, node, inplace) or not node.all_input_nodes or _is_number(node.all_input_nodes[0]):
            continue
        written, now = node.all_input_nodes[0], order[node]
        is_before = lambda other, now=now: order[other] < now  # noqa: E731
        for alias in _aliases(gm, written, is_before):
            if any(order[user] > now for user in alias.users):
                raise ValueError(
                    f"{node.name} works in place on {written.name}, a part or a view of {alias.name}, which is read again later"
                )
        written.replace_all_uses_with(node, delete_user_cb=lambda user, now=now: order[user] > now)

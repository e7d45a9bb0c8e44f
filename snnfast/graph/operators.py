"""Operators of torch.export that become other functions: without sizes of the batch, as Python's operators, or without the indices beside the values.

A maker takes (lowering, node, arguments by name) and gives True, or False if it does not serve these arguments.
"""

import operator

import torch
from torch.nn import functional as F

from snnfast.graph import aten
from snnfast.graph.placing import VIEWS

PYTHON = {"add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv, "matmul": torch.matmul, "bmm": torch.bmm,
          "mm": torch.matmul, "neg": operator.neg}  # fmt: skip


def _shape(node):
    """The shape of what a node gives, -1 where the images are."""
    return [-1 if isinstance(n, torch.SymInt) else int(n) for n in node.meta["val"].shape]


# ---- operators whose arguments may be sizes of the batch; the new form has no such sizes


def view(lowering, node, given):
    lowering.emit(node, torch.reshape, (lowering.argument(given["self"]), _shape(node)), {}, "view")
    return True


def expand(lowering, node, given):
    source = given["self"]
    if source in lowering.data:
        lowering.emit(node, torch.ops.aten.expand.default, (lowering.argument(source), _shape(node)), {}, "view")
    else:  # a constant that is written over a value of the images
        lowering.data.discard(node)
        lowering.expanded(node, lowering.argument(source), lowering.places.put(node, lowering.told(node)))
    return True


def copy(lowering, node, given):
    """The whole value is overwritten: the result is `src`, expanded."""
    return expand(lowering, node, {"self": given["src"]})


def filled(lowering, node, given):
    """Equal numbers in the shape of another value, whatever that value holds."""
    if not node.meta["val"].is_floating_point() or not lowering.is_constant(given.get("value")):
        return False
    lowering.data.discard(node)
    rows = lowering.places.put(node, lowering.told(node))
    lowering.places.uniform.add(node)
    lowering.equal(node, rows)
    return True


def product_and_sum(lowering, node, given):
    """beta * self + alpha * (b @ c)"""
    product = lowering.emit(
        node, torch.matmul, lowering.argument(tuple(given[k] for k in given if k[:-1] in ("mat", "batch"))), {}, "product"
    )
    notes = {k: product.meta[k] for k in ("rows", "place", "told")}

    def scaled(value, number, **more):
        if number == 1:
            return value
        value = lowering.graph.call_function(operator.mul, (value, number))
        value.meta.update(notes | more)
        return value

    product = scaled(product, given["alpha"], kind="product")
    lies = lowering.places.lie.get(given["self"])
    added = scaled(lowering.argument(given["self"]), given["beta"], kind="constant" if lies is None else "product", rows=lies)
    made = lowering.graph.call_function(operator.add, (added, product))
    made.meta.update(notes, kind="linear")
    lowering.made[node] = made
    return True


def adaptive_max_pool(lowering, node, given):
    function = getattr(F, aten.name_of(node.target))  # which gives no indices
    made = lowering.emit(node, function, (lowering.argument(given["self"]), given["output_size"]), {}, "pool")
    made.meta["first_alone"] = True
    return True


def largest(lowering, node, given):
    if "dim" not in given:
        return False
    made = lowering.emit(node, torch.amax, (lowering.argument(given["self"]), given["dim"], given["keepdim"]), {}, "pool")
    made.meta["first_alone"] = True
    return True


SHAPED = {
    **dict.fromkeys(VIEWS, view),
    **dict.fromkeys(aten.FILLED, filled),
    **dict.fromkeys(("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"), adaptive_max_pool),
    **dict.fromkeys(("addmm", "baddbmm"), product_and_sum),
    **dict.fromkeys(("amax", "max"), largest),
    "expand": expand,
    "copy": copy,
}


# ---- the others


def arithmetic(lowering, node, given):
    if given.get("alpha", 1) != 1 or given.get("rounding_mode") is not None:
        return False
    name = aten.name_of(node.target)
    lowering.emit(node, PYTHON[name], lowering.argument(tuple(node.args[:2])), {}, aten.op_of(node.target).kind)
    return True


def subtracted(lowering, node, given):
    if given["alpha"] != 1:
        return False
    lowering.emit(node, operator.sub, lowering.argument((given["other"], given["self"])), {}, "linear")
    return True


def joined(lowering, node, given):
    axis = given["dim"] % node.meta["val"].dim()
    lowering.emit(node, getattr(torch, aten.name_of(node.target)), (lowering.argument(given["tensors"]), axis), {}, "view")
    return True


PLAIN = {**dict.fromkeys(PYTHON, arithmetic), **dict.fromkeys(("cat", "stack"), joined), "rsub": subtracted}


def kind_of(lowering, node, given):
    """The kind of an operator that stays as it is."""
    name, kind = aten.name_of(node.target), aten.op_of(node.target).kind
    values = node.meta["val"]
    floating = all(v.is_floating_point() for v in (values if isinstance(values, (tuple, list)) else [values]))
    if name in ("add", "sub", "rsub"):  # with a factor
        return "affine"
    if name in ("pad", "constant_pad_nd") and not given["value"]:
        return "linear"
    if name == "lerp":  # of the image and of spikes: one of them comes once
        return "affine" if lowering.is_constant(given["weight"]) else kind
    return "refused" if name in aten.REFUSED or not floating or given.get("rounding_mode") is not None else kind

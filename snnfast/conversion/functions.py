"""Functions that do not commute with rates, and their form over time.

    per_step       f of each step's values: biased, with an error that stays however large T is (MST; Wang et al., ICCV 2023)
    differential   out_t = f(X_t) - f(X_(t-1)), X_t = x_1 + ... + x_t: the outputs of t steps sum to f of the summed inputs (SpikeZIP; You et al.,
                   ICML 2024). A product of spikes and spikes is one of them: S_q(t) S_k(t)^T - S_q(t-1) S_k(t-1)^T, with S the running sums, one
                   matrix product per step.

A differential run gives the image, the biases and all other constants once: a linear node passes on differences as it would pass on values, but
without its bias (`linear_part.py`). With ST-BIF neurons, which after draining have emitted clamp(floor(sum x/theta + 1/2), n_min, p_max) spikes net,
the summed output is then that of the quantised network.
"""

import torch

from snnfast.graph.rewrite import moved, places
from snnfast.graph.rows import Rows, rows_of
from snnfast.graph.vocabulary import PRODUCTS, called, is_function, softmax_of
from snnfast.nn.over_time import Call, Differential, FusedLayerNorm, FusedSoftmax, RowsFirst
from snnfast.ops.rows import MOST_COLUMNS

m = torch.nn
MODES = ("per_step", "differential")


def _fused(gm, node):
    """The kernel of a function of rows, or None. It has its own order of sums, so the result differs from torch's in the last places."""
    layer = gm.get_submodule(node.target) if node.op == "call_module" else None
    if layer is not None and (layer._forward_hooks or layer._forward_pre_hooks):
        return None
    if type(layer) is m.LayerNorm and len(layer.normalized_shape) == 1 and layer.normalized_shape[0] <= MOST_COLUMNS:
        return FusedLayerNorm(layer)
    plain = layer is not None or (set(node.kwargs) <= {"dim"} and len(node.args) <= 2)  # without a dtype of its own
    return FusedSoftmax() if softmax_of(gm, node) == ("softmax", -1) and plain else None


def put(gm, plan):
    """Puts a `Differential` in place of every function that spikes reach."""
    for node in list(gm.graph.nodes):
        if node not in plan.spiking or not (is_function(node, gm, plan.spiking) or node.meta.get("kind") == "affine"):
            continue
        inputs = node.all_input_nodes
        if any(a in plan.without_values[0] for a in inputs):
            raise ValueError(f"{node.name} uses a size of values that come over time: write the number in its place")
        name = type(gm.get_submodule(node.target)).__name__ if node.op == "call_module" else getattr(node.target, "__name__", node.target)
        name = f"product ({name})" if node.target in PRODUCTS or node.meta.get("kind") == "product" else name
        by_image = [a in plan.spiking or (a in plan.from_image and rows_of(a) is not None) for a in inputs]
        plan.spiking.add(over_time(gm, node, name, [a in plan.spiking for a in inputs], _fused(gm, node), by_image))


def over_time(gm, node, name, running, fused=None, by_image=None):
    """Puts a `Differential` in place of a node and returns the node that gives its value. The inputs and the value of a `Differential` have their
    images first: images that lie elsewhere are moved."""
    by_image = running if by_image is None else by_image
    lie = [rows_of(a) if has_rows else Rows(0) for a, has_rows in zip(node.all_input_nodes, by_image)]
    if any(at.outer > 1 for at in (*lie, rows_of(node))):
        raise ValueError(f"{called(node, gm)} takes values in which the images do not come before what else lies along their dimension")
    axes, to = [at.axis for at in lie], rows_of(node).axis
    call = Call(gm, node) if not any((*axes, to)) else RowsFirst(Call(gm, node), axes, to)
    target = f"{node.name}_over_time"
    infinite = node.meta.get("kind") == "affine"
    gm.add_submodule(target, Differential(call, name, running, fused if isinstance(call, Call) else None, by_image, infinite))
    with gm.graph.inserting_before(node):
        inputs = [moved(gm.graph, a, 0) if axis else a for a, axis in zip(node.all_input_nodes, axes)]
        new = gm.graph.call_module(target, tuple(inputs))
        new.meta.update(places(node) | {"rows": Rows(0, rows_of(node).times)})
        last = moved(gm.graph, new, to)
    node.replace_all_uses_with(last)
    gm.graph.erase_node(node)
    return last

"""How values flow through a graph: which nodes fire, which are layers over time, which a spike reaches, and which follow from the image alone."""

import functools

import torch

from snnfast import nn
from snnfast.graph.products import is_dense
from snnfast.graph.vocabulary import is_function, is_size, module_of
from snnfast.nn.over_time import Differential, OverTime
from snnfast.ops.conv import DTYPES


class Plan:
    """Which nodes of a graph fire, which are layers over time, which a spike reaches, and which follow from the image alone.

    changes: the image itself is another one at every step, such as random spikes.
    """

    def __init__(self, gm, changes=False):
        self.gm, self.firing, self.over_time, self.spiking, self.from_image = gm, [], [], set(), set()
        for node in gm.graph.nodes:
            layer = module_of(gm, node)
            fires = isinstance(layer, nn.IF)
            if fires:
                self.firing.append(node)
            if node.meta.get("kind") == "size":
                self.from_image.add(node)
            elif fires or (changes and node.op == "placeholder") or any(a in self.spiking for a in node.all_input_nodes):
                self.spiking.add(node)
                if isinstance(layer, OverTime):
                    self.over_time.append(node)
            elif node.op == "placeholder" or any(a in self.from_image for a in node.all_input_nodes):
                self.from_image.add(node)
        self.per_row = self.spiking | self.from_image
        self.linear = sum(m.weight.numel() for m in gm.modules() if isinstance(m, torch.nn.Linear))

    @functools.cached_property
    def without_values(self):
        """Among the nodes that spikes reach: (sizes, dtypes and numbers computed from them; the constants that are made with these)."""
        sizes, constants = set(), set()
        for node in self.gm.graph.nodes:
            inputs = node.all_input_nodes
            if node not in self.spiking or node in self.firing or node.op in ("placeholder", "output"):
                continue
            if is_size(node) or (inputs and all(a in sizes for a in inputs)):
                sizes.add(node)
            elif not any(a in self.spiking and a not in sizes and a not in constants for a in inputs):
                constants.add(node)
        return sizes, constants


def served(module):
    """Whether a layer can be computed sparsely."""
    if type(module) is torch.nn.Linear:
        return module.weight.dtype in DTYPES
    if type(module) is not torch.nn.Conv2d or module.weight.dtype not in DTYPES:
        return False
    return module.padding_mode == "zeros" and not isinstance(module.padding, str)


def unspiking(gm):
    """Layers with dense activations as their input: downstream of a LayerNorm or a softmax, with no neuron in between."""
    found, dense = set(), set()
    for node in gm.graph.nodes:
        module = gm.get_submodule(node.target) if node.op == "call_module" else None
        if isinstance(module, nn.IF) or served(module):
            if served(module) and any(a in dense for a in node.all_input_nodes):
                found.add(node)
            continue
        if isinstance(module, Differential) or is_dense(node, gm) or any(a in dense for a in node.all_input_nodes):
            dense.add(node)
    return found


def has_functions(gm, activations=()):
    """Whether a function that does not commute with rates stands behind an activation: a quantised one, or one of these nodes."""
    reached = set()
    for node in gm.graph.nodes:
        layer = module_of(gm, node)
        if node in activations or (layer is not None and nn.is_quantised(layer)) or any(a in reached for a in node.all_input_nodes):
            reached.add(node)
    return any(node in reached and is_function(node, gm, reached) for node in gm.graph.nodes)

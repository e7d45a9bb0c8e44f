"""Gates: a value times a function of another value, element by element, such as silu(a) b of SwiGLU.

What fires is the product; the function has no neuron of its own. A function that is broadcast, as in squeeze-and-excitation, is no gate: it weighs
channels, and its product stays a product.
"""

import operator

from snnfast.graph.aten import name_of

# Activation functions of single values, by the names of torch's operators.
ELEMENTWISE = frozenset(
    "silu gelu hardswish hardsigmoid sigmoid tanh elu leaky_relu softplus mish prelu _prelu_kernel selu celu log_sigmoid hardtanh rrelu "
    "softshrink hardshrink".split()
)  # fmt: skip


def values_of(node):
    """The inputs of a node that follow from the images."""
    return [a for a in node.all_input_nodes if a.meta.get("kind") not in ("constant", "rows", "size")]


def is_activation(node):
    """Whether a node is an activation function of single values, by its name or because it was found to be one."""
    return node.meta.get("kind") == "function" and (node.meta.get("fires", False) or name_of(node.target) in ELEMENTWISE)


def gates(gm):
    """The products that are gates, in the order of the graph."""
    alone = lambda node: is_activation(node) and len(node.users) == 1
    products = [n for n in gm.graph.nodes if n.target is operator.mul and n.meta.get("kind") == "product"]
    return [n for n in products if any(map(alone, n.all_input_nodes)) and _of_one_size(n)]


def _of_one_size(node):
    values = values_of(node)
    return len(values) == 2 and all(a.meta.get("size") in (None, node.meta.get("size")) for a in values)

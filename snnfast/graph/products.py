"""Products of two values, such as those of attention, and what makes the input of a product dense."""

import math

import torch

from snnfast.graph.aten import name_of
from snnfast.graph.vocabulary import FUNCTION_MODULES, FUNCTIONS, PRODUCTS, module_of
from snnfast.nn.over_time import Differential

SINGLE_MODULES = tuple(
    getattr(torch.nn, name)
    for name in ("GELU", "SiLU", "Tanh", "ELU", "LeakyReLU", "Hardswish", "PReLU", "Mish", "SELU", "CELU", "Hardtanh", "ReLU", "ReLU6")
)
# Functions of single values that may give zero for zero, so that, step by step, nothing comes out where no spike goes in.
SINGLE = frozenset(
    "abs clamp clamp_min clamp_max clip relu relu6 hardtanh silu gelu hardswish tanh elu leaky_relu mish selu celu square "
    "softshrink hardshrink sin asin atan sinh erf expm1 log1p pow".split()
)  # fmt: skip


def may_multiply_values(node, gm):
    """Whether a node may be a product of two values, or a function that holds one."""
    if node.op == "call_module":
        return isinstance(module_of(gm, node), Differential)
    if not node.op.startswith("call_"):
        return False
    kinds = ("product", "function", "refused")  # refused behind a neuron, as an LSTM: it may stand in front of the first
    return node.meta.get("kind") in kinds or node.target in PRODUCTS or node.target in FUNCTIONS


def is_of_values(node, gm, spiking):
    """Whether a node is nothing but a product of two values, or this product over time. Of three a spike meets a product of the two others,
    which somebody has to multiply."""
    layer = module_of(gm, node)
    if layer is not None and not (isinstance(layer, Differential) and layer.is_product):
        return False
    if layer is None and node.meta.get("kind") != "product" and node.target not in PRODUCTS:
        return False
    return sum(times_among_factors(node, gm, i) for i, a in enumerate(node.all_input_nodes) if a in spiking) <= 2


def times_among_factors(node, gm, place):
    """How often input number `place` stands among the factors of a product: twice in x x^T."""
    layer = module_of(gm, node)
    if layer is not None:
        call = getattr(layer.function, "function", layer.function)  # behind RowsFirst
        return call.times(place)
    found = []
    torch.fx.node.map_arg((node.args, node.kwargs), found.append)
    return found.count(node.all_input_nodes[place])


def is_dense(node, gm):
    """Whether a node gives real values at every step, whatever comes in: a softmax, a layer norm, a GELU, and over time a gate."""
    layer = module_of(gm, node)
    if isinstance(layer, Differential):
        return not layer.passes_spikes
    is_function = isinstance(layer, FUNCTION_MODULES) or node.target in FUNCTIONS or node.meta.get("kind") == "function"
    return is_function and not keeps_zero(node, gm)


@torch.no_grad()
def keeps_zero(node, gm):
    """Whether a function gives zero where its input is zero: those of single values are asked, of two values a maximum and a minimum do."""
    layer, name = module_of(gm, node), name_of(node.target) or getattr(node.target, "__name__", node.target)
    if name in ("maximum", "minimum"):
        return len(node.all_input_nodes) > 1 and not any(map(_is_constant, node.all_input_nodes))
    if name in ("prelu", "_prelu_kernel"):
        return all(map(_is_constant, node.all_input_nodes[1:]))
    if len(node.all_input_nodes) != 1 or not (isinstance(layer, SINGLE_MODULES) or (layer is None and name in SINGLE)):
        return False
    zero = torch.zeros(1)
    if layer is not None:
        return not layer(zero.to(next(layer.parameters(), zero))).any()
    args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda _: zero)
    return not (getattr(args[0], name)(*args[1:], **kwargs) if node.op == "call_method" else node.target(*args, **kwargs)).any()


def _is_constant(node):
    return node.meta.get("kind") == "constant" or node.op == "get_attr"


@torch.no_grad()
def multiplications(node, gm, env):
    """Multiplications of matrix products inside of a node, for these values of its inputs. An elementwise product has none."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    fake = FakeTensorMode(allow_non_fake_inputs=True)
    given = {a: torch.utils._pytree.tree_map_only(torch.Tensor, fake.from_tensor, env[a]) for a in node.all_input_nodes}
    try:
        with fake:  # shapes alone: a second attention map would take memory that nobody has planned
            return _counted(node, gm, given)
    except Exception:  # of any kind: a function of one's own may ask for values
        return _counted(node, gm, env)


def _counted(node, gm, env):
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode  # which imports sympy

    args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), env.__getitem__)
    layer = module_of(gm, node)
    # The counter does not know torch's fused attention on a CPU.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=_unknown_to_the_counter()) as counter:
        if node.op == "call_method":
            getattr(args[0], node.target)(*args[1:], **kwargs)
        else:
            (node.target if layer is None else layer)(*args, **kwargs)
    return counter.get_total_flops() // 2


def _unknown_to_the_counter():
    """{operator: its multiplications and additions, from the shapes of its arguments}"""
    aten, prod = torch.ops.aten, math.prod

    def trilinear(a, b, c, expand_a, expand_b, expand_c, *_, **__):
        shapes = [list(shape) for shape in (a, b, c)]
        for shape, expanded in zip(shapes, (expand_a, expand_b, expand_c)):
            for dim in expanded:
                shape.insert(dim, 1)
        return 2 * prod(torch.broadcast_shapes(*shapes))

    def layer_of_steps(x, w_of_input, w_of_state, *_, **__):
        return 2 * prod(x[:-1]) * (prod(w_of_input) + prod(w_of_state))

    def all_layers(x, weights, *_, **__):
        return 2 * prod(x[:-1]) * sum(prod(w) for w in weights if len(w) == 2)

    return {aten._trilinear: trilinear, aten.mkldnn_rnn_layer: layer_of_steps, aten._cudnn_rnn: all_layers}

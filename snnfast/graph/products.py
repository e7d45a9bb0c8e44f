"""Products of two values, such as those of attention, and what makes the input of a product dense."""

import torch

from snnfast.graph.vocabulary import FUNCTION_MODULES, FUNCTIONS, PRODUCTS, module_of
from snnfast.nn.over_time import Differential


def may_multiply_values(node, gm):
    """Whether a node may be a product of two values, or a function that holds one."""
    if node.op == "call_module":
        return isinstance(module_of(gm, node), Differential)
    if not node.op.startswith("call_"):
        return False
    return node.meta.get("kind") in ("product", "function") or node.target in PRODUCTS or node.target in FUNCTIONS


def is_of_values(node, gm):
    """Whether a node is nothing but a product of two values, or this product over time."""
    layer = module_of(gm, node)
    if layer is not None:
        return isinstance(layer, Differential) and layer.is_product
    return node.meta.get("kind") == "product" or node.target in PRODUCTS


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
    return isinstance(layer, FUNCTION_MODULES) or node.target in FUNCTIONS or node.meta.get("kind") == "function"


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
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        if node.op == "call_method":
            getattr(args[0], node.target)(*args[1:], **kwargs)
        else:
            (node.target if layer is None else layer)(*args, **kwargs)
    return counter.get_total_flops() // 2

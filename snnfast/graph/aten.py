"""One table of the operators in torch.export's graphs, and of what each does to the rows of a batch.

linear     linear in what comes over time, each row by itself
affine     linear, and a constant is added or put in
view       moves values only
product    linear in one factor where the others are constants; a function of rows where several come over time
function   a function of each row
pool       the largest value of a window
site       a layer of `snnfast.nn`, marked before the capture

An operator that is not in the table counts as a function of rows: samples check the rows (`guard.py`), and such an operator never counts as linear.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Op:
    """kind: see above.  along: name of the argument with the dimensions that the operator works along; none of them may be that of the images."""

    kind: str
    along: str | None = None


def _all(kind, names, along=None):
    return dict.fromkeys(names.split(), Op(kind, along))


TABLE: dict[str, Op] = {
    **_all("linear", "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d"),
    **_all("linear", "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d upsample_trilinear3d"),
    **_all("linear", "upsample_bicubic2d _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d"),
    **_all("linear", "add sub neg im2col col2im reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d"),
    **_all("linear", "replication_pad3d pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle"),
    **_all("linear", "mean sum cumsum", along="dim"),
    **_all("affine", "constant_pad_nd pad where masked_fill slice_scatter select_scatter diagonal_scatter"),
    **_all("view", "view _unsafe_view reshape flatten unflatten permute transpose t movedim squeeze unsqueeze expand unfold"),
    **_all("view", "select slice narrow split split_with_sizes chunk unbind swapaxes repeat repeat_interleave"),
    **_all("view", "index_select", along="dim"),
    **_all("view", "index tril triu diagonal copy"),
    **_all("view", "flip", along="dims"),
    **_all("view", "roll", along="dims"),
    **_all("view", "cat stack", along="dim"),
    **_all("product", "mul div matmul mm bmm einsum mv dot"),
    **_all("function", "softmax log_softmax _softmax _log_softmax logsumexp glu", along="dim"),
    **_all("function", "std var std_mean var_mean linalg_vector_norm prod", along="dim"),
    **_all("pool", "max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d amax"),
}  # fmt: skip
# Operators whose value no sum over time can hold, or that give another value at every call.
REFUSED = frozenset(
    "argmax argmin sort topk nonzero bucketize searchsorted round floor ceil trunc sign eq ne lt le gt ge logical_and logical_or logical_not "
    "multinomial as_strided histc bincount unique unique2 lstm gru rnn_tanh rnn_relu".split()
)  # fmt: skip
# Operators that pass a value on unchanged.
NOTHING = frozenset("clone contiguous alias detach lift lift_fresh lift_fresh_copy positive view_as_real_copy".split())
# Operators that give constants: FILLED in the shape of another value, CREATED in any shape.
FILLED = frozenset("zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty fill".split())
CREATED = FILLED | {"zeros", "ones", "full", "empty"}
IGNORED = frozenset("_assert_tensor_metadata _assert_scalar sym_constrain_range sym_constrain_range_for_size _assert_async".split())


def filled_with(node, value):
    """The number that a node of CREATED fills a value with. value: a function that gives the value of an argument, which may be another node."""
    name, given = name_of(node.target), arguments(node)
    number = value(given.get("fill_value", given.get("value")))
    return 1.0 if "ones" in name else 0.0 if number is None else float(number)


def name_of(target):
    """The operator's name without its overload: "add" of aten.add.Tensor; None if `target` is no operator of torch."""
    return target._schema.name.split("::")[1] if isinstance(target, torch._ops.OpOverload) else None


def op_of(target):
    """The operator's row of the table."""
    return TABLE.get(name_of(target), Op("function"))


def arguments(node):
    """The arguments of a call of an operator by name, with defaults."""
    found, given = {}, list(node.args)
    for i, a in enumerate(node.target._schema.arguments):
        found[a.name] = given[i] if i < len(given) else node.kwargs.get(a.name, a.default_value)
    return found

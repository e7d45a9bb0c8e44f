"""The engines in Triton: the Python equations bound to Triton's primitives. Imported on first use."""

import triton
import triton.language as tl

from snnfast.equations.activations import qcfs as _qcfs
from snnfast.equations.bind import bind
from snnfast.equations.functions import layer_norm as _layer_norm
from snnfast.equations.functions import max_pool as _max_pool
from snnfast.equations.functions import moments as _moments
from snnfast.equations.functions import softmax as _softmax
from snnfast.equations.neurons import cos as _cos
from snnfast.equations.neurons import iaf as _iaf
from snnfast.equations.synapses import conv as _conv


@triton.jit
def _where(c, a, b):
    return tl.where(c, a, b)


@triton.jit
def _splat(like, number):
    return tl.full(like.shape, number, like.dtype)


@triton.jit
def _div(a, b):
    # A bare / on fp32 compiles to div.full, which is not true division; on fp64 it is div.rn.
    if a.dtype == tl.float64:
        return a / b
    else:
        return tl.div_rn(a, b)


@triton.jit
def _floor(a):
    return tl.floor(a)


@triton.jit
def _exp(a):
    return tl.exp(a)


@triton.jit
def _power(a):
    # 2^j with 0.75 2^j <= a < 1.5 2^j, for finite a >= 0; 0 for 0. A half, added to the mantissa's bits, carries into the exponent from 1.5 on.
    if a.dtype == tl.float64:
        return ((a.to(tl.int64, bitcast=True) + 0x8000000000000) & 0x7FF0000000000000).to(tl.float64, bitcast=True)
    else:
        return ((a.to(tl.int32, bitcast=True) + 0x400000) & 0x7F800000).to(tl.float32, bitcast=True)


@triton.jit
def _root(a):
    # tl.sqrt is approximate on fp32.
    if a.dtype == tl.float64:
        return tl.sqrt(a)
    else:
        return tl.sqrt_rn(a)


@triton.jit
def _total(a):
    # Adds the halves of a row, in the order of snnfast/engines/reference/rows.py: [rows, n] -> [rows, 1].
    for _ in tl.static_range(16):  # unrolled, because the shape differs in each turn
        if a.shape[1] > 1:
            halves = tl.permute(tl.reshape(a, [a.shape[0], 2, a.shape[1] // 2]), (0, 2, 1))
            first, second = tl.split(halves)
            a = first + second
    return a


@triton.jit
def _largest(a):
    return tl.max(a, axis=1, keep_dims=True)


_primitives = dict(
    where=_where, splat=_splat, div=_div, floor=_floor, exp=_exp, power=_power, root=_root, total=_total, largest=_largest, tl=tl
)


def bound(module):
    """The equation in `module`, bound to Triton."""
    return bind(module, wrap=triton.jit, **_primitives)


iaf, cos, qcfs, conv = bound(_iaf), bound(_cos), bound(_qcfs), bound(_conv)
softmax, layer_norm, moments, max_pool = bound(_softmax), bound(_layer_norm), bound(_moments), bound(_max_pool)

# Results are specified to the bit, so no contraction: Triton would contract a * b + c by default.
OPTIONS = dict(enable_fp_fusion=False)

CALLED = ("start", "step", "step_bwd", "start_bwd", "fwd", "bwd", "unwatched", "watch", "shifted", "add", "apply", "corrected", "better")


def kernel(function, equation, run_time):
    """`function` as a Triton kernel with `equation`'s functions as globals; the arguments in `run_time` never specialise it."""
    import types

    # Only the functions that an engine calls: a helper of the equation must not replace a helper of the engine.
    called = {n: f for n, f in vars(equation).items() if n in CALLED}
    copy = types.FunctionType(function.__code__, {**function.__globals__, **called}, function.__name__, function.__defaults__)
    copy.__module__, copy.__annotations__ = function.__module__, function.__annotations__
    return triton.jit(copy, do_not_specialize=run_time)

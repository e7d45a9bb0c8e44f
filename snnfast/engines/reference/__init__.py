"""The engines in plain torch: they define what every other backend must compute, bit for bit."""

import torch

from snnfast.engines.reference.rows import largest, root, total
from snnfast.equations.activations import qcfs as _qcfs
from snnfast.equations.bind import bind
from snnfast.equations.functions import layer_norm as _layer_norm
from snnfast.equations.functions import max_pool as _max_pool
from snnfast.equations.functions import moments as _moments
from snnfast.equations.functions import softmax as _softmax
from snnfast.equations.neurons import cos as _cos
from snnfast.equations.neurons import iaf as _iaf
from snnfast.equations.synapses import conv as _conv


def _where(c, a, b):
    r = torch.where(c, a, b)
    # Two Python numbers give torch's default dtype; spikes are exact in fp32 and promote with the state.
    return r if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor) else r.float()


def _splat(like, number):
    # A start voltage may be a tensor, which has a shape of its own.
    return number if isinstance(number, torch.Tensor) else torch.full_like(like, number)


def _power(a):
    """2^j with 0.75 2^j <= a < 1.5 2^j, for finite a >= 0; 0 for 0. A half, added to the mantissa's bits, carries into the exponent from 1.5 on."""
    if a.dtype == torch.float64:
        return (a.view(torch.int64).add(1 << 51) & 0x7FF0000000000000).view(torch.float64)
    return (a.view(torch.int32).add(1 << 22) & 0x7F800000).view(torch.float32)


# x/theta with x a tensor and theta a tensor is a true division on every device.
_torch = dict(
    where=_where,
    splat=_splat,
    div=torch.true_divide,
    floor=torch.floor,
    exp=torch.exp,
    power=_power,
    root=root,
    total=total,
    largest=largest,
)


def bound(module):
    """The equation in `module`, bound to torch."""
    return bind(module, **_torch)


iaf, cos, qcfs, conv = bound(_iaf), bound(_cos), bound(_qcfs), bound(_conv)
softmax, layer_norm, moments, max_pool = bound(_softmax), bound(_layer_norm), bound(_moments), bound(_max_pool)

"""Spikes that autograd keeps for the backward, as bits: one or two for a value that takes 16, 32 or 64.

A convolution or a linear layer keeps its input for the gradient of its weight. Behind a neuron that input is 0 or theta, so a bit says which of them;
spikes of both signs take two bits. Every other tensor is kept as it is.
"""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from snnfast.ops.layout import layout_of

FEWEST = 1024  # values; of fewer nothing is gained
SAMPLE = 4096  # values that are looked at first: what is no spike is mostly seen there
WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
GATHER = 0x0102040810204080  # times eight bytes of 0 or 1: their bits stand in the highest byte, the first lowest


class Bits(NamedTuple):
    """A tensor of the values 0, value and -value. fired, negative: uint8, eight values in a byte, in the order of memory; negative may be None."""

    fired: Tensor
    negative: Tensor | None
    value: Tensor
    shape: torch.Size
    stride: tuple[int, ...]


class Kept(NamedTuple):
    """A tensor that is kept as it is, and its version: hooks switch off torch's own check that nobody has written to it since."""

    tensor: Tensor
    version: int


@contextlib.contextmanager
def spikes_as_bits() -> Iterator[None]:
    """While this context is open, what autograd keeps for the backward is kept as bits where it is spikes: the same gradients, in less memory.

    Works on any module and loss whose forward runs inside of it, on every device; the backward may run outside. A tensor of fp16, bf16, fp32 or fp64
    whose values are 0 and one other number, which may have both signs, is kept as one or two bits a value, and made again when its gradient is
    computed, to the last bit. A convolution behind a neuron keeps 1/32 of its input so. The price is that every tensor which is kept is looked at
    once, and spikes are packed and unpacked; on a GPU each look waits for the tensor's values. What `backward_through_time` runs again in the
    backward is kept so where the backward runs inside too. torch.func's transforms refuse to run inside.

    Raises:
        RuntimeError: in the backward, where a tensor that was kept as it is was written to since.

    >>> net = torch.nn.Sequential(snnfast.nn.LIF(2.0), torch.nn.Linear(64, 10))
    >>> x = torch.rand(4, 32, 64)  # 4 steps, 32 samples
    >>> with snnfast.spikes_as_bits():
    ...     loss = net(x).square().mean()
    >>> loss.backward()
    """
    with torch.autograd.graph.saved_tensors_hooks(_pack, _unpack):
        yield


@torch.no_grad()
def _pack(t):
    return _as_bits(t) or Kept(t.detach(), t._version)  # of t itself, a node would keep its own result for ever


@torch.no_grad()
def _unpack(kept):
    if isinstance(kept, Bits):
        return _values(kept)
    if kept.tensor._version != kept.version:
        raise RuntimeError(
            f"a tensor of shape {tuple(kept.tensor.shape)} that the gradient needs was written to since the forward: its version is "
            f"{kept.tensor._version}, it was {kept.version}"
        )
    return kept.tensor


def _as_bits(t):
    """`Bits`, or None where t is something else than spikes."""
    if type(t) is not Tensor or not t.is_floating_point() or t.numel() < FEWEST or t.layout != torch.strided or t.device.type == "meta":
        return None
    if not layout_of(t).dense:
        return None
    words = t.as_strided((t.numel(),), (1,)).view(WORDS[t.element_size()])
    found = _spikes(words[:SAMPLE]) and _spikes(words)
    if found is None:
        return None
    value, fired, negative = found
    value = torch.tensor(value, dtype=words.dtype, device=t.device).view(t.dtype)
    return Bits(_eight(fired), None if negative is None else _eight(negative), value, t.shape, t.stride())


def _spikes(words):
    """(word of the value, which fired, which are negative or None where none is) of words that are spikes, else None."""
    lowest, highest = torch.stack(words.aminmax()).tolist()
    sign = torch.iinfo(words.dtype).min  # the word of -0, which is no spike; that of -a is the word of a and the sign
    value = highest if highest > 0 else lowest - sign if lowest < 0 else 0
    if lowest < 0 and (not value or lowest != value + sign):
        return None
    fired, negative = words != 0, words < 0 if lowest < 0 else None
    of_size = words == value if negative is None else (words == value) | (words == lowest)
    if value and int(of_size.count_nonzero()) != int(fired.count_nonzero()):
        return None
    return value, fired, negative


def _eight(bits):
    """Eight truth values in a byte, the first in the lowest bit."""
    if bits.numel() % 8:
        bits = torch.nn.functional.pad(bits, (0, -bits.numel() % 8))
    return ((bits.view(torch.int64) * GATHER) >> 56).to(torch.uint8)


def _values(kept):
    which = (torch.arange(256, device=kept.value.device)[:, None] >> torch.arange(8, device=kept.value.device)) & 1
    flat = _by_bit(kept.fired, torch.where(which == 1, kept.value, torch.zeros_like(kept.value)))
    if kept.negative is not None:
        flat = flat.mul_(_by_bit(kept.negative, (1 - 2 * which).to(kept.value.dtype)))
    return flat.as_strided(kept.shape, kept.stride)


def _by_bit(packed, table):
    """table: [256, 8], the eight values of a byte."""
    return table.index_select(0, packed.int()).view(-1)

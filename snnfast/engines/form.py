"""The canonical form: what crosses from an op into an engine, in every column.

x is [T, N], or [1, N] for a constant current; per-neuron arrays are [N] in the memory order of one step. The form of the spikes crosses as its place
in SPIKES, a rule as the numbers of `equations/rule.py`.
"""

import torch

from snnfast.equations.bind import remembers

SPIKES = ("scaled", "unit", "int8", "bits", "count")
DENSE = ("scaled", "unit", "int8")  # forms with an element per neuron and step
EVERY = 16  # on a GPU the forward keeps the state before every 16th step for the backward


def spikes_spec(T, N, dtype, spikes, signed):
    """Shape and dtype of the spikes of T steps of N neurons in the form `spikes`, for input of `dtype`."""
    words = -(-N // 32)
    if spikes in ("scaled", "unit"):
        return (T, N), dtype
    if spikes == "int8":
        return (T, N), torch.int8
    if spikes == "bits":
        return ((2, T, words) if signed else (T, words)), torch.int32
    return (N,), torch.int32


def allocate(x, T, spikes, signed):
    shape, dtype = spikes_spec(T, x.size(1), x.dtype, spikes, signed)
    return x.new_empty(shape) if dtype is x.dtype else x.new_empty(shape, dtype=dtype)  # passing a dtype doubles the time


def count_like(x, theta, k):
    """An empty [N] for the count between calls."""
    return x.new_empty(x.size(1), dtype=theta.dtype if remembers(k) else torch.int32)


def kept_shape(T, N, every, gates):
    """Shape of the states kept for the backward: [ceil(T/every), 1 or 2 (v; n where it gates), N], or nothing."""
    return (-(-T // every) if every else 0, 2 if gates else 1, N)

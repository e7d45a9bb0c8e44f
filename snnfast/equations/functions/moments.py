"""What batch norm asks of a channel's numbers, and what its backward adds to them: the definition.

    total = sum (x - pivot) ;   squares = sum (x - pivot)^2       in fp64; pivot, one of the numbers, keeps the squares small
    y = y + (x q + p)                                             q, p of the channel

C++ twin: `csrc/equations/functions/moments.h`.
"""

from typing import NamedTuple


class Rule(NamedTuple):
    """Nothing to choose."""


def add(total, squares, x, pivot):
    """The sums with one number more."""
    d = x - pivot
    return total + d, squares + d * d


def corrected(y, x, q, p):
    return y + (x * q + p)

"""Softmax of a row: the definition.

    y_i = exp(x_i - max x) / sum over j of exp(x_j - max x)

with `exponential` of this folder and the sum of `snnfast/engines/reference/rows.py`, whose order is specified. Over time it is taken of a running sum
(You et al., "SpikeZIP-TF", ICML 2024, eq. 12; `snnfast/conversion/functions.py`). C++ twin: `csrc/equations/functions/softmax.h`.

`largest` and `total` run over a row; `inside` is False where a row is filled up, and there x is 0 and y must be.
"""

from typing import NamedTuple

from snnfast.equations.functions.exponential import exponential


class Rule(NamedTuple):
    """wide: the numbers are fp64."""

    wide: bool = False


def apply(x, inside, w, b, n, k):
    e = where(inside, exponential(x - largest(where(inside, x, -float("inf"))), k), x * 0)
    return div(e, total(e))

"""Layer norm of a row: the definition.

    mu = sum x / n ;  d = x - mu ;  y = d / sqrt(sum d^2 / n + eps) w + b

(Ba, Kiros and Hinton, "Layer normalization", 2016), every operation rounded by itself, the sums in the order of
`snnfast/engines/reference/rows.py`. Over time it is taken of a running sum (`snnfast/conversion/functions.py`). C++ twin:
`csrc/equations/functions/layer_norm.h`.

`total` runs over a row of n numbers; `inside` is False where a row is filled up, and there x is 0.
"""

from typing import NamedTuple


class Rule(NamedTuple):
    """The numbers of one launch; wide: they are fp64."""

    wide: bool = False
    eps: float = 1e-5


def apply(x, inside, w, b, n, k):
    d = where(inside, x - div(total(x), n), x * 0)
    return div(d, root(div(total(d * d), n) + k.eps)) * w + b

"""Max pooling over windows of an image: the definition.

A window's numbers are looked at row by row. One takes the place of the largest so far where it is larger, or NaN; before the first, that is
-inf at the window's first number inside of the image. So of equal numbers the first is kept, as torch keeps it, and the gradient goes there.
C++ twin: `csrc/equations/functions/max_pool.h`.
"""

from typing import NamedTuple


class Rule(NamedTuple):
    """Of the rows and the columns: size of a window, steps between windows, rows and columns added at each border."""

    size_y: int
    size_x: int
    stride_y: int
    stride_x: int
    padding_y: int
    padding_x: int


def better(x, largest):
    return (x > largest) | (x != x)

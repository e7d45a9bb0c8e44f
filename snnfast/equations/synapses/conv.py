"""A convolution over spikes: the definition.

    y[r, o, i, j] = b[o] + sum over ky, kx, c, in this order, of x[r, g C + c, i sy + ky dy - py, j sx + kx dx - px] w[o, c, ky, kx]

with stride s, padding p and dilation d; g is the group of output o, and each group has C channels. Every product and every sum is rounded by itself,
the sum runs in the order written, and a zero of x (a neuron that is silent, a place outside the image) adds nothing, whatever its weight is. So a
result depends on its own row alone, not on the batch, the chunk of time or the number of threads, and the cost is that of the spikes. With
ky = kx = 1 and one place it is a linear layer.

The arithmetic is that of torch.nn.functional.conv2d (Rueckauer et al., "Conversion of continuous-valued deep networks to efficient event-driven
networks", 2017, count the same additions as synaptic operations), whose libraries choose the order of the sum themselves. C++ twin:
`csrc/equations/synapses/conv.h`.
"""

from typing import NamedTuple


class Rule(NamedTuple):
    """The numbers of one launch, in places of the image: y is the row, x the column."""

    stride_y: int = 1
    stride_x: int = 1
    padding_y: int = 0
    padding_x: int = 0
    dilation_y: int = 1
    dilation_x: int = 1


def add(total, x, w):
    """The sum after one input that is not zero."""
    return total + x * w

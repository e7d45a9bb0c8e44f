"""The gathering loop in plain torch: each output adds the weights of the inputs that are not zero, one after another.

x is [R, H, W, G C] (rows are images times steps), w is [KY, KX, C, O], bias is [O] or None; y is [R, Ho, Wo, O]. G groups share the outputs.
"""

import torch
from torch.nn.functional import pad


def spec(x, w, k):
    """The shape of y."""
    return x.size(0), *places(x, w.shape[:2], k), w.size(3)


def places(x, kernel, k):
    """(Ho, Wo). kernel: (KY, KX)."""
    return tuple(
        (n + 2 * padding - dilation * (m - 1) - 1) // stride + 1
        for n, m, stride, padding, dilation in zip(x.shape[1:3], kernel, k[0:2], k[2:4], k[4:6])
    )


def groups_of(channels, C):
    """How many groups of C channels there are."""
    return channels // C if C else 1


def fwd(eq, x, w, bias, k):
    groups = groups_of(x.size(3), w.size(2))
    shape = spec(x, w, k)
    total = x.new_zeros(shape) if bias is None else bias.expand(shape).clone()
    x = pad(x, (0, 0, k.padding_x, k.padding_x, k.padding_y, k.padding_y))
    last_y, last_x = ((n - 1) * stride + 1 for n, stride in zip(shape[1:3], k[0:2]))
    for ky in range(w.size(0)):
        for kx in range(w.size(1)):
            y0, x0 = ky * k.dilation_y, kx * k.dilation_x
            window = x[:, y0 : y0 + last_y : k.stride_y, x0 : x0 + last_x : k.stride_x]
            for c in range(w.size(2)):
                one = window[..., c :: w.size(2)]  # of each group
                one = one if groups == 1 else one.repeat_interleave(w.size(3) // groups, dim=3)
                total = torch.where(one != 0, eq.add(total, one, w[ky, kx, c]), total)
    return total

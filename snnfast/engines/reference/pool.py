"""Max pooling in plain torch: the semantics. x: [P, H, W, C]; at: which of a window's numbers is the largest, row by row."""

import torch


def spec(H, W, k):
    """(Ho, Wo): windows along the rows and the columns."""
    return (H + 2 * k.padding_y - k.size_y) // k.stride_y + 1, (W + 2 * k.padding_x - k.size_x) // k.stride_x + 1


def _windows(padded, Ho, Wo, ky, kx, k):
    """The number (ky, kx) of every window."""
    return padded[:, ky : ky + k.stride_y * (Ho - 1) + 1 : k.stride_y, kx : kx + k.stride_x * (Wo - 1) + 1 : k.stride_x]


def fwd(eq, x, k):
    P, H, W, C = x.shape
    Ho, Wo = spec(H, W, k)
    padded = torch.nn.functional.pad(x, (0, 0, k.padding_x, k.padding_x, k.padding_y, k.padding_y), value=float("-inf"))
    largest = x.new_full((P, Ho, Wo, C), float("-inf"))
    top = (k.padding_y - torch.arange(Ho, device=x.device) * k.stride_y).clamp(min=0).view(1, Ho, 1, 1)
    left = (k.padding_x - torch.arange(Wo, device=x.device) * k.stride_x).clamp(min=0).view(1, 1, Wo, 1)
    at = (top * k.size_x + left).expand(largest.shape).contiguous()
    for ky in range(k.size_y):
        for kx in range(k.size_x):
            of = _windows(padded, Ho, Wo, ky, kx, k)
            is_better = eq.better(of, largest)
            largest, at = torch.where(is_better, of, largest), at.masked_fill(is_better, ky * k.size_x + kx)
    return largest, at.to(torch.uint8)


def bwd(dy, at, H, W, k):
    """dx: each number adds up what its windows send back, in the order of the windows, in fp32 (fp64 for fp64)."""
    P, Ho, Wo, C = dy.shape
    acc = dy.double() if dy.dtype == torch.float64 else dy.float()
    dx = acc.new_zeros((P, H + 2 * k.padding_y, W + 2 * k.padding_x, C))
    at = at.view(dy.shape)
    for ky in reversed(range(k.size_y)):  # a later window has the same number at an earlier place
        for kx in reversed(range(k.size_x)):
            _windows(dx, Ho, Wo, ky, kx, k).add_(torch.where(at == ky * k.size_x + kx, acc, 0.0))
    return dx[:, k.padding_y : k.padding_y + H, k.padding_x : k.padding_x + W].to(dy.dtype).contiguous()

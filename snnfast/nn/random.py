"""Numbers from a counter, not from a stream: each is a hash of (seed, step, image, position), the same on every device and however time and
images are cut into chunks and batches (splitmix64's finaliser; Steele, Lea and Flood, OOPSLA 2014).
"""

import torch

_GOLDEN = -7046029254386353131  # 2^64 / golden ratio, as a signed number


_FIRST, _SECOND = -4658895280553007687, -7723592293110705685


def _shifted(z, bits):
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _mixed(z):
    """64 well-mixed bits of each int64; products wrap."""
    z = (z ^ _shifted(z, 30)) * _FIRST
    z = (z ^ _shifted(z, 27)) * _SECOND
    return z ^ _shifted(z, 31)


def uniform(shape, seed, t, first, device):
    """Numbers in [0, 1) for images first, first + 1, ... (or those that a tensor [B] names) at step t: [B, ...] fp32, 24 bits each."""
    B, N = shape[0], 1
    for n in shape[1:]:
        N *= n
    start = torch.tensor([seed, t], dtype=torch.int64, device=device)
    key = _mixed(_mixed(start[0] + _GOLDEN) + (start[1] + 1) * _GOLDEN)
    numbers = first.to(device) if isinstance(first, torch.Tensor) else first + torch.arange(B, device=device)
    image = _mixed(key + (numbers + 1) * _GOLDEN)
    bits = _mixed(image[:, None] + (1 + torch.arange(N, device=device)) * _GOLDEN)
    return (_shifted(bits, 40).float() * 2.0**-24).view(shape)

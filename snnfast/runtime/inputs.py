"""Poisson input: an image as random spikes, amplitude * sign(x) where a uniform number is below |x| / amplitude.

The numbers come from a counter, not from a stream: each is a hash of (seed, step, image, position), the same on every device and however time and
images are cut into chunks and batches (splitmix64's finaliser; Steele, Lea and Flood, OOPSLA 2014).
"""

import torch

from snnfast.nn.random import uniform


def spikes(x, amplitude, seed, t, steps, first):
    """Steps t .. t + steps - 1 of the images x [B, ...]: [steps, B, ...]. |x| above the amplitude fires at every step."""
    size, rate = amplitude * x.sign(), x.abs() / amplitude
    return torch.stack(
        [torch.where(uniform(x.shape, seed, t + i, first, x.device) < rate, size, torch.zeros_like(x)) for i in range(steps)]
    )

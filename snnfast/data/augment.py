"""Augmentation of images."""

import contextlib
import random

import numpy as np
import torch


def seed_all(seed: int) -> None:
    """Seeds what moves images: torch's random numbers, and those of Python and numpy, which timm's RandAugment draws."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % (1 << 32))


@contextlib.contextmanager
def seeds_kept():
    """What is drawn in this context leaves the random numbers behind it as they were."""
    python, arrays = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)


class Cutout:
    """A square of zeros, side `length`, at a random place of an image [C, H, W], cut off at its border (DeVries and Taylor, 2017)."""

    def __init__(self, length):
        self.length = length

    def __call__(self, image):
        h, w = image.shape[-2:]
        y, x = int(torch.randint(h, ())), int(torch.randint(w, ()))
        half = self.length // 2
        image = image.clone()
        image[..., max(0, y - half) : y + half, max(0, x - half) : x + half] = 0
        return image


def shift(images, pixels, generator=None):
    """Each batch moved by up to `pixels` in both directions, the border repeated: augmentation for digits. images: [B, C, H, W]."""
    h, w = images.shape[-2:]
    padded = torch.nn.functional.pad(images, (pixels,) * 4, mode="replicate")
    dy, dx = torch.randint(0, 2 * pixels + 1, (2,), generator=generator).tolist()
    return padded[..., dy : dy + h, dx : dx + w]

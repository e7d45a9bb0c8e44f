"""Data sets. `digits`: scikit-learn's 1,797 handwritten digits, built in."""

import numpy as np
import torch
from torch.utils.data import TensorDataset


def digits(image_size=32, test_size=360, seed=0):
    """8 x 8 digits, upsampled, in a fixed stratified split.

    Returns:
        (train, test): TensorDatasets of images [1, image_size, image_size], standardised with the training set's mean and deviation, and labels.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    index = np.arange(len(bunch.target))
    train, test = train_test_split(index, test_size=test_size, random_state=seed, stratify=bunch.target)
    x = torch.tensor(bunch.images / 16.0, dtype=torch.float32).unsqueeze(1)
    x = torch.nn.functional.interpolate(x, size=(image_size, image_size), mode="bilinear", align_corners=False)
    x = (x - x[train].mean()) / x[train].std()
    y = torch.tensor(bunch.target)
    return TensorDataset(x[train], y[train]), TensorDataset(x[test], y[test])


def shift(images, pixels, generator=None):
    """Each batch moved by up to `pixels` in both directions, the border repeated: augmentation for digits. images: [B, C, H, W]."""
    h, w = images.shape[-2:]
    padded = torch.nn.functional.pad(images, (pixels,) * 4, mode="replicate")
    dy, dx = torch.randint(0, 2 * pixels + 1, (2,), generator=generator).tolist()
    return padded[..., dy : dy + h, dx : dx + w]

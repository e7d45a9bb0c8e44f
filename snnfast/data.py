"""Data sets by name, with the preprocessing of the papers. `digits` is built in; the others are read through torchvision, from a folder.

digits        scikit-learn's 1,797 handwritten digits, 8 x 8, upsampled
cifar10, cifar100        torchvision's files below `root`
imagefolder   root/train/<class>/*, root/val/<class>/*: ImageNet and sets laid out like it
"""

import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import TensorDataset

from snnfast import recipes
from snnfast.ops import checks

NAMES = ("digits", "cifar10", "cifar100", "imagefolder")


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


class Data:
    """What `load` returns: train and test sets of (image [C, H, W], label), `augment` for a batch (or None), and the facts a checkpoint keeps."""

    def __init__(self, train, test, classes, image_size, channels, facts, augment=None):
        self.train, self.test, self.classes, self.image_size, self.channels = train, test, classes, image_size, channels
        self.facts, self.augment = facts, augment


def load(name, root=None, cutout=16, download=False):
    """A data set by name.

    Args:
        name: "digits", "cifar10", "cifar100" or "imagefolder".
        root: folder of the files; not needed for digits.
        cutout: side of the square that training images lose, 0 for none.
        download: whether torchvision may fetch CIFAR.

    Raises:
        ValueError: an unknown name, a missing folder, no images in it; ModuleNotFoundError: torchvision or scikit-learn is not installed.
    """
    checks.choice("data", name, NAMES)
    if name == "digits":
        train, test = digits()
        return Data(train, test, 10, 32, 1, dict(data="digits", image_size=32, preprocessing="standardised"), lambda x: shift(x, 3))
    if root is None:
        raise ValueError(f"data {name!r} needs a folder: give --data-dir (root=)")
    root = Path(root).expanduser()
    if not root.is_dir() and not download:
        raise ValueError(f"data folder {root} is not there")
    if not importlib.util.find_spec("torchvision"):
        raise ModuleNotFoundError("torchvision", name="torchvision")
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:  # one built for another torch
        raise ValueError(f"data {name!r} is read through torchvision, which does not load: {error}") from None
    return _imagefolder(root, cutout) if name == "imagefolder" else _cifar(name, root, cutout, download)


def _cifar(name, root, cutout, download):
    from torchvision import datasets, transforms

    mean, std = recipes.CIFAR10 if name == "cifar10" else recipes.CIFAR100
    plain = [transforms.ToTensor(), transforms.Normalize(mean, std)]
    policy = transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10)
    moved = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), policy, *plain, *([Cutout(cutout)] if cutout else [])]
    kind = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    try:
        train = kind(str(root), train=True, transform=transforms.Compose(moved), download=download)
        test = kind(str(root), train=False, transform=transforms.Compose(plain))
    except RuntimeError as error:
        raise ValueError(f"{root} does not hold {name} as torchvision lays it out: {error}") from None
    facts = dict(data=name, image_size=32, preprocessing=dict(mean=list(mean), std=list(std)))
    return Data(train, test, len(train.classes), 32, 3, facts)


def _imagefolder(root, cutout):
    from torchvision import datasets, transforms

    mean, std = recipes.IMAGENET
    last = [transforms.ToTensor(), transforms.Normalize(mean, std)]
    moved = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), transforms.ColorJitter(0.2, 0.2, 0.2, 0.1), *last]
    plain = [transforms.Resize(256), transforms.CenterCrop(224), *last]
    sets = []
    for part, steps in (("train", moved), ("val", plain)):
        if not (root / part).is_dir():
            raise ValueError(f"data folder {root} has no folder {part}/ with a folder per class in it")
        try:
            sets.append(datasets.ImageFolder(str(root / part), transforms.Compose(steps)))
        except FileNotFoundError as error:
            raise ValueError(f"{root / part}: {str(error).splitlines()[0]}") from None
    if sets[0].classes != sets[1].classes:
        raise ValueError(f"the classes of {root}/train and {root}/val differ")
    facts = dict(data="imagefolder", image_size=224, preprocessing=dict(mean=list(mean), std=list(std), resize=256, crop=224))
    return Data(*sets, len(sets[0].classes), 224, 3, facts)

"""Data sets of picture files, through torchvision: training images moved as the papers' programs move them, test images as they are."""

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision import datasets, transforms

from snnfast.data.augment import Cutout, seeds_kept
from snnfast.system.files import check_regular
from snnfast.system.text import first_line, plain

SIDES = 100  # times that one side of a picture may be the other


def read(name, root, cutout, download, preprocessing, train=True, augment=None):
    """(train or None, test, number of classes, image size, preprocessing). augment: None, or keywords of timm's transform of training images."""
    own, test, classes, size, kept = _read(name, root, cutout, download, preprocessing, train)
    if augment and own is not None:
        own.transform = own.transforms.transform = _of_timm(size, preprocessing, augment)
    return own, test, classes, size, kept


def _of_timm(size, preprocessing, augment):
    from timm.data import create_transform

    given = dict(mean=tuple(preprocessing["mean"]), std=tuple(preprocessing["std"]), interpolation="bicubic") | augment
    try:
        transform = create_transform(size, is_training=True, **given)
        with seeds_kept():
            tried = transform(Image.new("RGB", (size + 9, size + 5)))
    except Exception as error:  # of any kind: timm checks little before it computes
        told = f"{type(error).__name__}: {first_line(error)}"
        raise ValueError(f"augment is not what timm.data.create_transform takes: {told}") from None
    if (
        not isinstance(tried, torch.Tensor)
        or tried.shape != (3, size, size)
        or not tried.is_floating_point()
        or not given.get("normalize", True)
    ):
        raise ValueError(f"augment must give normalised images [3, {size}, {size}] in fp32, and {augment} does not")
    return transform


def _read(name, root, cutout, download, preprocessing, train):
    normalise = [transforms.ToTensor(), transforms.Normalize(preprocessing["mean"], preprocessing["std"])]
    if name == "imagefolder":
        return _imagefolder(root, normalise, preprocessing, train)
    if name == "tiny-imagenet":
        return _tiny_imagenet(root, cutout, normalise, preprocessing, train)
    policy = transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10)
    moved = [
        transforms.RandomCrop(32, padding=4),
        transforms.RandomHorizontalFlip(),
        policy,
        *normalise,
        *([Cutout(cutout)] if cutout else []),
    ]
    kind = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    try:
        own = kind(str(root), train=True, transform=transforms.Compose(moved), download=download) if train or download else None
        test = kind(str(root), train=False, transform=transforms.Compose(normalise))
    except RuntimeError as error:
        raise ValueError(f"{root} does not hold {name} as torchvision lays it out: {error}") from None
    return own if train else None, test, len(test.classes), 32, preprocessing


def opened(path):
    """A picture in RGB; an error with its name where it cannot be read, asks for more than Pillow allows, or is too long to resize."""
    try:
        check_regular(path)
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                _check_sides(file.size)
                return _of_eight_bits(file).convert("RGB")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, Unfit) as error:
        raise ValueError(f"image {plain(path)} {error}") from None
    except Exception as error:  # Pillow raises many kinds: no picture, half of one, a broken one
        raise ValueError(f"image {plain(path)} cannot be read: {first_line(error)}") from None


class Unfit(ValueError):
    """A picture that is whole, and yet none that can be used; the message goes on after its name."""


def _check_sides(size):
    if max(size) > SIDES * min(size):
        raise Unfit(f"is {size[0]} x {size[1]}: its sides differ by more than {SIDES} times, so resized it would be huge")


def _of_eight_bits(image):
    """Grey values of 16 bits as 8: Pillow's conversion makes all above 255 white. Those of 32 bits are as they are up to 255, and of 16 bits beyond,
    as older Pillows open such files. Floating numbers are shares of white up to 1, and values of 8 bits up to 255."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)
    if not np.isfinite(values).all():
        raise Unfit("has values that are not finite")
    if image.mode.startswith("F"):
        if values.min() < 0 or values.max() > 0xFF:
            raise Unfit(f"has grey values from {values.min():g} to {values.max():g}: floating numbers from 0 to 1, or to 255, can be read")
        return Image.fromarray(np.round(values * (0xFF if values.max() <= 1 else 1)).astype(np.uint8))
    if image.mode == "I" and values.max() <= 0xFF:
        return image
    if values.min() < 0 or values.max() > 0xFFFF:
        raise Unfit(f"has grey values from {values.min()} to {values.max()}: up to 65535, of 16 bits, can be read")
    return Image.fromarray(np.round(values / 257).astype(np.uint8))  # 65535 / 255


def _folder(path, steps):
    try:
        found = datasets.ImageFolder(str(path), transforms.Compose(steps), loader=opened)
    except FileNotFoundError as error:
        raise ValueError(f"{path}: {first_line(error)}") from None
    if all(name.isdecimal() for name in found.classes) and found.classes != sorted(found.classes, key=int):
        told = ", ".join(found.classes[:6])
        warnings.warn(
            f"the class folders of {path} are in the order of text, as torchvision has them: {told} ... are 0, 1, 2 ...", stacklevel=4
        )
    return found


def _imagefolder(root, normalise, preprocessing, train):
    resize, crop = preprocessing["resize"], preprocessing["crop"]
    moved = [transforms.RandomResizedCrop(crop), transforms.RandomHorizontalFlip(), transforms.ColorJitter(0.2, 0.2, 0.2, 0.1), *normalise]
    sets = [None]
    for part, steps in (("train", moved), ("val", [transforms.Resize(resize), transforms.CenterCrop(crop), *normalise])):
        if part == "train" and not train:
            continue
        if not (root / part).is_dir():
            raise ValueError(f"data folder {root} has no folder {part}/ with a folder per class in it")
        sets.append(_folder(root / part, steps))
    own, test = sets[-2:]
    if own is not None and own.classes != test.classes:
        raise ValueError(f"the classes of {root}/train and {root}/val differ")
    return own, test, len(test.classes), crop, preprocessing


class Pictures(Dataset):
    """All picture files under a folder, in the order of their names, without labels."""

    def __init__(self, folder, transform):
        self.transform = transform
        self.files = [p for p in sorted(Path(folder).rglob("*")) if p.suffix.lower() in datasets.folder.IMG_EXTENSIONS and p.is_file()]

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        return self.transform(opened(str(self.files[i])))


def _text(path):
    """What a table of text says."""
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: byte {error.start} is {error.object[error.start]:#04x}") from error


class _Annotated(Dataset):
    """Tiny-ImageNet's validation images: all in one folder, their classes in a table of text."""

    def __init__(self, root, class_to_idx, transform):
        table = root / "val" / "val_annotations.txt"
        if not table.is_file():
            raise ValueError(f"data folder {root} has no val/val_annotations.txt, which names the classes of the validation images")
        self.transform, self.samples = transform, []
        for line in _text(table).splitlines():
            name, _, rest = line.partition("\t")
            wnid = rest.partition("\t")[0]
            if not name:
                continue
            if wnid not in class_to_idx:
                raise ValueError(f"{table}: image {name} is of class {wnid!r}, which is none of the {len(class_to_idx)} of this data set")
            if Path(name).name != name:
                raise ValueError(f"{table}: {plain(name, 80)!r} is not the name of a file in {root / 'val' / 'images'}")
            self.samples.append((root / "val" / "images" / name, class_to_idx[wnid]))
        if not self.samples:
            raise ValueError(f"{table} names no images")

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, i):
        path, label = self.samples[i]
        return self.transform(opened(str(path))), label


def _tiny_imagenet(root, cutout, normalise, preprocessing, train):
    root = root / "tiny-imagenet-200" if (root / "tiny-imagenet-200").is_dir() else root
    if train and not (root / "train").is_dir():
        raise ValueError(f"data folder {root} has no folder train/ with a folder per class in it")
    if not (root / "wnids.txt").is_file():
        raise ValueError(f"data folder {root} has no wnids.txt, which names the classes of Tiny-ImageNet")
    classes = {wnid: i for i, wnid in enumerate(sorted(_text(root / "wnids.txt").split()))}
    moved = [transforms.RandomCrop(64, padding=8), transforms.RandomHorizontalFlip(), *normalise, *([Cutout(cutout)] if cutout else [])]
    own = _folder(root / "train", moved) if train else None
    if own is not None and own.class_to_idx != classes:
        raise ValueError(f"the folders in {root / 'train'} are not the classes that {root / 'wnids.txt'} names")
    return own, _Annotated(root, classes, transforms.Compose(normalise)), len(classes), 64, preprocessing

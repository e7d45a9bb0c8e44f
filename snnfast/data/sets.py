"""Data sets by name, with the preprocessing of the papers. `digits` is built in; the others are read through torchvision, from a folder.

digits        scikit-learn's 1,797 handwritten digits, 8 x 8, upsampled
cifar10, cifar100        torchvision's files below `root`
tiny-imagenet            root/{wnids.txt, train/<id>/images/*, val/images/*, val/val_annotations.txt}, as it is handed out
imagefolder   root/train/<class>/*, root/val/<class>/*: ImageNet and sets laid out like it
dvs-gesture, cifar10-dvs, n-mnist    recordings of event cameras, as frames: `snnfast/data/events.py`
"""

import functools
import importlib.util
import sys
from pathlib import Path

import torch

from snnfast import checks
from snnfast.data import events
from snnfast.data.augment import shift
from snnfast.data.handwritten import digits
from snnfast.data.preprocessing import preprocessing_of

EVENTS = ("dvs-gesture", "cifar10-dvs", "n-mnist")
PICTURES = ("cifar10", "cifar100", "tiny-imagenet", "imagefolder")
NAMES = ("digits", *PICTURES, *EVENTS)


class Data:
    """What `load` returns: train and test sets of (image [C, H, W], label), `augment` for a batch (or None), and the facts a checkpoint keeps.

    frames: None, or of event data, whose samples are [frames, C, H, W], how many.
    """

    def __init__(self, train, test, classes, image_size, channels, facts, augment=None, frames=None):
        self.train, self.test, self.classes, self.image_size, self.channels = train, test, classes, image_size, channels
        self.facts, self.augment, self.frames = facts, augment, frames

    def check_fits(self, net, what):
        """Refuses a network that takes frames where the data are images, and the other way round. what: the network, for the message."""
        takes = getattr(net, "frames", False)
        if takes and self.frames is None:
            raise ValueError(f"{what} takes frames of events, and the data are images: {', '.join(EVENTS)} are such data")
        if not takes and self.frames is not None:
            raise ValueError(f"{what} takes images, and {self.facts['data']} has frames of events")


@functools.cache
def declare_operators():
    """torchvision's wheels for a torch with CUDA load beside one without it too, if two operators are declared that its import asks for and a
    compiled library should bring. Nothing here calls them."""
    if torch.version.cuda is None and "torchvision" not in sys.modules and importlib.util.find_spec("torchvision"):
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            if hasattr(torch.ops.torchvision, name):
                continue  # another program had the same thought
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return library  # which lives as long as what it declared is to
    return None


def load(
    name: str,
    root: str | Path | None = None,
    cutout: int = 16,
    download: bool = False,
    preprocessing: str | dict | None = None,
    train: bool = True,
    frames: int | None = None,
    augment: dict | None = None,
) -> Data:
    """A data set by name.

    Args:
        name: "digits", "cifar10", "cifar100", "tiny-imagenet" or "imagefolder"; or event data, "dvs-gesture", "cifar10-dvs" or "n-mnist".
        root: folder of the files; not needed for digits.
        cutout: side of the square that training images lose, 0 for none.
        download: whether torchvision may fetch CIFAR, and tonic event data.
        preprocessing: see `preprocessing_of`; digits have their own.
        train: whether the training set is needed too; without it only the files of the test set have to be there.
        augment: keywords of `timm.data.create_transform` for the training images of picture files, such as
            `dict(auto_augment="rand-m9-n1-mstd0.4-inc1", re_prob=0.25)` (RandAugment, random erasing), in place of the set's own moves.
        frames: of event data, how many frames a recording becomes (default 16, of N-MNIST 10). They are kept below `root`.

    Raises:
        ValueError: an unknown name, a missing folder, no images in it; ModuleNotFoundError: torchvision, timm, scikit-learn or tonic is not
            installed.

    >>> snnfast.data.load("digits").classes
    10
    """
    checks.choice("data", name, NAMES)
    if frames is not None and name not in EVENTS:
        raise ValueError(f"frames are of event data ({', '.join(EVENTS)}), and {name} has images")
    if augment is not None and not isinstance(augment, dict):
        raise TypeError(f"augment must be a dictionary of keywords of timm.data.create_transform, got {type(augment).__name__}")
    if augment and name in ("digits", *EVENTS):
        raise ValueError(f"augment is of picture files, and {name} has none")
    if name == "digits":
        if preprocessing not in (None, "standardised"):
            raise ValueError(f"digits have their own preprocessing, got preprocessing {preprocessing!r}")
        own, test = digits()
        return Data(own, test, 10, 32, 1, dict(data="digits", image_size=32, preprocessing="standardised"), lambda x: shift(x, 3))
    if root is None:
        raise ValueError(f"data {name!r} needs a folder: give --data-dir (root=)")
    root = Path(root).expanduser()
    if not root.is_dir() and not download:
        raise ValueError(f"data folder {root} is not there")
    if name in EVENTS:
        return _events(name, root, preprocessing, download, train, frames)
    if not importlib.util.find_spec("torchvision"):
        raise ModuleNotFoundError("torchvision", name="torchvision")
    declare_operators()
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError) as error:  # one built for another torch
        raise ValueError(f"data {name!r} is read through torchvision, which does not load: {error}") from None
    from snnfast.data import folders

    default = "imagenet" if name == "imagefolder" else name
    if augment and not importlib.util.find_spec("timm"):
        raise ModuleNotFoundError("timm", name="timm")
    kept = preprocessing_of(preprocessing, default)
    own, test, classes, size, kept = folders.read(name, root, cutout, download, kept, train, augment)
    return Data(own, test, classes, size, 3, dict(data=name, image_size=size, preprocessing=kept))


def _events(name, root, preprocessing, download, train, frames):
    if preprocessing not in (None, "counts"):
        raise ValueError(f"frames of events are counts, without a preprocessing; got preprocessing {preprocessing!r}")
    root.mkdir(parents=True, exist_ok=True)
    own, test, what, T = events.read(name, root, frames, download, train)
    facts = dict(data=name, image_size=what.size, preprocessing="counts", frames=T)
    return Data(own, test, len(what.classes), what.size, 2, facts, frames=T)

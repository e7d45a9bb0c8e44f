"""Published training recipes: augmentation, normalisation, schedule and levels of the papers' programs, by name.

thesis   two stages: one threshold per layer (softplus), then one per channel at a tenth of the rate for a third of the epochs; for transformers
         AdamW with a warm-up, then one threshold per attention head and feature (HN-QCFS)
qcfs     Bu et al., ICLR 2022        srp   Hao et al., AAAI 2023        cos   Hao et al., ICLR 2023       one stage each, raw thresholds
"""

import dataclasses

from snnfast import checks, models


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings of a training. epochs, lr: of each stage; cutout: side of the square that is blanked, 0 for none; method: what it is evaluated
    with; warmup: epochs of each stage in which the rate rises to lr, before its cosine."""

    name: str
    activation: str
    levels: int
    theta: float
    epochs: tuple
    lr: tuple
    batch_size: int
    cutout: int
    method: str = "if"
    weight_decay: float = 5e-4
    decay_all: bool = False  # weight decay on thresholds, biases and batch norms too, as these programs have it
    grad: str = "qcfs"
    optimiser: str = "sgd"
    warmup: int = 0
    smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    votes: bool = False
    tet: float | None = None
    mixing: int = 0  # epochs in which images are mixed, 0: all
    augment: dict = dataclasses.field(default_factory=dict)  # of `snnfast.data.load`


_RECIPES = {
    "thesis": Recipe("thesis", "s-qcfs", 4, 4.0, (300, 100), (0.1, 0.01), 200, 16),
    "qcfs": Recipe("qcfs", "qcfs", 4, 8.0, (300,), (0.1,), 200, 16, decay_all=True),
    "srp": Recipe("srp", "qcfs", 4, 8.0, (300,), (0.02,), 50, 8, method="srp", decay_all=True, grad="srp"),
    "cos": Recipe("cos", "qcfs", 4, 8.0, (300,), (0.02,), 50, 16, method="cos", decay_all=True, grad="srp"),
}
NAMES = tuple(_RECIPES)


def recipe(name, arch, data):
    """The recipe `name` for a network and a data set: what the programs change for them is changed here. A network of one's own has that of
    convolutional ones."""
    checks.choice("recipe", name, NAMES)
    found = _RECIPES[name]
    if arch in models.CLASS_OF and models.CLASS_OF[arch].kind == "transformer":
        return _for_transformers(found, data)
    if name in ("thesis", "qcfs") and arch in ("resnet50", "resnet101"):
        found = dataclasses.replace(found, lr=tuple(lr / 10 for lr in found.lr))
    elif name in ("thesis", "qcfs") and data == "cifar100":
        found = dataclasses.replace(found, lr=tuple(lr / 2 for lr in found.lr))
    if data == "cifar100" and name != "thesis":
        found = dataclasses.replace(found, cutout=8)
    if data == "digits":  # 1,437 small images: the published schedules are for 50,000
        shorter = tuple(max(1, e // 10) for e in found.epochs)
        found = dataclasses.replace(found, epochs=shorter, lr=tuple(lr / 2 for lr in found.lr), batch_size=64, cutout=0, theta=2.0)
    return found


def _for_transformers(found, data):
    if found.name != "thesis":
        raise ValueError(f"recipe {found.name!r} is of convolutional networks; transformers have 'thesis'")
    found = dataclasses.replace(found, levels=16, theta=3.0, lr=(1e-4, 1e-3), weight_decay=0.05, optimiser="adamw", warmup=10)
    if data == "digits":  # from the first weights on, which takes larger steps than fine-tuning
        found = dataclasses.replace(found, epochs=(40, 10), lr=(2e-3, 2e-3), warmup=2, batch_size=64, cutout=0, theta=2.0)
    return found


# Accuracies in % that a recipe's own program is reported to give: (recipe, arch, data, levels) -> (T -> accuracy, source).
_QCFS_README = "README of the QCFS authors' program"
PUBLISHED = {
    ("qcfs", "vgg16", "cifar10", 4): ({2: 90.94, 4: 94.01, 8: 95.01}, _QCFS_README),
    ("qcfs", "vgg16", "cifar100", 4): ({2: 64.89, 4: 70.42, 8: 74.63, 64: 77.70}, _QCFS_README),
}

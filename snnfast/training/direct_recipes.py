"""Recipes of the authors of directly trained networks: optimiser, rate, schedule, mixing, loss, and how single images are moved: by timm where the
authors do so, else as the data set is.

What is not here: layer-wise rates, repeated augmentation, distillation.

SEW   Fang et al., NeurIPS 2021       MS             Hu et al., TNNLS 2024               PLIF   Fang et al., ICCV 2021
SDT   Yao et al., NeurIPS 2023, 2024  Spikformer     Zhou et al., ICLR 2023              SpikingResformer   Shi et al., CVPR 2024
                                      Spikingformer  Zhou et al., arXiv 2304.11954
"""

import dataclasses

from snnfast.data import PICTURES
from snnfast.models.direct import BY_NAME
from snnfast.training.recipes import Recipe

NAME = "authors"
_BASE = Recipe(NAME, "spiking", 0, 0.0, (320,), (0.1,), 256, 0, method="direct", weight_decay=0.0)
_ADAM = dataclasses.replace(_BASE, epochs=(300,), lr=(5e-4,), batch_size=64, optimiser="adamw", warmup=20)
_WHOLE = dict(scale=(1.0, 1.0), ratio=(1.0, 1.0))  # no part of an image is cut out
_RAND_CIFAR = dict(_WHOLE, color_jitter=0.0, auto_augment="rand-m9-n1-mstd0.4-inc1")
_RAND_IMAGENET = dict(scale=(1.0, 1.0), auto_augment="rand-m9-mstd0.5-inc1", re_prob=0.25)
_CIFAR = dataclasses.replace(
    _ADAM, batch_size=128, weight_decay=0.06, mixup=0.5, smoothing=0.1, mixing=200, augment=dict(_RAND_CIFAR, re_prob=0.25)
)
_RECIPES = {  # by the start of a network's name, the longest first
    "spikingresformer_cifar": dataclasses.replace(_ADAM, epochs=(600,), weight_decay=0.01, warmup=3, mixup=0.5, smoothing=0.1,
                                                  augment=dict(_RAND_CIFAR, auto_augment="rand-m7-n1-mstd0.5-inc1")),
    "spikingresformer": dataclasses.replace(_ADAM, epochs=(320,), lr=(1e-3,), batch_size=256, weight_decay=0.01, warmup=3, mixup=0.2, cutmix=1.0,
                                            smoothing=0.1, augment=dict(auto_augment="rand-m7-mstd0.5-inc1")),
    "spikingformer_cifar": dataclasses.replace(_ADAM, epochs=(400,), weight_decay=0.06, mixup=0.5, smoothing=0.1, mixing=200,
                                               augment=dict(_RAND_CIFAR, re_prob=0.25)),
    "spikformer_cifar": _CIFAR,
    "spiking_resnet": _BASE,
    "spikingformer": dataclasses.replace(_ADAM, batch_size=256, weight_decay=0.05, mixup=0.8, cutmix=1.0, smoothing=0.1,
                                         augment=_RAND_IMAGENET),
    "spikformer": dataclasses.replace(_ADAM, batch_size=256, weight_decay=0.05, mixup=0.8, cutmix=1.0, smoothing=0.1,
                                      augment=_RAND_IMAGENET),
    "sdt_dvs": dataclasses.replace(_ADAM, epochs=(200,), lr=(3e-4,), weight_decay=0.06, batch_size=16, optimiser="lamb", warmup=10, smoothing=0.1),
    "sdt_cifar": dataclasses.replace(_ADAM, lr=(3e-4,), weight_decay=0.06, mixup=0.5, smoothing=0.1, mixing=200, augment=dict(_RAND_CIFAR)),
    "sdt_v2": dataclasses.replace(_ADAM, epochs=(200,), lr=(2.4e-3,), batch_size=1024, weight_decay=0.05, optimiser="lamb", warmup=10, smoothing=0.1,
                                  augment=dict(auto_augment="rand-m9-mstd0.5-inc1", re_prob=0.25, re_mode="pixel")),
    "sdt": dataclasses.replace(_ADAM, lr=(1e-3,), batch_size=288, weight_decay=0.01, optimiser="lamb", mixup=0.2, cutmix=1.0, smoothing=0.1,
                               augment=dict(auto_augment="rand-m7-mstd0.5-inc1")),
    "plif_": dataclasses.replace(_ADAM, epochs=(1024,), lr=(1e-3,), batch_size=16, warmup=0, votes=True),
    "ms_": dataclasses.replace(_BASE, epochs=(125,), weight_decay=1e-5, smoothing=0.1),
    "sew_cifar10dvs": dataclasses.replace(_BASE, epochs=(64,), lr=(0.01,), batch_size=16),
    "sew_dvs_gesture": dataclasses.replace(_BASE, epochs=(192,), lr=(1e-3,), batch_size=16),  # theirs falls to a tenth after 64 and 128 epochs
    "sew_": _BASE,
    "csnn_": dataclasses.replace(_ADAM, epochs=(300,), lr=(1e-3,), batch_size=128, warmup=0),
}  # fmt: skip


def recipe(arch: str, data: str) -> Recipe:
    """The recipe of a network's authors; one of one's own has that of the spiking transformers for CIFAR."""
    found = next((r for start, r in _RECIPES.items() if arch.startswith(start)), _CIFAR) if arch in BY_NAME else _CIFAR
    if arch == "sdt_dvs" and data == "cifar10-dvs":
        found = dataclasses.replace(found, lr=(7.5e-3,), weight_decay=1e-4, batch_size=32, optimiser="adamw", tet=1e-3)
    if data not in PICTURES:
        found = dataclasses.replace(found, augment={})
    if data == "digits":  # 1,437 small images, from the first weights on: larger steps, fewer epochs, nothing mixed
        lr = 0.05 if found.optimiser == "sgd" else 5e-3
        optimiser = "adamw" if found.optimiser == "lamb" else found.optimiser
        found = dataclasses.replace(found, epochs=(20,), lr=(lr,), batch_size=64, optimiser=optimiser, warmup=1, mixup=0.0, cutmix=0.0)
    return found

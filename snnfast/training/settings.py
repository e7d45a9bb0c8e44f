"""What a training is: its settings, and which of them go together."""

import dataclasses
import inspect

import torch

from snnfast import checks, models
from snnfast.models.activation import FINE, FINE_OF
from snnfast.models.direct import BY_NAME
from snnfast.training.distillation import Teacher
from snnfast.training.losses import Loss
from snnfast.training.optimisers import OPTIMISERS

SPIKING = "spiking"  # in place of an activation
AMP = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a training is; a resumed one must have the same. epochs and lr hold a number per stage; stage two has several thresholds in a layer.

    arch: a name of `snnfast.models`, or "package.module:function", what a network of one's own is made by, which `train` is given.
    activation: of the network, or "spiking" for one that is trained as a spiking one (`snnfast.models.DirectNetwork`), in one stage.
    optimiser: "sgd", with momentum 0.9, "adamw" or "lamb"; with a cosine schedule, after `warmup` epochs in which the rate rises.
    smoothing, mixup, cutmix, tet, votes, chunk, mixing: of the loss, a `snnfast.training.losses.Loss`.
    teacher: what says which network it learns from beside labels, which `train` is given, such as a file's checksum; distil, temperature, hard: its
    share of the loss, and how, see `snnfast.training.distillation`.
    options: further arguments of the network, such as patch_size or dim.  augment: how images are moved, see `snnfast.data.load`.
    frames: of event data, how many; None for images.  weights: what says which the network starts from, such as a file's checksum.
    """

    arch: str
    data: str
    activation: str
    levels: int
    theta: float
    epochs: tuple
    lr: tuple
    batch_size: int
    weight_decay: float = 5e-4
    decay_all: bool = False
    grad: str = "qcfs"
    channel_num: int | None = None
    width: float = 1.0
    stem: str = "cifar"
    dropout: float = 0.0
    amp: str = "fp32"
    seed: int = 0
    recipe: str = ""
    optimiser: str = "sgd"
    warmup: int = 0
    options: dict = dataclasses.field(default_factory=dict)
    weights: str = ""
    smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    tet: float | None = None
    votes: bool = False
    chunk: int | None = None
    frames: int | None = None
    mixing: int = 0
    augment: dict = dataclasses.field(default_factory=dict)
    teacher: str = ""
    distil: float = 0.5
    temperature: float = 1.0
    hard: bool = False

    def is_own(self):
        """Whether the network is none of `snnfast.models`."""
        return ":" in self.arch

    def is_spiking(self):
        """Whether the network is trained as a spiking one, without quantised activations and with one stage."""
        return self.activation == SPIKING

    def loss(self, classes, teacher=None):
        """What is made smaller. teacher: a network, or None."""
        of = None if teacher is None else Teacher(teacher, self.distil, self.temperature, self.hard)
        return Loss(classes, self.smoothing, self.mixup, self.cutmix, self.tet, self.votes, self.chunk, self.mixing, of)

    def check(self):
        if self.is_spiking():
            self._check_spiking()
        elif not self.is_own():
            self._check_arch()
        checks.choice("amp", self.amp, tuple(AMP))
        checks.choice("optimiser", self.optimiser, OPTIMISERS)
        checks.integer("warmup", self.warmup, 0)
        if checks.number("weight_decay", self.weight_decay) < 0:
            raise ValueError(f"weight_decay must be >= 0, got {self.weight_decay}")
        for e in self.epochs:
            checks.integer("epochs", e, 0)
        for lr in self.lr:
            if checks.number("lr", lr) < 0:
                raise ValueError(f"lr must be >= 0, got {lr}")
        checks.seed("seed", self.seed)
        if checks.integer("batch_size", self.batch_size) >= 1 << 31:
            raise ValueError(f"batch_size must be < 2^31, got {self.batch_size}")
        if self.channel_num is not None:
            checks.integer("channel_num", self.channel_num, 0)
        if self.is_spiking():
            return
        if self.chunk is not None:
            raise ValueError(f"chunk is of networks that are trained as spiking ones, whose backward goes over time; got {self.chunk}")
        if len(self.epochs) not in (1, 2) or len(self.lr) != len(self.epochs):
            raise ValueError(f"epochs and lr need a number for each of one or two stages, got epochs {self.epochs} and lr {self.lr}")
        if self.channel_num is not None and len(self.epochs) == 1 and self.activation not in FINE:
            raise ValueError("channel_num is of channel-wise thresholds: it needs a second stage, or a channel-wise activation")
        finer = FINE_OF["convolutional" if self.is_own() else models.CLASS_OF[self.arch].kind]
        if len(self.epochs) == 2 and self.activation not in finer:
            raise ValueError(f"two stages start layer-wise ({', '.join(finer)}), got activation {self.activation!r}")

    def _check_spiking(self):
        if len(self.epochs) != 1 or len(self.lr) != 1 or self.channel_num is not None:
            raise ValueError(
                f"a network that is trained as a spiking one has one stage, and no thresholds per channel; got epochs {self.epochs}"
            )
        if not self.is_own():
            known = inspect.signature(BY_NAME[checks.choice("arch", self.arch, tuple(BY_NAME))]).parameters
            unknown = [name for name in self.options if name not in known]
            if unknown:
                raise ValueError(f"{', '.join(unknown)}: {self.arch} has no such argument")

    def _check_arch(self):
        checks.choice("arch", self.arch, tuple(models.BY_NAME))
        known = inspect.signature(models.BY_NAME[self.arch]).parameters
        if self.dropout and "dropout" not in known:
            raise ValueError(f"dropout is of the VGGs, {self.arch} has none")
        if self.stem != "cifar" and "stem" not in known:
            raise ValueError(f"stem is of the ResNets, {self.arch} has none")
        unknown = [name for name in self.options if name not in known]
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: {self.arch} has no such argument")

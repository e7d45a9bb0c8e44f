"""What a step of a training makes smaller: the cross-entropy of the answer, of smoothed or mixed labels, of every time step (TET), or PLIF's votes.

TET, of outputs o_t, t = 1 ... T, and labels y (Deng et al., "Temporal efficient training of spiking neural network via gradient re-weighting",
ICLR 2022), with a target of 1 for all outputs:

    (1 - lam) mean_t CE(o_t, y) + lam mean_t MSE(o_t, 1)
"""

import dataclasses
from collections.abc import Callable

import torch
from torch.nn import functional as F

from snnfast import checks
from snnfast.models.direct import DirectNetwork
from snnfast.training.distillation import Teacher
from snnfast.training.through_time import backward_through_time, check_layers


@dataclasses.dataclass(frozen=True)
class Loss:
    """The loss, and how images are mixed before it.

    classes: how many.  smoothing: what the other classes share of a label.  tet: TET's lam, or None.
    mixup, cutmix: alpha of the Beta distribution by which pairs of images are mixed, or a part of one is put into another; with both, one of them for
    each batch; 0 for neither.
    votes: outputs are votes summed over the steps, whose share of the steps is compared with 0 and 1.
    chunk: steps that are in memory at a time, or None for all; batch norms then take the statistics of each chunk (`backward_through_time`).
    teacher: what the answers are compared with beside labels, see `distillation.py`.
    """

    classes: int
    smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    tet: float | None = None
    votes: bool = False
    chunk: int | None = None
    mixing: int = 0
    teacher: Teacher | None = None

    def check(self, net: torch.nn.Module) -> None:
        """Refuses what `net` has no outputs for."""
        for name in ("smoothing", "tet"):
            if getattr(self, name) is not None:
                checks.share(name, getattr(self, name))
        for name in ("mixup", "cutmix"):
            if checks.number(name, getattr(self, name)) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        checks.integer("mixing", self.mixing, 0)
        if self.votes and self.smoothing:
            raise ValueError("smoothing is of a cross-entropy, and this network's outputs are votes")
        if getattr(net, "config", {}).get("kd"):
            if self.teacher is None:
                raise ValueError("net has a second last layer (kd=True), which learns from a teacher: give one, or a net without kd")
            if self.tet is not None or self.chunk is not None:
                raise ValueError(
                    f"{'chunk' if self.tet is None else 'tet'} is of networks with one last layer, and this one has two (kd=True)"
                )
        if self.votes and self.teacher is not None:
            raise ValueError("a teacher gives logits, and this network's outputs are votes")
        if self.tet is not None and not callable(getattr(net, "logits", None)):
            raise ValueError("tet is of networks that are trained as spiking ones, which have outputs at every step")
        if self.chunk is not None:
            checks.integer("chunk", self.chunk)
            if not isinstance(net, DirectNetwork):
                raise ValueError(f"chunk is of a snnfast.models.DirectNetwork, whose steps are known; got {type(net).__name__}")
            if net.frames or self.chunk < net.T:
                check_layers(net, "chunk")
        if self.tet is not None and self.votes:
            raise ValueError("tet is of outputs of a last layer, and this network's are votes")

    def mixed(self, x: torch.Tensor, y: torch.Tensor, epoch: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (or frames) and labels, mixed; the labels are then shares of the classes [B, classes]."""
        kinds = [name for name in ("mixup", "cutmix") if getattr(self, name)]
        if not kinds or (self.mixing and epoch >= self.mixing):
            return x, y
        from snnfast.data import declare_operators

        declare_operators()  # before torchvision is imported
        from torchvision.transforms import v2

        kind = kinds[int(torch.randint(len(kinds), ()))]
        make: Callable = v2.MixUp if kind == "mixup" else v2.CutMix
        mix = make(alpha=float(getattr(self, kind)), num_classes=self.classes)
        if x.dim() <= 4:
            return mix(x, y)
        images, shares = mix(x.flatten(1, -3), y)  # of frames [B, T, C, H, W] all alike
        return images.view(x.shape), shares

    def _steps(self, net, x):
        """The outputs of all steps, [T, B, classes]."""
        return net.logits(x) if self.chunk is None else backward_through_time(net, x, chunk=self.chunk, batch_norm="chunk")

    def logits(self, net: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        """What the network answers, [B, classes], in as much memory as the loss takes."""
        if self.chunk is None:
            return net(x)
        steps = self._steps(net, x)
        return steps.sum(0) if net.sums else steps.mean(0)

    def __call__(self, net: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(the loss, logits [B, classes]) of images and labels; y: classes [B], or their shares [B, classes]."""
        loss, logits, of_teacher = self._of_labels(net, x, y)
        if self.teacher is None:
            return loss, logits
        return (1 - self.teacher.share) * loss + self.teacher.share * self.teacher.loss(x, of_teacher), logits

    def _of_labels(self, net, x, y):
        """(the loss of the labels, logits, the logits that a teacher's are compared with)"""
        if self.votes:
            votes, T = self.logits(net, x), checks.steps("T", net.T)
            return F.mse_loss(votes / T, y if y.is_floating_point() else F.one_hot(y, self.classes).to(votes.dtype)), votes, votes
        if self.tet is None:
            found = self.logits(net, x)
            logits, second = found if isinstance(found, tuple) else (found, found)
            return F.cross_entropy(logits, y, label_smoothing=self.smoothing), logits, second
        steps = self._steps(net, x)  # [T, B, classes]
        over = F.cross_entropy(steps.flatten(0, 1), y.repeat(len(steps), *[1] * (y.dim() - 1)), label_smoothing=self.smoothing)
        mean = steps.mean(0)
        return (1 - self.tet) * over + self.tet * F.mse_loss(steps, torch.ones_like(steps)), mean, mean

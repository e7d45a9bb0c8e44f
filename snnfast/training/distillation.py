"""Learning from a teacher too: a network that was trained before, whose answers to the same images are compared with this network's.

    soft   (1 - a) L + a tau^2 KL(softmax(z_t/tau) || softmax(z/tau))     Hinton et al., arXiv 1503.02531, section 2
    hard   (1 - a) L + a CE(z, argmax z_t)                                Touvron et al. (DeiT), ICML 2021, equation 3

with L the loss of the labels, z_t the teacher's logits, and z the network's: the mean over its steps, or those of its second last layer where it has
one (`kd=True`), as DeiT and the spike-driven transformer v2 have it.
"""

import copy
import dataclasses

import torch
from torch.nn import functional as F

from snnfast import checks


@dataclasses.dataclass(frozen=True)
class Teacher:
    """What a network learns from beside labels.

    net: gives logits [B, classes] of images; it is copied, and not trained.  share: a.  temperature: tau, of "soft".  hard: whether only the class
    counts that the teacher answers.
    """

    net: torch.nn.Module
    share: float = 0.5
    temperature: float = 1.0
    hard: bool = False

    def __post_init__(self):
        if not isinstance(self.net, torch.nn.Module):
            raise TypeError(f"teacher must be a torch.nn.Module, got {type(self.net).__name__}")
        object.__setattr__(self, "net", copy.deepcopy(self.net).eval().requires_grad_(False))
        if not 0 <= checks.number("distil", self.share) <= 1:
            raise ValueError(f"distil must be in [0, 1], got {self.share}")
        if not checks.number("temperature", self.temperature) > 0:
            raise ValueError(f"temperature must be > 0, got {self.temperature}")
        checks.yes_or_no("hard", self.hard)
        if self.hard and self.temperature != 1:
            raise ValueError(f"temperature is of soft answers, and hard takes the teacher's class alone; got {self.temperature}")

    @torch.no_grad()
    def check(self, image: torch.Tensor, classes: int) -> None:
        """Refuses a teacher that gives other than logits for an image [1, ...]."""
        z = self.net(image)
        if not isinstance(z, torch.Tensor) or z.shape != (1, classes):
            got = list(z.shape) if isinstance(z, torch.Tensor) else type(z).__name__
            raise ValueError(f"teacher must give logits [1, {classes}] for an image, the classes of the data; it gives {got}")

    def loss(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """How far the logits z [B, classes] of images x are from the teacher's."""
        with torch.no_grad():
            theirs = self.net(x)
        if self.hard:
            return F.cross_entropy(z, theirs.argmax(1))
        tau = self.temperature
        return tau**2 * F.kl_div((z / tau).log_softmax(1), (theirs / tau).log_softmax(1), reduction="batchmean", log_target=True)

"""Random spike masking: y = x [r > masking], r uniform in [0, 1), without rescaling, in training and evaluation (Wang et al., ICCV 2023).

The numbers come from a counter as those of Poisson input do (`random.py`): each is a hash of (seed, layer, step, image, position), the same on every
device and however time and images are cut into chunks and batches.
"""

import contextlib
import threading

import torch

from snnfast import checks
from snnfast.nn.over_time import START, Moment, OverTime, fresh
from snnfast.nn.random import uniform

LAYERS = 1 << 20  # more than a network has: layers of one seed draw other numbers than those of the next


_rows = threading.local()  # .numbers: which image each row is


@contextlib.contextmanager
def rows_are(numbers):
    """Inside, rows of a batch count as the images `numbers` [B], or as that number and the next ones, in this thread."""
    before, _rows.numbers = getattr(_rows, "numbers", None), numbers
    try:
        yield
    finally:
        _rows.numbers = before


class SpikeMask(OverTime):
    """Masks a share of the spikes: x [B, ...] -> the same shape.

    As a layer of a quantised network the rows of x count as images 0, 1, ... (an evaluation says which they are) and the step is 0; in training
    it is drawn by torch, so that every batch sees another mask. In a run over time the run gives both.

    Args:
        masking: share that is masked, in [0, 1).
        seed: of the numbers.
        layer: number of this layer among those with the same seed.

    >>> mask = snnfast.nn.SpikeMask(masking=0.25).eval()
    >>> round(float(mask(torch.ones(4, 1000)).mean()), 2)
    0.75
    """

    changes = "random masks draw other numbers at every step"

    def __init__(self, masking: float, seed: int = 0, layer: int = 0):
        super().__init__()
        self.masking, self.seed, self.layer = (
            checks.share("masking", masking),
            checks.integer("seed", seed, 0),
            checks.integer("layer", layer, 0),
        )

    def kept(self, shape, t, first, device):
        """Where images first, first + 1, ... (or those that a tensor [B] names) keep their spikes at step t: bool [B, ...]."""
        return uniform(shape, self.seed * LAYERS + self.layer, t, first, device) > self.masking

    def over_time(self, inputs, state, moment: Moment = START):
        """There is no state: the numbers follow from the step and the image."""
        (x,) = inputs
        out = (moment.take or fresh(x.device))(x.numel(), x.dtype).view(x.shape)
        nothing = x.new_zeros(())
        for i, step in enumerate(x):
            torch.where(self.kept(step.shape, moment.t + i, moment.first, x.device), step, nothing, out=out[i])
        return out, state

    def differentiable(self, inputs, state, moment: Moment = START):
        (x,) = inputs
        kept = [self.kept(step.shape, moment.t + i, moment.first, x.device) for i, step in enumerate(x)]
        return torch.where(torch.stack(kept), x, 0), state

    def forward(self, x):
        t = int(torch.randint(1 << 62, ())) if self.training else 0
        numbers = getattr(_rows, "numbers", None)
        return torch.where(self.kept(x.shape, t, 0 if numbers is None else numbers, x.device), x, 0)

    def extra_repr(self):
        return f"masking={self.masking}, seed={self.seed}, layer={self.layer}"

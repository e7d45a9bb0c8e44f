"""Calibration images: of every kind of loader, read batch by batch, and what a run says of images that do not fit."""

import weakref

import pytest
import torch
from torch import nn

import snnfast

X = torch.randn(6, 3, 6, 6, generator=torch.Generator().manual_seed(5))


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()


def halves():
    yield from X.split(3)


LOADERS = {
    "tensors": lambda: list(X.split(3)),
    "pairs": lambda: [(x, torch.zeros(3)) for x in X.split(3)],
    "dictionaries": lambda: [{"pixel_values": x, "labels": torch.zeros(3)} for x in X.split(3)],
    "a generator": halves,
    "a DataLoader": lambda: torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, torch.zeros(6)), 3),
    "with an empty batch": lambda: [X[:3], X[:0], X[3:]],
}


@pytest.mark.parametrize("loader", LOADERS)
def test_every_loader_gives_the_same_thresholds(loader):
    snn, other = (snnfast.convert(net(), calibrate=c, percentile=99.0) for c in (X, LOADERS[loader]()))
    assert torch.equal(snn(X, T=16), other(X, T=16))


class Counting(torch.utils.data.IterableDataset):
    """Says how many of its batches are alive at the same time."""

    def __init__(self):
        super().__init__()
        self.alive = self.most = 0

    def __iter__(self):
        for _ in range(20):
            x = X.clone()
            self.alive += 1
            self.most = max(self.most, self.alive)
            weakref.finalize(x, self._gone)
            yield x

    def _gone(self):
        self.alive -= 1


def test_batches_are_not_kept():
    data = Counting()
    snnfast.convert(net(), calibrate=data, percentile=99.0)
    assert data.most <= 4  # the first, that at hand, and what Python has not let go of yet


def test_evaluation_takes_dictionaries():
    snn, labels = snnfast.convert(net(), calibrate=X), torch.tensor([0, 1, 2, 0, 1, 2])
    one = snnfast.evaluate(snn, [(X, labels)], T=8)
    assert snnfast.evaluate(snn, [{"image": X, "label": labels}], T=8).accuracy == one.accuracy
    with pytest.raises(TypeError, match="loader gives dictionaries with picture, label; images are taken from pixel_values"):
        snnfast.evaluate(snn, [{"picture": X, "label": labels}], T=8)
    with pytest.raises(TypeError, match="labels are needed"):
        snnfast.evaluate(snn, [{"image": X}], T=8)


@pytest.mark.parametrize(
    "made, asked",
    [
        (
            lambda: snnfast.convert(nn.Sequential(nn.Conv2d(3, 4, 3), snnfast.nn.QCFS(4, 1.0), nn.Flatten(), nn.Linear(64, 3))),
            r"\[B, 3, H, W\]",
        ),
        (lambda: snnfast.convert(nn.Sequential(nn.Linear(6, 4), snnfast.nn.QCFS(4, 1.0), nn.Linear(4, 3))), r"\[B, \.\.\., 6\]"),
        (lambda: snnfast.convert(net(), calibrate=X), r"\[B, 3, 6, 6\], as net was captured with"),
    ],
)
def test_images_that_do_not_fit_are_told(made, asked):
    snn = made()
    for x in (torch.zeros(3, 6, 7), torch.zeros(2, 2, 3, 6, 7), torch.zeros(2, 5, 6, 7), torch.zeros(0, 3, 6, 6), torch.zeros(())):
        with pytest.raises(ValueError, match=f"x must be a batch of images {asked}, with B >= 1, got shape"):
            snn(x, T=2)


def test_autocast_around_a_run_changes_nothing():
    layers = (
        nn.Conv2d(3, 4, 3),
        snnfast.nn.QCFS(4, 1.0),
        nn.Conv2d(4, 4, 3, groups=4),
        snnfast.nn.QCFS(4, 1.0),
        nn.Flatten(),
        nn.Linear(16, 5),
    )
    snn = snnfast.convert(nn.Sequential(*layers))
    expected = snn.logits(X, 8, chunk=3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        chunks = []
        for y in snn.chunks(X, 8, chunk=3):
            chunks.append(y)
            assert torch.is_autocast_enabled("cpu")  # the caller's own code is in it still
        assert torch.equal(torch.cat(chunks), expected)


def test_outputs_that_are_no_logits_are_told():
    maps = nn.Sequential(nn.Conv2d(3, 4, 3), snnfast.nn.QCFS(4, 1.0), nn.Conv2d(4, 5, 1))
    with pytest.raises(ValueError, match=r"outputs that are logits \[B, classes\]; those of one image have shape \[1, 5, 4, 4\]"):
        snnfast.evaluate(snnfast.convert(maps), [(X, torch.zeros(6, dtype=torch.long))], T=2)

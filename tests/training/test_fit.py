"""What `snnfast.training.fit` takes and refuses."""

import numpy as np
import pytest
import torch
from torch import nn

import snnfast

X, Y = torch.rand(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1, 2])


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), snnfast.nn.QCFS(8, 1.0), nn.Linear(8, 3))


@pytest.mark.parametrize("loader", [
    [(X, Y)], [{"pixel_values": X, "labels": Y}], [{"image": X, "label": Y.int()}],
    torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), 6),
], ids=["pairs", "dictionaries", "short labels", "a loader"])  # fmt: skip
def test_batches_of_any_form(loader):
    assert snnfast.training.fit(net(), loader, epochs=3, lr=0.1) == snnfast.training.fit(net(), [(X, Y)], epochs=3, lr=0.1)


def test_what_other_programs_give():
    """Bytes that `augment` scales, whole numbers of words, numpy's integers, an empty batch among others."""
    bytes_ = (X * 255).byte()
    scaled = snnfast.training.fit(net(), [(bytes_, Y), (bytes_[:0], Y[:0])], epochs=np.int64(2), lr=0.1, augment=lambda x: x.float() / 255)
    assert scaled == snnfast.training.fit(net(), [(bytes_.float() / 255, Y)], epochs=2, lr=0.1)
    words = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(12, 3))
    assert len(snnfast.training.fit(words, [(torch.randint(5, (6, 3)), Y)], epochs=1, lr=torch.tensor(0.1))) == 1


WRONG = {
    "epochs": (dict(epochs="3"), "epochs must be"),
    "lr": (dict(lr="x"), "lr must be"),
    "a rate below 0": (dict(lr=-0.1), "lr must be >= 0, got -0.1"),
    "a label below 0": (dict(loader=[(X, Y - 1)]), "loader gives label -1: labels are 0, 1"),
    "decay": (dict(weight_decay=-1.0), "weight_decay must be >= 0, got -1.0"),
    "warmup": (dict(warmup=1.5), "warmup must be"),
    "optimiser": (dict(optimiser="best"), "optimiser must be one of"),
    "loader": (dict(loader=3), r"loader must be an iterable of \(images, labels\), got int"),
    "empty": (dict(loader=[]), "loader gave no images"),
    "once": (dict(loader=iter([(X, Y)])), "loader gave no images in epoch 1: it must be read once in every epoch"),
    "images alone": (dict(loader=[X]), "labels are needed"),
    "a label too large": (dict(loader=[(X, Y + 1)]), r"loader gives class 3, and net logits of shape \(6, 3\)"),
    "labels of another number": (dict(loader=[(X, Y[:3])]), r"labels must be a tensor \[B\]"),
    "net": (dict(net=3), "net must be a torch.nn.Module, got int"),
    "maps": (dict(net=nn.Sequential(nn.Linear(4, 3), nn.Unflatten(1, (3, 1)))), r"net logits of shape \(6, 3, 1\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(name):
    given, message = WRONG[name]
    with pytest.raises((ValueError, TypeError), match=message) as error:
        snnfast.training.fit(**dict(net=net(), loader=[(X, Y)], epochs=2, lr=0.1) | given)
    assert "\n" not in str(error.value)

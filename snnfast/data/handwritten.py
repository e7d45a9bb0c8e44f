"""scikit-learn's 1,797 handwritten digits, in a fixed split.

scikit-learn itself is not imported, which takes a second, a quarter of a small command: its file is read, and its stratified split is written here.
"""

import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import TensorDataset

from snnfast import checks


def digits(image_size: int = 32, test_size: int = 360, seed: int = 0) -> tuple[TensorDataset, TensorDataset]:
    """8 x 8 digits, upsampled, in a fixed stratified split.

    Args:
        image_size: side of the images, in pixels. test_size: number of images of the test set. seed: of the split.

    Returns:
        (train, test): TensorDatasets of images [1, image_size, image_size], standardised with the training set's mean and deviation, and labels.

    Raises:
        ModuleNotFoundError: scikit-learn, whose images they are, is not installed.

    >>> train, test = snnfast.data.digits(image_size=8)
    >>> len(train), len(test), train[0][0].shape
    (1437, 360, torch.Size([1, 8, 8]))
    """
    images, labels = _read()
    if not 0 < checks.integer("test_size", test_size) < len(labels):
        raise ValueError(f"test_size must be below {len(labels)}, the number of digits, got {test_size}")
    train, test = stratified(labels, test_size, seed)
    x = torch.tensor(images / 16.0, dtype=torch.float32).unsqueeze(1)
    x = torch.nn.functional.interpolate(x, size=(image_size, image_size), mode="bilinear", align_corners=False)
    x = (x - x[train].mean()) / x[train].std()
    y = torch.tensor(labels)
    return TensorDataset(x[train], y[train]), TensorDataset(x[test], y[test])


def _read():
    """(images [1797, 8, 8] of 0 to 16, labels [1797]) from the installed package; by its function where the file is elsewhere."""
    found = importlib.util.find_spec("sklearn")
    if found is None:
        raise ModuleNotFoundError("sklearn", name="sklearn")
    file = Path(next(iter(found.submodule_search_locations or ()), "")) / "datasets/data/digits.csv.gz"
    if not file.is_file():
        from sklearn.datasets import load_digits

        bunch = load_digits()
        return bunch.images, bunch.target
    rows = np.loadtxt(file, delimiter=",")
    return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(np.int64)


def stratified(labels: np.ndarray, test_size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(indices to train on, indices to test on), each class in both by its share. They are those of scikit-learn's `train_test_split` with
    `stratify=labels`, number for number: the same draws of numpy's RandomState, whose numbers never change."""
    rng = np.random.RandomState(seed)
    classes = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    sizes = np.array([len(c) for c in classes])
    to_train = _shares(sizes, len(labels) - test_size, rng)
    to_test = _shares(sizes - to_train, test_size, rng)
    mixed = [members[rng.permutation(len(members))] for members in classes]
    train = np.concatenate([members[:first] for members, first in zip(mixed, to_train)])
    test = np.concatenate([members[first : first + second] for members, first, second in zip(mixed, to_train, to_test)])
    return rng.permutation(train), rng.permutation(test)


def _shares(sizes, many, rng):
    """How many of each class, `many` in all, in proportion to the sizes: rounded down, then one more where most is lost, drawn among equals."""
    exact = sizes / sizes.sum() * many
    taken = np.floor(exact)
    lost = exact - taken
    for value in np.unique(lost)[::-1]:
        missing = int(many - taken.sum())
        if missing <= 0:
            break
        equals = np.flatnonzero(lost == value)
        taken[rng.choice(equals, size=min(len(equals), missing), replace=False)] += 1
    return taken.astype(int)

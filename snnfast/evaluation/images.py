"""Where images come from: a loader's batches as they come, or a data set in batches of the planned size."""

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, default_collate

from snnfast import checks
from snnfast.data.batches import pair
from snnfast.evaluation import fingerprint
from snnfast.system import processes


def is_data_set(loader):
    return isinstance(loader, Dataset) and not isinstance(loader, IterableDataset) and hasattr(loader, "__len__")


class FromData:
    """A data set: any image can be read by its number, so images that are done are never loaded."""

    def __init__(self, data, workers=0):
        self.data, self.workers, self.images = data, checks.workers(workers), len(data)
        if not self.images:
            raise ValueError("loader gave no images")

    def shape(self):
        """The shape of an image."""
        return tuple(pair(default_collate([self.data[0]]))[0].shape[1:])

    def largest(self):
        """How many images there are at most in a batch, and whether they come in batches of that size."""
        return self.images, False

    def identity(self):
        return fingerprint.of_data(self.data)

    def batches(self, done, size, pinned):
        """(numbers, images, labels) of the images of this process that are not in `done`."""
        left = processes.share([i for i in range(self.images) if i not in done])
        loader = DataLoader(Subset(self.data, left), size, num_workers=self.workers, pin_memory=pinned)
        at = 0
        for batch in loader:
            x, y = pair(batch)
            yield left[at : at + len(y)], x, y
            at += len(y)


class FromLoader:
    """An iterable of batches, each image numbered as it comes. Batches larger than the planned size are cut."""

    def __init__(self, loader):
        self.loader, self._first = loader, None
        if not hasattr(loader, "__iter__"):
            raise TypeError(f"loader must be a data set or an iterable of (images, labels), got {type(loader).__name__}")

    def shape(self):
        """The shape of an image, from the first batch, which is kept for `batches`."""
        self._iterator = iter(self.loader)
        self._first = next(self._iterator, None)
        if self._first is None:
            raise ValueError("loader gave no images")
        return tuple(pair(self._first)[0].shape[1:])

    def largest(self):
        return len(pair(self._first)[1]), True

    def identity(self):
        return fingerprint.of_loader(self.loader, pair(self._first))

    def _all(self):
        if self._first is None:
            yield from self.loader
            return
        first, self._first = self._first, None
        yield first
        yield from self._iterator

    def batches(self, done, size, pinned):
        at = 0
        for i, batch in enumerate(self._all()):
            x, y = pair(batch)
            numbers, at = range(at, at + len(y)), at + len(y)
            if i % processes.world() != processes.rank():
                continue
            keep = [j for j, number in enumerate(numbers) if number not in done]
            for start in range(0, len(keep), size):
                part = keep[start : start + size]
                yield [numbers[j] for j in part], x[part], y[part]
        if not at:
            raise ValueError("loader gave no images")


def source_of(loader, workers=0):
    return FromData(loader, workers) if is_data_set(loader) else FromLoader(loader)


def prefetched(batches, device):
    """(numbers, images, labels) on the device; on a GPU the next batch is copied there while this one is computed."""
    if device.type != "cuda":
        yield from ((numbers, x.to(device), y.to(device)) for numbers, x, y in batches)
        return
    stream, waiting = torch.cuda.Stream(device), None
    for numbers, x, y in batches:
        with torch.cuda.stream(stream):
            sent = numbers, x.to(device, non_blocking=True), y.to(device, non_blocking=True)
        if waiting is not None:
            yield _arrived(waiting, stream, device)
        waiting = sent
    if waiting is not None:
        yield _arrived(waiting, stream, device)


def _arrived(sent, stream, device):
    current = torch.cuda.current_stream(device)
    current.wait_stream(stream)
    for t in sent[1:]:
        t.record_stream(current)
    return sent

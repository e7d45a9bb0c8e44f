"""What an evaluation keeps of each image, and what a report makes of it.

A record is a dictionary of arrays with a row per image; columns [n, K] have an entry per asked step:

    index, label, ann [n]         number in the data set; its class; the class that the quantised network gives (-1 without one)
    predicted, top5 [n, K]        the class read at t; whether the label is among the five largest
    margin, confidence [n, K]     largest logit minus the second; largest softmax probability, both of the mean output
    loss [n, K]                   cross-entropy of the mean output
    distance [n, K]               root mean square difference of mean output and quantised network's output (nan without one)

Sums are made of all images at once with math.fsum or in whole numbers, so they depend neither on batches nor on which process computed an image.
"""

import io
import math
import zipfile
import zlib

import numpy as np
import torch
from torch.nn import functional as F


class Reading:
    """The record of one batch, filled while it runs."""

    def __init__(self, snn, index, labels, at, ann=None, start_stop=False):
        self.snn, self.at, self.labels, self.ann, self.index = snn, list(at), labels, ann, index
        cpu = labels.cpu().numpy().astype(np.int64)
        self.record = dict(index=np.asarray(index, np.int64), label=cpu)
        self.record["ann"] = np.full(len(cpu), -1, np.int64) if ann is None else ann.argmax(1).cpu().numpy()
        self.columns = {key: [] for key in ("predicted", "top5", "margin", "confidence", "loss", "distance")}
        self.before = [] if start_stop else None
        self.windows = np.zeros((len(self.at), len(self.at)), np.int64)  # [i, j]: right outputs, read from step at[i - 1] + 1 to at[j]

    def at_step(self, t, total, dtype):
        """total: sum of the first t outputs, fp64 [B, classes]."""
        if not (fine := torch.isfinite(total).all(1)).all():
            image = self.index[int((~fine).nonzero()[0])]
            raise ValueError(f"the outputs of image {image} are not finite after {t} steps: is it, or are the weights?")
        mean = self.snn.clock.answer(total, t).to(dtype)
        top = mean.topk(min(2, mean.size(1)), 1).values
        margin = top[:, 0] - top[:, 1] if mean.size(1) > 1 else torch.full_like(top[:, 0], math.inf)
        own, place = mean.gather(1, self.labels[:, None]), torch.arange(mean.size(1), device=mean.device)
        before = (mean > own) | ((mean == own) & (place < self.labels[:, None]))  # of equal outputs the first counts, as argmax has it
        columns = dict(
            predicted=mean.argmax(1).to(torch.int32), top5=before.sum(1) < 5, margin=margin.float(),
            confidence=mean.double().softmax(1).amax(1).float(), loss=F.cross_entropy(mean.double(), self.labels, reduction="none"),
            distance=self._distance(mean),
        )  # fmt: skip
        for key, value in columns.items():
            self.columns[key].append(value.cpu().numpy())
        if self.before is not None:
            j, starts = len(self.before), torch.stack([torch.zeros_like(total), *self.before])
            self.windows[: j + 1, j] = (total - starts).argmax(2).eq(self.labels).sum(1).cpu().numpy()
            self.before.append(total.clone())

    def _distance(self, mean):
        if self.ann is None:
            return torch.full((len(mean),), math.nan)
        return (self.snn.read(mean).double() - self.ann.double()).square().mean(1).sqrt().float()

    def done(self):
        """(record, counts of right delayed outputs or None)."""
        record = self.record | {key: np.stack(values, 1) for key, values in self.columns.items()}
        return record, self.windows.tolist() if self.before is not None else None


def to_bytes(record):
    file = io.BytesIO()
    np.savez_compressed(file, **record)
    return file.getvalue()


def from_bytes(data):
    """The record that `to_bytes` wrote. ValueError if the bytes are no record, or declare sizes that are wrong; such sizes are never allocated."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            sizes = {entry.filename: _declared(archive, entry) for entry in archive.infolist()}
        if any(said != held for said, held in sizes.values()) or sum(said for said, _ in sizes.values()) > MOST_BYTES:
            raise ValueError("its arrays are not of the sizes that they say")
        with np.load(io.BytesIO(data)) as file:
            found = {key: file[key] for key in file.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, KeyError, TypeError, OverflowError, RuntimeError) as error:
        raise ValueError(f"a batch in it does not read ({type(error).__name__})") from error
    rows = {len(array) if array.ndim else None for array in found.values()}
    if "index" not in found or found["index"].ndim != 1 or len(rows) != 1:
        raise ValueError("a batch in it has no row for each image")
    return found


def check_columns(record):
    """Refuses a record that lacks a column that `Reading` writes, or has another kind of it: a number for each image, or for each image and step."""
    for key, kinds in ONE.items():
        if key not in record or record[key].ndim != 1 or record[key].dtype.kind not in kinds:
            raise ValueError(f"a batch in it has no number {key} for each image")
    shapes = {record[key].shape if key in record and record[key].dtype.kind in kinds else None for key, kinds in MANY.items()}
    if len(shapes) != 1 or None in shapes or any(len(shape) != 2 for shape in shapes):
        raise ValueError(f"a batch in it has no numbers {', '.join(MANY)} for each image and step")


ONE = dict(index="iu", label="i", ann="i")
MANY = dict(predicted="i", top5="b", margin="f", confidence="f", loss="f", distance="f")


MOST_BYTES = 4 << 30  # of the arrays of one batch


def _declared(archive, entry):
    """(bytes that the header of an array declares, bytes behind the header)."""
    with archive.open(entry) as file:
        if np.lib.format.read_magic(file) != (1, 0):  # version 1.0, whose header has at most 64 KiB
            raise ValueError("a batch in it has arrays in a form that was not written here")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype.hasobject:
            raise ValueError("a batch in it holds Python objects")
        return math.prod(shape) * dtype.itemsize, entry.file_size - file.tell()


def joined(records):
    """One record in the order of the images, each image once."""
    if not records:
        raise ValueError("loader gave no images")
    found = {key: np.concatenate([r[key] for r in records]) for key in records[0]}
    _, first = np.unique(found["index"], return_index=True)
    return {key: value[first] for key, value in found.items()}


def summary(record, at):
    """Columns of a report, one entry per asked step: accuracy and top5 in %, mean loss, mean distance, standard error of the accuracy."""
    n, label = len(record["index"]), record["label"][:, None]
    right = (record["predicted"] == label).sum(0)
    shares = right / n
    has_ann = (record["ann"] >= 0).all()
    return dict(
        accuracy=[100 * int(r) / n for r in right], top5=[100 * int(r) / n for r in record["top5"].sum(0)],
        loss=[math.fsum(column) / n for column in record["loss"].T],
        distance=[math.fsum(column) / n for column in record["distance"].T] if has_ann else [],
        agreement=[100 * int(r) / n for r in (record["predicted"] == record["ann"][:, None]).sum(0)] if has_ann else [],
        error=[100 * math.sqrt(p * (1 - p) / n) for p in shares.tolist()],
    )  # fmt: skip


def ann_accuracy(record):
    """In %, or None."""
    return 100 * int((record["ann"] == record["label"]).sum()) / len(record["label"]) if (record["ann"] >= 0).all() else None


def start_stop(counts, images, at):
    """Accuracy in % of delayed read-outs: rows are first steps (1 and each t + 1), columns last ones; None where there is nothing to read.

    counts: [i, j] right outputs of all images, read from the i-th first step to at[j].
    """
    starts = [1, *(t + 1 for t in at[:-1])]
    table = [[100 * int(counts[i][j]) / images if starts[i] <= at[j] else None for j in range(len(at))] for i in range(len(starts))]
    return dict(first_step=starts, last_step=list(at), accuracy=table)


def early_exit(record, at, thresholds=(0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1.0)):
    """Each image stops at the first asked step with confidence >= threshold, else at the last: mean steps and accuracy in %, per threshold."""
    n, steps, found = len(record["index"]), np.asarray(at), []
    for threshold in thresholds:
        sure = record["confidence"] >= threshold
        sure[:, -1] = True
        first = sure.argmax(1)
        right = int((record["predicted"][np.arange(n), first] == record["label"]).sum())
        found.append(dict(threshold=threshold, mean_steps=int(steps[first].sum()) / n, accuracy=100 * right / n))
    return found

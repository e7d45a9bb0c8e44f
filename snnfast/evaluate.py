"""The accuracy of a spiking network at every asked t, from one run over the data."""

import time

import torch

from snnfast.ops import checks
from snnfast.report import Report
from snnfast.spiking import check_at, powers_of_two


@torch.no_grad()
def accuracy(net, loader, device="cpu"):
    """Share of images that an ordinary network classifies right, in %."""
    correct = seen = 0
    for x, y in loader:
        correct += int((net(x.to(device)).argmax(1) == y.to(device)).sum())
        seen += len(y)
    if not seen:
        raise ValueError("loader gave no images")
    return 100 * correct / seen


def evaluate(snn, loader, T=1024, at=None, *, ann=None, chunk=None, device="cpu", on_chunk=None):
    """Runs T steps per image once and reads the mean output at each t of `at`.

    Args:
        snn: what `snnfast.convert` returned.
        loader: iterable of batches (images [B, ...], labels [B]).
        T: number of steps, >= 1.
        at: increasing steps in 1..T; default 1, 2, 4, ... and T.
        ann: the network that `snn` was converted from; its accuracy then stands in the report.
        chunk: steps per chunk of time (default: chosen by the network). Memory depends on it, not on T.
        device: where to run.
        on_chunk: called with the number of image-steps done since the last call.

    Returns:
        `snnfast.Report`.
    """
    checks.integer("T", T)
    at = powers_of_two(T) if at is None else check_at(at, T)
    snn, right, seen, began = snn.to(device), {t: 0 for t in at}, 0, time.perf_counter()
    for x, y in loader:
        x, y = x.to(device), y.to(device)
        done = 0
        for t, mean in snn.means(x, T, at, chunk):
            right[t] += int((mean.argmax(1) == y).sum())
            if on_chunk:
                on_chunk(len(y) * (t - done))
            done = t
        seen += len(y)
    if not seen:
        raise ValueError("loader gave no images")
    seconds = time.perf_counter() - began
    return Report(
        at=at,
        accuracy=[100 * right[t] / seen for t in at],
        images=seen,
        seconds=seconds,
        ann=None if ann is None else accuracy(ann.to(device).eval(), loader, device),
        device=str(device),
    )

"""The accuracy of a spiking network at every asked t, from one run over the data."""

import contextlib
import time

import torch

from snnfast.ops import checks
from snnfast.report import Report
from snnfast.spiking import SpikingNetwork, check_at, powers_of_two
from snnfast.statistics import Statistics


def evaluate(snn, loader, T=1024, at=None, *, ann=None, chunk=None, device="cpu", on_chunk=None, statistics=False):
    """Runs T steps per image once and reads the mean output at each t of `at`.

    Args:
        snn: what `snnfast.convert` returned.
        loader: iterable of batches (images [B, ...], labels [B]).
        T: number of steps, >= 1.
        at: increasing steps in 1..T; default 1, 2, 4, ... and T.
        ann: the network that `snn` was converted from; its accuracy then stands in the report. It is left on `device`, in the mode it was in.
        chunk: steps per chunk of time (default: chosen by the network). Memory depends on it, not on T.
        device: where to run.
        statistics: True, or a `snnfast.statistics.Statistics` of `snn`: unevenness, firing rates, SOPs and energy per layer, in the same pass;
            `report.layers` and `report.totals` hold what it found.
        on_chunk: called with the number of image-steps done since the last call.

    Returns:
        `snnfast.Report`.
    """
    checks.integer("T", T)
    if not isinstance(snn, SpikingNetwork):
        raise TypeError(f"snn must be what snnfast.convert returned, got {type(snn).__name__}")
    snn.method.check_T(T)
    at = powers_of_two(T) if at is None else check_at(at, T)
    right, ann_right, seen, began = dict.fromkeys(at, 0), 0, 0, time.perf_counter()
    snn = snn.to(device)
    if statistics is True:
        statistics = Statistics(snn)
    with torch.no_grad(), _in_eval_mode(ann, device):
        for batch in loader:
            x, y = (t.to(device) for t in _pair(batch))
            done = 0
            for t, mean in snn.means(x, T, at, chunk, seen, statistics or None):
                right[t] += int((mean.argmax(1) == y).sum())
                if on_chunk:
                    on_chunk(len(y) * (t - done))
                done = t
            if ann is not None:
                ann_right += int((ann(x).argmax(1) == y).sum())
            seen += len(y)
    if not seen:
        raise ValueError("loader gave no images")
    return Report(
        at=at,
        accuracy=[100 * right[t] / seen for t in at],
        images=seen,
        seconds=time.perf_counter() - began,
        ann=None if ann is None else 100 * ann_right / seen,
        device=str(device),
        method=snn.method.facts(),
        layers=statistics.rows() if statistics else [],
        totals=statistics.totals() if statistics else {},
    )


def _pair(batch):
    """(images, labels) of one batch of a loader."""
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        told = f"{len(batch)} parts" if isinstance(batch, (tuple, list)) else type(batch).__name__
        raise TypeError(f"loader must give (images, labels), got {told}: an accuracy needs labels")
    x, y = batch
    checks.tensor("images", x)
    if not isinstance(y, torch.Tensor) or y.shape != x.shape[:1]:
        raise ValueError(
            f"labels must be a tensor [B] beside images [B, ...] of shape {tuple(x.shape)}, got {tuple(getattr(y, 'shape', ()))}"
        )
    return x, y


@contextlib.contextmanager
def _in_eval_mode(net, device):
    """`net` in eval mode on `device`, and back in its own mode afterwards."""
    if net is None:
        yield
        return
    training = net.training
    net.to(device).eval()
    try:
        yield
    finally:
        net.train(training)

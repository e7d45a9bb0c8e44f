"""The choice of a method by images: conversions are tried from the simplest spike on, and measured on images that set no threshold.

Half of the images set thresholds. The other half (at most `most`) shows how many images keep the network's answer after T steps, and at what cost.
For the conversion that is taken, all images then set the thresholds.
"""

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch

from snnfast import checks
from snnfast.conversion import choice
from snnfast.conversion.calibration import Images
from snnfast.conversion.choice import Choice, Trial
from snnfast.conversion.convert import convert
from snnfast.conversion.relu_thresholds import Percentile, relu_nodes
from snnfast.evaluation.diagnosis import diagnose
from snnfast.evaluation.evaluate import evaluate
from snnfast.graph.prepare import captured_once, prepared
from snnfast.runtime.network import SpikingNetwork

# From the simplest spike to the one with most bits.
CANDIDATES: tuple[tuple[str, dict], ...] = (
    ("if", {}),
    ("stbif", {}),
    ("power", {"m": 32}),
    ("quanta", {"m": 8}),
    ("quanta", {"m": 32}),
    ("quanta", {"m": 127}),
)
# Candidates for networks whose functions need mode "differential".
DIFFERENTIAL: tuple[tuple[str, dict], ...] = (("stbif", {}), ("quanta", {"m": 8}), ("quanta", {"m": 32}))
# Thresholds to try for the best candidate, if it is not good enough and the caller asked for no thresholds.
THRESHOLDS = ({"per_channel": True}, {"percentile": 100.0}, {"percentile": 99.0})
MOST_KEPT = 512  # images


def choose(
    net: torch.nn.Module,
    calibrate: torch.Tensor | Iterable | Percentile,
    T: int,
    *,
    energy: float | None = None,
    target: float = 0.99,
    most: int = 64,
    on_trial: Callable[[Trial], None] | None = None,
    **options: Any,
) -> SpikingNetwork:
    """A network converted by the simplest method that keeps the network's answers at T steps.

    Args:
        net, calibrate, options: as in `snnfast.convert`; at least 4 images; trials use the first 512.
        T: steps that the network will run.
        energy: the largest share of the energy of `net` that the network may take (E_SNN/E_ANN, by the convention of the reports), > 0; None: any.
        target: share of the images with the network's answer that ends the search, in (0, 1].
        most: the most images on which a trial is measured; there are never more than 256.
        on_trial: called with every `Trial` as soon as it is measured.

    Returns:
        The network, with `choice`: what was tried, what was taken, why, and the agreement to expect.

    Raises:
        ValueError: no trial stays within `energy`, or none converts; the message says what the nearest one is.

    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> snn = snnfast.convert(net, calibrate=torch.rand(40, 4), T=2)
    >>> snn.choice.taken.images
    20
    """
    checks.steps("T", T)
    if energy is not None and checks.number("energy", energy) <= 0:
        raise ValueError(f"energy must be > 0, a share of the network's energy, got {energy}")
    if not 0 < checks.number("target", target) <= 1:
        raise ValueError(f"target must be in (0, 1], got {target}")
    checks.integer("most", most)
    given = calibrate if isinstance(calibrate, Percentile) else None
    choice.refuse_fields(options)
    kept = Images(calibrate.images if isinstance(calibrate, Percentile) else calibrate)  # keeps all batches of a generator
    setting, measured = _halves(kept, most)
    thresholds = lambda images: Percentile(images, given.q, given.per, given.levels) if given else images  # noqa: E731
    trials: list[Trial] = []

    def tried(method, own):
        trial = Trial(method, own)
        try:
            snn = _quietly(net, method, calibrate=thresholds(setting), **options, **own)
            _measure(trial, snn, net, measured, T)
        except ValueError as error:  # a method that does not fit this network or T
            trial.refused = str(error)
        trials.append(trial)
        if on_trial:
            on_trial(trial)
        return trial

    with captured_once():
        differential = _is_differential(net, thresholds(setting), options, measured[:1])
        options |= {"mode": "differential"} if differential else {}
        taken = _search(tried, DIFFERENTIAL if differential else CANDIDATES, energy, target)
        free = given is None and not {"percentile", "per_channel"} & set(options)
        if taken and taken.share < target and free and relu_nodes(prepared(net, [setting[:1]], options.get("read"))):
            again = [(taken.method, taken.options | own) for own in THRESHOLDS]
            taken = _best([t for t in (taken, _search(tried, again, energy, target)) if t], energy)
    if taken is None:
        raise ValueError(_none(trials, energy))
    snn = convert(net, taken.method, calibrate=thresholds(kept.data), **options, **taken.options)
    worst, *_ = diagnose(snn, measured, T).advice()
    snn.choice = Choice(trials, taken, T, energy, target, worst)
    return snn


def _halves(images, most):
    """(images that set thresholds, images to measure on), every second each."""
    kept: list[torch.Tensor] = []
    for batch in images:
        kept.append(batch[: MOST_KEPT - sum(map(len, kept))])
        if sum(map(len, kept)) == MOST_KEPT:
            break
    x = torch.cat(kept)
    if len(x) < 4:
        raise ValueError(f"calibrate must be at least 4 images, two to set thresholds and two to measure on; got {len(x)}")
    setting, measured = x[::2], x[1::2]
    step = max(1, len(measured) // most)
    return setting, measured[::step][:most]


def _quietly(net, method=None, **options):
    """`convert` without its warnings; the conversion that is taken gives them once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return convert(net, method, **options)


def _is_differential(net, calibrate, options, x):
    """Whether `convert` takes mode "differential", by itself or because the caller asked. The outputs for the image x must be classes."""
    snn = _quietly(net, calibrate=calibrate, **options)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        y = snn(x, T=1)
    if not isinstance(y, torch.Tensor) or y.dim() != 2 or y.size(1) < 2:
        told = f"shape {list(y.shape)} of one image" if isinstance(y, torch.Tensor) else "several outputs, of which read= takes one"
        raise ValueError(f"a method is chosen by the agreement of classes, so net must give [B, classes], two at least; got {told}")
    return snn.clock.differential


def _measure(trial, snn, net, images, T):
    """Agreement and energy of a converted network."""
    labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    batches = [(images[i : i + 16], labels[i : i + 16]) for i in range(0, len(images), 16)]
    report = evaluate(snn, batches, T, [T], ann=net, device=images.device, statistics=True)
    trial.images, trial.agreement = len(images), round(report.agreement[-1] * len(images) / 100)
    trial.energy_ratio, trial.answers = report.totals["energy_ratio"], len(set(report.record["ann"].tolist()))


def _search(tried, candidates, energy, target):
    """The first trial that reaches the target within the energy, else the best one within it, else None."""
    found = []
    for method, own in candidates:
        trial = tried(method, own)
        if trial.refused is None:
            found.append(trial)
            if trial.share >= target and _fits(trial, energy):
                return trial
    return _best(found, energy)


def _fits(trial, energy):
    return energy is None or (trial.energy_ratio is not None and trial.energy_ratio <= energy)


def _best(trials, energy):
    """The trial with most agreement; of several such trials, the one with least energy."""
    return max((t for t in trials if _fits(t, energy)), key=lambda t: (t.share, -(t.energy_ratio or 0)), default=None)


def _none(trials, energy):
    """Why nothing was taken."""
    done = [t for t in trials if t.refused is None]
    if not done:
        return f"no method converts net: {trials[0].refused}"
    least = min(done, key=lambda t: (t.energy_ratio is None, t.energy_ratio))
    ratio = "no measure of it" if least.energy_ratio is None else f"{least.energy_ratio:.3f}"
    return f"no method stays within energy={energy:g} of the network's: the least is {least.name} with {ratio}"


choice.chooser[:] = [choose]

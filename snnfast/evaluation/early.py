"""Answers before the last step: an image leaves as soon as its answer is sure, and the others go on in a smaller batch.

An answer is sure if its softmax probability, the largest of the mean output (in mode "differential" of the sum), is at or above a threshold. A few
steps are checked. The threshold comes from separate images: it is the lowest with which no more than a given share of these images leaves with
another answer than the one after T steps.
"""

import collections
import dataclasses
import time
import warnings
from collections.abc import Iterable

import torch

from snnfast import checks
from snnfast.conversion.calibration import Images
from snnfast.data.batches import pair
from snnfast.nn.masking import rows_are
from snnfast.runtime.inputs import weight_like
from snnfast.runtime.leaving import without
from snnfast.runtime.network import SpikingNetwork, check_at, not_finite_note, powers_of_two
from snnfast.runtime.run import Run
from snnfast.system import heap


@dataclasses.dataclass(frozen=True)
class ExitRule:
    """When images leave.

    at: steps at which images may leave, the last is T. threshold: of the probability. images: how many images set the threshold. error: the share of
    these images that left with another answer than the one at T. mean_steps: of these images.
    """

    at: tuple[int, ...]
    threshold: float
    error: float
    mean_steps: float
    images: int

    def __post_init__(self):
        if not self.at:
            raise ValueError("at must be increasing steps, the last of which is T; got none")
        check_at(list(self.at), self.at[-1])
        if self.threshold != self.threshold:
            raise ValueError("threshold must be a number, got nan")

    @property
    def T(self) -> int:
        return self.at[-1]


@dataclasses.dataclass(frozen=True)
class EarlyReport:
    """What `evaluate_early` found: accuracy in %, mean steps of an image, images that left at each step of the rule, images per second."""

    rule: ExitRule
    images: int
    accuracy: float
    mean_steps: float
    left_at: dict[int, int]
    seconds: float

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds

    def __str__(self) -> str:
        return (
            f"{self.accuracy:.2f} % of {self.images} images after {self.mean_steps:.1f} of {self.rule.T} steps, "
            f"{self.images_per_second:.1f} images/s; "
            f"{100 * self.rule.error:.2f} % of {self.rule.images} other images left with another answer than at T"
        )


def _sure(snn, total, t, dtype):
    """(output, answer, its probability) of each image, from the sum of the first t outputs."""
    mean = snn.clock.answer(total, t).to(dtype)
    if snn.outputs is not None or mean.dim() != 2:
        raise ValueError("snn must have one output of classes, [B, classes], for images to leave by their probability")
    top = mean.double().softmax(1).max(1)
    return snn.read(mean), top.indices, top.values


@torch.no_grad()
def calibrate_exit(
    snn: SpikingNetwork, images: torch.Tensor | Iterable, T: int, error: float = 0.01, at: list[int] | None = None
) -> ExitRule:
    """The rule by which images leave early, from images that are not evaluated.

    Args:
        snn: what `snnfast.convert` returned, with outputs that are classes.
        images: a tensor [B, ...], or an iterable of batches, as `calibrate=` of `snnfast.convert` takes them. Labels are not needed.
        T: the last step.
        error: share of the images that may leave with another answer than the one at T, in [0, 1).
        at: increasing steps at which images may leave; default 1, 2, 4, ..., and T always.

    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> snn = snnfast.convert(net, calibrate=inputs)
    >>> snnfast.calibrate_exit(snn, torch.randn(100, 4), T=16).at
    (1, 2, 4, 8, 16)
    """
    if not isinstance(snn, SpikingNetwork):
        raise TypeError(f"snn must be what snnfast.convert returned, got {type(snn).__name__}")
    checks.steps("T", T)
    if not 0 <= checks.number("error", error) < 1:
        raise ValueError(f"error must be in [0, 1), got {error}")
    steps = sorted({t for t in (powers_of_two(T) if at is None else check_at(at, T)) if t >= snn.method.least_T} | {T})
    answers, sure, seen = [], [], 0
    for x in Images(images, "images"):
        x = x.to(weight_like(snn.gm, x).device)
        with rows_are(torch.arange(seen, seen + len(x))):
            found = [_sure(snn, total, t, dtype)[1:] for t, total, dtype in snn.sums(x, T, steps, first=seen)]
        answers.append(torch.stack([a for a, _ in found], 1))
        sure.append(torch.stack([p for _, p in found], 1))
        seen += len(x)
    return _lowest(torch.cat(answers).cpu(), torch.cat(sure).cpu(), tuple(steps), error)


def _lowest(answers, sure, at, error):
    """The rule with the lowest probability that occurs such that this threshold and all higher ones keep to the error. answers, sure: [n, steps]."""
    n, last = sure.size(0), len(at) - 1
    values, places = sure[:, :-1].flatten().sort(descending=True, stable=True)
    values, places = values.tolist(), places.tolist()
    other = (answers != answers[:, -1:]).tolist()  # whether leaving there is an error
    first, wrong, steps = [last] * n, 0, at[-1] * n  # above all thresholds every image stays
    best, i = (float("inf"), 0, steps), 0
    while i < len(values):  # one threshold after the other, from above
        value = values[i]
        while i < len(values) and values[i] == value:
            image, k = divmod(places[i], last)
            if k < first[image]:
                wrong += other[image][k] - other[image][first[image]]
                steps += at[k] - at[first[image]]
                first[image] = k
            i += 1
        if wrong > error * n:
            break
        best = value, wrong, steps
    threshold, wrong, steps = best
    return ExitRule(at, threshold, wrong / n, steps / n, n)


@torch.no_grad()
def answer_early(snn: SpikingNetwork, x: torch.Tensor, rule: ExitRule, first: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """The network's answers when images leave by a rule.

    Args:
        snn: the network of the rule.
        x: images [B, ...].
        rule: of `calibrate_exit`.
        first: number of the first of them in its data set, for Poisson input and masks.

    Returns:
        (outputs [B, classes] of each image at the step at which it left, these steps [B]).

    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> snn = snnfast.convert(net, calibrate=inputs)
    >>> y, steps = snnfast.answer_early(snn, inputs, snnfast.calibrate_exit(snn, torch.randn(100, 4), T=16))
    >>> y.shape
    torch.Size([3, 2])
    """
    if not isinstance(rule, ExitRule):
        raise TypeError(f"rule must be what snnfast.calibrate_exit returned, got {type(rule).__name__}")
    snn.check(x, rule.T)
    snn.check_first(x, first)
    snn.method.check_T(rule.at[0])  # no image may leave before the method's least number of steps
    with torch.autocast(x.device.type, enabled=False):
        return _leaving(snn, x, rule, Run(snn.gm, x, snn.method, snn.clock, first))


def _leaving(snn, x, rule, run):
    snn.method.before(run, run.default_chunk())
    there, total, done = torch.arange(len(x), device=x.device), None, 0
    outputs, steps, bad = None, torch.full((len(x),), rule.T, device=x.device), collections.Counter()
    for t in rule.at:
        while done < t:
            chunk = run.execution.chunk(run, snn.steps_of_chunk(done, t, run.default_chunk()))
            done += len(chunk)
            for step in chunk:
                total = step.to(torch.float64, copy=True) if total is None else total.add_(step)
            if x.device.type == "cpu":
                heap.release()
        output, _, probability = _sure(snn, total, t, chunk.dtype)
        leaves = probability >= rule.threshold if t < rule.T else torch.ones_like(there, dtype=torch.bool)
        outputs = output.new_empty((len(x), output.size(1))) if outputs is None else outputs
        outputs[there[leaves]], steps[there[leaves]] = output[leaves], t
        stay = (~leaves).nonzero()[:, 0]
        if len(stay) == len(leaves):
            continue
        ask = x.device.type == "cpu"  # on a GPU the check would wait for the device
        bad.update(run.not_finite() if ask else {})
        if not len(stay):
            break
        run, total, there = without(run, stay), total[stay], there[stay]
        bad.subtract(run.not_finite() if ask else {})  # images that stay are counted when they leave
    if told := +bad:
        warnings.warn(not_finite_note(told), stacklevel=3)
    return outputs, steps


@torch.no_grad()
def evaluate_early(snn: SpikingNetwork, loader: Iterable, rule: ExitRule) -> EarlyReport:
    """The accuracy with images that leave by a rule, and the time that it takes.

    Args:
        snn: the network of the rule.
        loader: iterable of batches (images [B, ...], labels [B]), which go to the device of `snn`.
        rule: of `calibrate_exit`.

    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> snn = snnfast.convert(net, calibrate=inputs)
    >>> rule = snnfast.calibrate_exit(snn, torch.randn(100, 4), T=16)
    >>> snnfast.evaluate_early(snn, [(torch.randn(6, 4), torch.zeros(6, dtype=torch.long))], rule).images
    6
    """
    if not isinstance(rule, ExitRule):
        raise TypeError(f"rule must be what snnfast.calibrate_exit returned, got {type(rule).__name__}")
    if not isinstance(snn, SpikingNetwork):
        raise TypeError(f"snn must be what snnfast.convert returned, got {type(snn).__name__}")
    right, taken, seen, began = 0, [], 0, time.perf_counter()
    for batch in loader:
        x, y = pair(batch)
        x = x.to(weight_like(snn.gm, x).device)
        with rows_are(torch.arange(seen, seen + len(x))):
            outputs, steps = answer_early(snn, x, rule, seen)
        right += int((outputs.argmax(1) == y.to(outputs.device)).sum())
        taken.append(steps.cpu())
        seen += len(x)
    if not seen:
        raise ValueError("loader gave no images")
    steps = torch.cat(taken)
    left = {t: int((steps == t).sum()) for t in rule.at}
    return EarlyReport(rule, seen, 100 * right / seen, float(steps.double().mean()), left, time.perf_counter() - began)

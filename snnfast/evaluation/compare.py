"""Evaluations beside one another: mean and deviation over seeds, and paired tests against the first."""

import dataclasses
import functools
import itertools
import statistics
from pathlib import Path

import numpy as np

from snnfast.evaluation import per_image
from snnfast.evaluation.progress_file import records_in
from snnfast.reports.latex import escaped, tabular
from snnfast.reports.report import Report, load_report
from snnfast.system.text import plain


@dataclasses.dataclass
class Group:
    """The runs of one method, one per seed. right: for each run, whether an image was classified correctly, [images, steps], or None without records.
    images: for each run, numbers and labels of the images, to see whether two runs used the same images."""

    name: str
    reports: list
    right: list
    images: list

    @functools.cached_property
    def places(self):
        """For each run {step: its place}, because a run of 10^5 steps is asked for every one of them."""
        return [{t: i for i, t in enumerate(r.at)} for r in self.reports]

    def accuracies(self, t):
        """The accuracy of each run, in %."""
        return [r.accuracy[places[t]] for r, places in zip(self.reports, self.places)]

    def mean(self, t):
        return statistics.fmean(self.accuracies(t))

    def deviation(self, t):
        """Sample standard deviation over the runs, 0 for one."""
        return statistics.stdev(self.accuracies(t)) if len(self.reports) > 1 else 0.0

    @functools.cached_property
    def ann(self):
        """The mean accuracy of the runs' networks, or None where one has none."""
        anns = [r.ann for r in self.reports if r.ann is not None]
        return statistics.fmean(anns) if len(anns) == len(self.reports) else None

    def as_report(self, at):
        """One `Report` with the mean accuracies."""
        return Report(at=at, accuracy=[self.mean(t) for t in at], images=self.reports[0].images, seconds=0.0, ann=self.ann)


def group(name, folders):
    """A `Group` from folders of evaluations (or their report.json)."""
    reports, right, images = [], [], []
    for folder in map(Path, folders):
        report = load_report(folder)
        if not report.complete:
            raise ValueError(f"{folder} was stopped after {report.images} images: finish it with snnfast eval --resume first")
        reports.append(report)
        found = records_in(folder if folder.is_dir() else folder.parent)
        try:
            for one in found:
                per_image.check_columns(one)
            record = per_image.joined(found) if found else None
        except ValueError as error:  # also from arrays of different sizes
            raise ValueError(f"the progress file in {folder} is damaged: {error}") from None
        right.append(_right(record, report) if found else None)
        images.append(found and (record["index"].tolist(), record["label"].tolist()))
    return Group(plain(name), reports, right, images)


def _right(record, report):
    """Whether each image was classified correctly, [images, steps]; None if the records are not those of the report."""
    if len(record["index"]) != report.images or record["predicted"].shape[1] != len(report.at):
        return None
    return record["predicted"] == record["label"][:, None]


def common_steps(groups):
    """The steps that every run was read at."""
    at = set(groups[0].reports[0].at)
    for g in groups:
        for r in g.reports:
            at &= set(r.at)
    first = groups[0].reports[0]
    for g in groups:
        for r in g.reports:
            if r.images != first.images or r.facts.get("data") != first.facts.get("data"):
                raise ValueError(
                    f"{g.name} was evaluated on {r.images} images of {r.facts.get('data')}, {groups[0].name} on {first.images} of "
                    f"{first.facts.get('data')}: only evaluations of the same images can be compared"
                )
    if not at:
        raise ValueError("the runs were read at different steps: there is no common T to compare at")
    return sorted(at)


def rows(groups):
    """One dictionary per step and group: t, name, runs, mean, deviation, ann, difference from the first group, p and the test that gave p.

    One run against one: McNemar's exact test on the images that only one of them has right. Several against as many: a paired t test over the
    seeds, in the order they were given; neither where there is nothing to test.
    """
    found = []
    for t in common_steps(groups):
        for g in groups:
            row = dict(t=t, name=g.name, runs=len(g.reports), mean=g.mean(t), deviation=g.deviation(t), ann=g.ann)
            p, test = (None, None) if g is groups[0] else _paired(groups[0], g, t)
            found.append(row | dict(difference=g.mean(t) - groups[0].mean(t), p=p, test=test))
    return found


def _paired(a, b, t):
    from scipy import stats

    if len(a.reports) == len(b.reports) == 1:
        if a.right[0] is None or b.right[0] is None or a.images[0] != b.images[0]:
            return None, None
        x, y = (g.right[0][:, g.places[0][t]] for g in (a, b))
        only_a, only_b = int((x & ~y).sum()), int((y & ~x).sum())
        return (stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0), "McNemar"
    if len(a.reports) != len(b.reports):
        return None, None
    difference = np.array(b.accuracies(t)) - np.array(a.accuracies(t))
    if np.ptp(difference) == 0:  # without spread the test has no statistic
        return None, None
    return float(stats.ttest_1samp(difference, 0.0).pvalue), "t"


def by_step(found):
    """(t, its rows) of what `rows` gave."""
    return itertools.groupby(found, key=lambda r: r["t"])


def latex(groups, found):
    """A table of the rows for booktabs: a line per step, a column per group; * where p < 0.05 against the first."""
    first = [["ANN", *(f"{g.ann:.2f}" for g in groups)]] if all(g.ann is not None for g in groups) else []
    rows = []
    for t, of_step in by_step(found):
        cells = []
        for r in of_step:
            spread = rf" \pm {r['deviation']:.2f}" if r["runs"] > 1 else ""
            cells.append(f"${r['mean']:.2f}{spread}{'^{*}' if r['p'] is not None and r['p'] < 0.05 else ''}$")
        rows.append([str(t), *cells])
    notes = [f"{g.name}: {line}" for g in groups for r in g.reports for line in r.notes() if line.startswith(("settings", "machine"))]
    return tabular(["$T$", *(escaped(g.name) for g in groups)], first, rows, notes)

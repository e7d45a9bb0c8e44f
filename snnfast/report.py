"""What an evaluation found: as a table, JSON and a picture."""

import dataclasses
import json
from pathlib import Path


@dataclasses.dataclass
class Report:
    """Accuracy in % after t steps, for each t of `at`.

    ann: accuracy of the network before conversion, or None. seconds: of the whole spiking run. method: name and settings of the conversion.
    layers, totals: `Statistics.rows()` and `.totals()`, where they were asked for. facts: whatever else belongs to the run.
    """

    at: list
    accuracy: list
    images: int
    seconds: float
    ann: float = None
    device: str = "cpu"
    method: dict = dataclasses.field(default_factory=dict)
    layers: list = dataclasses.field(default_factory=list)
    totals: dict = dataclasses.field(default_factory=dict)
    facts: dict = dataclasses.field(default_factory=dict)

    def at_step(self, t):
        """Accuracy at step t, in %."""
        return self.accuracy[self.at.index(t)]

    def rows(self):
        """(name, accuracy in %) of the network, then of each t."""
        first = [] if self.ann is None else [("ANN", self.ann)]
        return first + [(f"T = {t}", a) for t, a in zip(self.at, self.accuracy)]

    def table(self, published=None):
        """A rich table. published: accuracies of a paper by t, to stand beside the own ones."""
        from rich.table import Table

        table = Table(title=f"Accuracy of {self.images} images")
        table.add_column("")
        table.add_column("accuracy %", justify="right")
        if self.ann is not None:
            table.add_column("difference", justify="right")
        if published:
            table.add_column("published %", justify="right")
        for name, a in self.rows():
            row = [name, f"{a:.2f}"] + ([] if self.ann is None else ["" if name == "ANN" else f"{a - self.ann:+.2f}"])
            theirs = published and next((p for t, p in published.items() if name == f"T = {t}"), None)
            table.add_row(*row, *([] if not published else ["" if theirs is None else f"{theirs:.2f}"]))
        return table

    def save_json(self, path):
        Path(path).write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    def plot(self, path):
        """Accuracy against T (log axis), with the network's line."""
        plot_curves({"SNN": self}, path)


def methods_table(reports):
    """One rich table of several reports by name: a row per t, a column per report."""
    from rich.table import Table

    first = next(iter(reports.values()))
    table = Table(title=f"Accuracy of {first.images} images, %" + ("" if first.ann is None else f" (ANN {first.ann:.2f})"))
    table.add_column("T", justify="right")
    for name in reports:
        table.add_column(name, justify="right")
    for t in sorted({t for r in reports.values() for t in r.at}):
        table.add_row(str(t), *(f"{r.at_step(t):.2f}" if t in r.at else "" for r in reports.values()))
    return table


def plot_curves(reports, path):
    """Accuracy against T (log axis) of several reports by name, with the network's line."""
    from matplotlib.figure import Figure

    axes = (figure := Figure(figsize=(6, 4), layout="constrained")).add_subplot()
    for (name, report), marker in zip(reports.items(), "osv^D*Px" * len(reports)):
        axes.plot(report.at, report.accuracy, marker=marker, markersize=4, label=name)
    first = next(iter(reports.values()))
    if first.ann is not None:
        axes.axhline(first.ann, color="black", linestyle="--", linewidth=1, label=f"ANN {first.ann:.2f} %")
    axes.set_xscale("log", base=2)
    ticks = sorted({t for r in reports.values() for t in r.at})
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.set_xlabel("time steps T")
    axes.set_ylabel("accuracy (%)")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=150)

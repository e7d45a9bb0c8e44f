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

    def table(self):
        """A rich table."""
        from rich.table import Table

        table = Table(title=f"Accuracy of {self.images} images")
        table.add_column("")
        table.add_column("accuracy %", justify="right")
        if self.ann is not None:
            table.add_column("difference", justify="right")
        for name, a in self.rows():
            table.add_row(name, f"{a:.2f}", *([] if self.ann is None else ["" if name == "ANN" else f"{a - self.ann:+.2f}"]))
        return table

    def save_json(self, path):
        Path(path).write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    def plot(self, path):
        """Accuracy against T (log axis), with the network's line."""
        from matplotlib.figure import Figure

        axes = (figure := Figure(figsize=(6, 4), layout="constrained")).add_subplot()
        axes.plot(self.at, self.accuracy, "o-", label="SNN")
        if self.ann is not None:
            axes.axhline(self.ann, color="black", linestyle="--", linewidth=1, label=f"ANN {self.ann:.2f} %")
        axes.set_xscale("log", base=2)
        axes.set_xticks(self.at, [str(t) for t in self.at])
        axes.set_xlabel("time steps T")
        axes.set_ylabel("accuracy (%)")
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
        figure.savefig(path, dpi=150)

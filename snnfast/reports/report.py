"""What an evaluation found: as a table, JSON, CSV and pictures."""

import dataclasses
import json
import math
import typing
import warnings
from pathlib import Path
from typing import Any

from snnfast.reports import citations, latex, plots
from snnfast.runtime.network import not_finite_note, not_idle_note
from snnfast.system.files import check_regular, save_rows, save_text, whole
from snnfast.system.memory import told
from snnfast.system.text import plain


@dataclasses.dataclass
class Report:
    """What is known after t steps, for each t of `at`.

    accuracy, top5: in %. error: standard error of the accuracy, in %. loss: mean cross-entropy. distance: mean over images of the root mean square
    difference between mean output and the quantised network's output; agreement: images with the same class as it, in % (both [] without `ann`).
    ann: accuracy of the network before conversion, or None. seconds: computing time of all batches, of all processes, before and after a resume.
    complete: False where it was stopped early.
    method: name and settings of the conversion. layers, totals, energy: `Statistics.rows()`, `.totals()`, `.over_time()`, where they were asked for.
    profile: seconds and bytes per node of the graph. memory: plan, budget and measured peak, in bytes. speed: images and image-steps per second.
    early_exit, start_stop: see `snnfast/evaluation/per_image.py`. not_idle: of a differential run, neurons that would fire after T steps,
    and all, of all images. not_finite: by layer, how many neurons had a current that was NaN or infinite, of all images.
    settings, machine, facts: what the run was.
    """

    at: list
    accuracy: list
    images: int
    seconds: float
    ann: float | None = None
    device: str = "cpu"
    method: dict = dataclasses.field(default_factory=dict)
    layers: list = dataclasses.field(default_factory=list)
    totals: dict = dataclasses.field(default_factory=dict)
    facts: dict = dataclasses.field(default_factory=dict)
    top5: list = dataclasses.field(default_factory=list)
    error: list = dataclasses.field(default_factory=list)
    loss: list = dataclasses.field(default_factory=list)
    distance: list = dataclasses.field(default_factory=list)
    agreement: list = dataclasses.field(default_factory=list)
    energy: list = dataclasses.field(default_factory=list)
    early_exit: list = dataclasses.field(default_factory=list)
    start_stop: dict = dataclasses.field(default_factory=dict)
    not_idle: list = dataclasses.field(default_factory=list)
    not_finite: dict = dataclasses.field(default_factory=dict)
    profile: list = dataclasses.field(default_factory=list)
    memory: dict = dataclasses.field(default_factory=dict)
    speed: dict = dataclasses.field(default_factory=dict)
    settings: dict = dataclasses.field(default_factory=dict)
    machine: dict = dataclasses.field(default_factory=dict)
    complete: bool = True

    def at_step(self, t: int) -> float:
        """Accuracy at step t, in %."""
        return self.accuracy[self.at.index(t)]

    def rows(self) -> list[tuple[str, float]]:
        """(name, accuracy in %) of the network, then of each t."""
        first = [] if self.ann is None else [("ANN", self.ann)]
        return first + [(f"T = {t}", a) for t, a in zip(self.at, self.accuracy)]

    def columns(self) -> list[dict[str, Any]]:
        """One dictionary per asked t: what `report.csv` holds."""
        energy = {row["t"]: row for row in self.energy}
        found = []
        for i, t in enumerate(self.at):
            row = dict(t=t, accuracy=self.accuracy[i])
            for key in ("error", "top5", "loss", "distance", "agreement"):
                row[key] = getattr(self, key)[i] if getattr(self, key) else None
            row |= {key: energy.get(t, {}).get(key) for key in ("spikes", "SOPs", "MACs", "energy_pJ", "energy_ratio")}
            found.append(row | dict(ann=self.ann, images=self.images))
        return found

    def label(self) -> str:
        """The method, and the network where the report knows its name: what a picture says."""
        config = self.facts.get("config")
        method = plain(str(self.method.get("method") or "SNN"), 60)
        network = self.method.get("arch") or (config.get("arch") if isinstance(config, dict) else None) or self.facts.get("model")
        return method + (f", {plain(str(network), 60)}" if network else "")

    def latex(self) -> str:
        """A table for a paper (LaTeX, booktabs): accuracy by T, beside it the difference to the network and, where statistics were asked for, the
        share of its energy. Settings and machine stand behind it as comments."""
        rows, differs, costs = self.columns(), self.ann is not None, any(row.get("energy_ratio") is not None for row in self.energy)
        heads = ["$T$", r"accuracy (\%)", *([r"$\Delta$ ANN"] if differs else []), *([r"$E_\mathrm{SNN}/E_\mathrm{ANN}$"] if costs else [])]
        share = lambda value: f"{value:.3g}" if _is_number(value) and math.isfinite(value) else "--"
        cells = [
            [
                str(row["t"]),
                f"{row['accuracy']:.2f}",
                *([f"${round(row['accuracy'] - self.ann, 2) + 0.0:+.2f}$"] if self.ann is not None else []),
                *([share(row["energy_ratio"])] if costs else []),
            ]
            for row in rows
        ]
        first = [["ANN", f"{self.ann:.2f}", *[""] * (len(heads) - 2)]] if self.ann is not None else []
        return latex.tabular(heads, first, cells, [self.label(), *self.notes()])

    def table(self, published: dict[int, float] | None = None) -> Any:
        """A rich table. published: accuracies of a paper by t, to stand beside the own ones."""
        from rich.table import Table

        table = Table(title=f"Accuracy of {self.images} images" + ("" if self.complete else ", stopped early"))
        heads = ["accuracy %"] + (["difference"] if self.ann is not None else []) + (["top-5 %", "loss"] if self.loss else [])
        heads += (["distance"] if self.distance else []) + (["published %"] if published else [])
        table.add_column("")
        for head in heads:
            table.add_column(head, justify="right")
        if self.ann is not None:
            table.add_row("ANN", f"{self.ann:.2f}")
        for row in self.columns():
            cells = [f"{row['accuracy']:.2f}"] + ([f"{row['accuracy'] - self.ann:+.2f}"] if self.ann is not None else [])
            cells += [f"{row['top5']:.2f}", f"{row['loss']:.4f}"] if self.loss else []
            cells += [f"{row['distance']:.4g}"] if self.distance else []
            cells += [f"{published[row['t']]:.2f}" if row["t"] in published else ""] if published else []
            table.add_row(f"T = {row['t']}", *cells)
        return table

    def notes(self) -> list[str]:
        """What a reader has to know beside the numbers, as lines."""
        lines = []
        if self.speed:
            lines.append(
                f"{self.seconds:.1f} s: {self.speed['images_per_second']:.1f} images/s, {self.speed['image_steps_per_second']:.0f} image-steps/s"
            )
        if self.totals:
            lines.append(self._cost())
        if self.not_idle and self.not_idle[0]:
            lines.append(not_idle_note(*self.not_idle))
        if self.method.get("analog"):
            lines.append(f"analog, computed in front of the first neurons: {self.method['analog']}")
        if self.not_finite:
            lines.append(not_finite_note(self.not_finite))
        if self.memory:
            limit = f" of {told(self.memory['budget'])}" if self.memory["budget"] else ""
            lines.append(f"peak memory {told(self.memory['peak'])}{limit}; estimated {told(self.memory['estimate'])}")
        if self.settings:
            lines.append("settings: " + ", ".join(f"{k} {v}" for k, v in {**self.method, **self.settings}.items() if k != "analog"))
        if self.machine:
            lines.append("machine: " + ", ".join(f"{k} {v}" for k, v in self.machine.items()))
        return [plain(line, 2000) for line in lines]

    def _cost(self):
        """What an image costs, and by what convention."""
        t = self.totals
        text = f"firing rate {t['firing_rate']:.4f}, {t['SOPs'] / 1e6:.2f} M SOPs and {t['MACs'] / 1e6:.2f} M MACs per image"
        if t.get("energy_ratio") is not None:
            text += f": {t['energy_pJ'] / 1e6:.3g} uJ, E_SNN/E_ANN {t['energy_ratio']:.3g} "
            text += f"(the ANN: {t['ann_MACs'] / 1e6:.2f} M MACs, without borders)"
        per = f"{t['energy_ac_pJ']} pJ per SOP (of several quanta {t['energy_mac_pJ']}) and {t['energy_mac_pJ']} per MAC"
        return f"{text}; counted is what enters a product, at {per}, a convention"

    def bibtex(self) -> str:
        """BibTeX of the methods used."""
        return citations.bibtex(
            self.method.get("method", "if"), self.settings.get("quantised", True), bool(self.energy), self.method.get("arch")
        )

    # ---- files

    def save_json(self, path: str | Path) -> None:
        save_text(path, json.dumps(dataclasses.asdict(self) | {"bibtex": self.bibtex()}, indent=2) + "\n")

    def save_csv(self, path: str | Path) -> None:
        """One line per asked t."""
        save_rows(path, self.columns())

    def plot(self, path: str | Path) -> None:
        """Accuracy against T (log axis), with the network's line."""
        with whole(path) as part:
            plots.curves({self.label(): self}, part)

    def save(self, folder: str | Path) -> list[str]:
        """Writes what there is of FILES, report.json last, and returns the names. Without matplotlib a warning says that pictures are left out."""
        folder, name = Path(folder), self.label()
        folder.mkdir(parents=True, exist_ok=True)
        pictures = {
            "accuracy.png": (self.at, lambda path: plots.curves({name: self}, path)),
            "early_exit.png": (self.early_exit, lambda path: plots.early_exit(self, path)),
            "start_stop.png": (self.start_stop, lambda path: plots.start_stop(self, path)),
            "layers.png": (self.layers, lambda path: plots.layers(self, path)),
            "energy.png": (self.energy, lambda path: plots.energy({name: self}, path)),
        }
        tables = {"report.csv": self.columns(), "layers.csv": self.layers, "profile.csv": self.profile}
        for file in (tables := {file: rows for file, rows in tables.items() if rows}):
            save_rows(folder / file, tables[file])
        pictures |= {f"{name}.pdf": pictures[f"{name}.png"] for name in ("accuracy", "energy")}  # for papers
        drawn = [file for file, (there, _) in pictures.items() if there]
        if drawn and not plots.can_draw():
            warnings.warn(f"{folder}: pictures are left out, matplotlib is not installed: pip install snnfast[demo]", stacklevel=2)
            drawn = []
        for file in drawn:
            with whole(folder / file) as part:
                pictures[file][1](part)
        save_text(folder / "report.tex", self.latex())
        save_text(folder / "citations.bib", self.bibtex() + "\n")
        self.save_json(folder / "report.json")
        return ["report.json", *tables, "report.tex", *drawn, "citations.bib"]


# What `Report.save` may write, and the command beside it.
FILES = ("report.json", "report.csv", "report.tex", "accuracy.png", "accuracy.pdf", "citations.bib", "early_exit.png", "start_stop.png", "layers.csv",
         "profile.csv", "layers.png", "energy.png", "energy.pdf", "predictions.npz")  # fmt: skip


LARGEST = 1 << 1000  # below what fp64 holds


def load_report(path):
    """A `Report` from report.json, or from a folder that holds it."""
    path = Path(path)
    path = path / "report.json" if path.is_dir() else path
    check_regular(path)
    try:
        file = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} is not there: give the folder of an evaluation, or its report.json") from None
    except (ValueError, RecursionError):  # no JSON, no text, a number of 5,000 digits, 10,000 brackets
        raise ValueError(f"{path} is not a report of snnfast") from None
    known = {f.name: f.type for f in dataclasses.fields(Report)}
    if not isinstance(file, dict) or not {"at", "accuracy", "images", "seconds"} <= set(file):
        raise ValueError(f"{path} is not a report of snnfast")
    found = {name: value for name, value in file.items() if name in known}
    for name, value in found.items():
        _check_field(path, name, value, known[name])
    _check_steps(path, found)
    report = Report(**found)
    _check_inside(path, report)
    return report


def _is_number(value):
    """A number that a table may show; JSON knows whole ones of any length."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= LARGEST if isinstance(value, int) else True


def _check_inside(path, report):
    """What lies inside the fields is what tables, notes and pictures read."""
    try:
        report.columns(), report.notes(), report.bibtex(), report.latex()
        numbers = [row["energy_pJ"] for row in report.energy]
        numbers += [report.totals[key] for key in ("energy_ac_pJ", "energy_mac_pJ") if report.energy]
        numbers += [report.totals[key] for key in ("ann_energy_pJ",) if report.totals.get(key) is not None]
        if not all(type(row["t"]) is int and 1 <= row["t"] < 1 << 53 for row in report.energy):
            raise ValueError("energy must be rows of steps t >= 1")
        if not all(_is_number(value) and math.isfinite(value) for value in numbers):
            raise ValueError("energy must be rows with numbers t and energy_pJ")
    except KeyError as error:
        raise ValueError(f"{path}: a field lacks its {plain(str(error), 80)}") from None
    except (TypeError, ValueError, OverflowError, AttributeError, IndexError) as error:
        raise ValueError(f"{path}: what lies in a field does not fit: {plain(str(error), 200)}") from None


def _check_field(path, name, value, kind):
    """kind: what the field of `Report` is annotated with."""
    allowed = typing.get_args(kind) or (kind,)
    fits = any(_is_number(value) if one is float else type(value) is one for one in allowed)
    if not fits:
        told = " or ".join("nothing" if one is type(None) else one.__name__ for one in allowed)
        raise ValueError(f"{path}: {name} must be {told}, got {type(value).__name__}")


def _check_steps(path, found):
    """Steps that increase, and a number for each in every column."""
    at = found["at"]
    if not at or not all(type(t) is int and t >= 1 for t in at) or sorted(set(at)) != at:
        raise ValueError(f"{path}: at must be increasing steps >= 1, got {plain(at)}")
    if not all(math.isfinite(found[name]) for name in ("ann", "seconds") if found.get(name) is not None):
        raise ValueError(f"{path}: ann and seconds must be finite")
    if found["images"] < 1:
        raise ValueError(f"{path}: images must be >= 1, got {found['images']}")
    for name in ("accuracy", "error", "top5", "loss", "distance", "agreement"):
        column = found.get(name, [])
        needed = name == "accuracy"
        fits = all(_is_number(v) and (math.isfinite(v) or not needed) if v is not None else not needed for v in column)
        if (column or needed) and (len(column) != len(at) or not fits):
            raise ValueError(f"{path}: {name} must have a number for each of {len(at)} steps, got {plain(column)}")
        if name in ("accuracy", "top5", "agreement") and not all(v is None or not math.isfinite(v) or 0 <= v <= 100 for v in column):
            raise ValueError(f"{path}: {name} must be from 0 to 100 %, got {plain(column)}")
    for name in ("energy", "layers", "profile", "early_exit"):
        if not all(isinstance(row, dict) for row in found.get(name, [])):
            raise ValueError(f"{path}: {name} must be a list of dictionaries, got {plain(found[name])}")


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

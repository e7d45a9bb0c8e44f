"""What a run has reached so far, read from the files that its command writes while it runs."""

import json
import math
import os

from snnfast.web.records import Run
from snnfast.web.workspace import Workspace

READ = 4 << 20  # bytes of the log of an evaluation, of which the last line tells all
Point = tuple[float, float, str]  # place, accuracy in %, name of the curve


def points(workspace: Workspace, run: Run) -> tuple[list[Point], str]:
    """(the points of a run's curves, what its places are): accuracy by epoch of a training, by time step of an evaluation."""
    folder = workspace.folder(run.id)
    try:
        if run.kind == "train":
            return _fine(_by_epoch(folder / "out" / "log.jsonl")), "epoch"
        if run.kind == "eval":
            return _fine(_by_step(folder)), "T"
    except (TypeError, ValueError, AttributeError):  # a file that no command wrote so
        pass
    return [], ""


def _fine(found):
    """Those that can be drawn; a damaged file may hold others."""
    return [point for point in found if point[0] > 0 and all(map(math.isfinite, point[:2]))]


def best(workspace: Workspace, run: Run) -> float | None:
    """The best accuracy in %; of an evaluation, that of the spiking network at its last step."""
    found, _ = points(workspace, run)
    if run.kind == "eval":
        return next((y for _, y, name in reversed(found) if name == "spiking"), None)
    return max((y for _, y, _ in found), default=None)


def _lines(path, most):
    """The objects of the last `most` bytes of a file of lines, or of all; lines that are cut are left out."""
    try:
        with open(path, "rb") as file:
            if most is not None:
                file.seek(max(0, file.seek(0, os.SEEK_END) - most))
            texts = file.read().decode(errors="replace").splitlines()
    except OSError:
        return
    for text in texts:
        try:
            found = json.loads(text)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield found


def _by_epoch(path):
    found = []
    for i, entry in enumerate(_lines(path, None)):
        value = entry.get("test_accuracy")
        if isinstance(value, (int, float)):
            found.append((float(i + 1), float(value), "test"))
    return found


def _by_step(folder):
    """Of the report, or of the images that are done."""
    try:
        told = json.loads((folder / "out" / "report.json").read_text())
    except (OSError, ValueError):
        told = next((entry for entry in reversed([*_lines(folder / "progress.jsonl", READ)]) if "accuracy" in entry), {})
    at, accuracy, ann = told.get("at", []), told.get("accuracy", []), told.get("ann")
    found = [(float(t), float(a), "spiking") for t, a in zip(at, accuracy)]
    return found + ([(float(t), float(ann), "ANN") for t in at] if isinstance(ann, (int, float)) else [])

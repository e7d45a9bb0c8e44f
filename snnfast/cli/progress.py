"""What a command tells on its way: a bar on a terminal; a line a minute elsewhere; and, where a file is given, lines of JSON."""

import contextlib
import json
import time
from collections.abc import Callable
from datetime import datetime, timedelta

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

EVERY = 60.0  # seconds between two lines


class Log:
    """The calls of a rich Progress, which tell what is done now and then.

    tell: takes a line, a dictionary: time, task, done, total, seconds gone, seconds left (None at the start), note, and what
    `update` was given beside.  every: seconds between two.
    The last step of a task is always told.
    """

    def __init__(self, tell: Callable[[dict], None], every: float | None = None):
        self.tell, self.every = tell, EVERY if every is None else every
        self.tasks: list[dict] = []

    def add_task(self, name, total, completed=0, note=""):
        now = time.monotonic()
        self.tasks.append(dict(task=name, total=total, done=completed, first=completed, note=note, began=now, told=now))
        return len(self.tasks) - 1

    def advance(self, task, n):
        self.update(task, completed=self.tasks[task]["done"] + n)

    def update(self, task, completed=None, note=None, **more):
        """Sets what is done, the note, or what else a line tells."""
        self.tasks[task]["more"] = self.tasks[task].get("more", {}) | more
        t, now = self.tasks[task], time.monotonic()
        t["done"], t["note"] = t["done"] if completed is None else min(completed, t["total"]), t["note"] if note is None else note
        if now - t["told"] >= self.every or (completed is not None and t["done"] >= t["total"]):
            t["told"], gone, new = now, now - t["began"], t["done"] - t["first"]
            left = round(gone / new * (t["total"] - t["done"]), 1) if new else None
            known = {key: t[key] for key in ("task", "done", "total", "note")}
            self.tell(
                dict(time=datetime.now().isoformat(timespec="seconds"), **known, seconds=round(gone, 1), left=left, **t.get("more", {}))
            )


class _All:
    """Passes every call on to each of several."""

    def __init__(self, several):
        self.several = several

    def add_task(self, name, total, completed=0, note=""):
        return [one.add_task(name, total=total, completed=completed, note=note) for one in self.several]

    def advance(self, tasks, n):
        for one, task in zip(self.several, tasks):
            one.advance(task, n)

    def update(self, tasks, **options):
        for one, task in zip(self.several, tasks):
            one.update(task, **options)


def line(told: dict, size: int = 1, unit: str = "") -> str:
    """A line for people. size: of a unit, in what is counted; unit: its name in the plural."""
    done, total = told["done"] // size, told["total"] // size
    span = lambda seconds: str(timedelta(seconds=round(seconds)))  # noqa: E731
    left = "" if told["left"] is None or done >= total else f", {span(told['left'])} left"
    counted = f"{done} of {total}{unit and ' '}{unit} ({100 * told['done'] / max(1, told['total']):.0f} %)"
    return f"{told['time'][11:]} {told['task']}: {counted}, {span(told['seconds'])} gone{left}" + (told["note"] and f", {told['note']}")


@contextlib.contextmanager
def progress(console, log_json=None, size=1, unit=""):
    """What takes the tasks of a command; every task has a name, a total and a note. log_json: a file to which lines are appended.
    size, unit: see `line`."""
    with contextlib.ExitStack() as stack:
        several = []
        if console.is_terminal:
            name, note = TextColumn("{task.description:<22}"), TextColumn("{task.fields[note]}")
            columns = (name, BarColumn(12), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), note)
            several.append(stack.enter_context(Progress(*columns, console=console)))
        else:
            several.append(Log(lambda told: console.print(line(told, size, unit), soft_wrap=True, markup=False, highlight=False)))
        if log_json is not None:
            file = stack.enter_context(open(log_json, "a", encoding="utf-8"))
            several.append(Log(lambda told: print(json.dumps(told), file=file, flush=True), min(10.0, EVERY)))
        yield _All(several)

"""One run as it goes: where it stands, its curve, what it tells, its pictures; and the buttons that stop it and go on."""

import functools
import html
import time
from collections.abc import Callable
from typing import Any

import gradio as gr

from snnfast.reports import plots
from snnfast.web import curves
from snnfast.web.commands import Command
from snnfast.web.jobs import RESUMED, Jobs
from snnfast.web.records import AT_WORK, DONE, FAILED, RUNNING, STOPPED, WAITING, Run

EVERY = 1.0  # seconds between two looks at a run
SHOWN = ("*.png",)
# Of what a page calls: not offered to who reads the page before he gives his password.
PRIVATE: dict[str, Any] = dict(api_visibility="private")
QUIET: dict[str, Any] = PRIVATE | dict(show_progress="hidden")


def told(function):
    """An error of ours as a message in the browser."""

    @functools.wraps(function)
    def run(*args):
        try:
            return function(*args)
        except (ValueError, OSError) as error:
            raise gr.Error(" ".join(str(error).split()), duration=15, print_exception=False) from None

    return run


def user_of(request: gr.Request | None) -> str:
    return getattr(request, "username", None) or ""


def heading(run: Run) -> str:
    """Where a run stands, in a line of HTML. Titles and notes hold words of files that somebody brought."""
    end = run.ended or time.time()
    took = f", {end - run.started:.0f} s" if run.started else ""
    note = f": {html.escape(run.note)}" if run.note else ""
    return f"<b>Run {run.id}, {run.kind}: {html.escape(run.title)}</b> on {run.device} is <b>{run.state}</b>{took}{note}"


class View:
    """The components, and the number of the run that they show: `number`, which other components may set."""

    def __init__(self, jobs: Jobs, label: str):
        self.jobs, self.workspace = jobs, jobs.workspace
        self.number, self.seen = gr.State(None), gr.State(None)
        self.none = "No run of yours is at work. Those that are over are in Records." if label != "Records" else "Choose a run."
        self.state = gr.HTML(self.none, elem_id=f"{label}-state", padding=False)
        with gr.Row():
            self.stop = gr.Button("Stop", interactive=False, elem_id=f"{label}-stop")
            self.resume = gr.Button("Resume", interactive=False, elem_id=f"{label}-resume")
        self.curve = gr.Plot(visible=False, format="png", label="Accuracy", elem_id=f"{label}-curve")
        self.pictures = gr.Gallery(
            visible=False,
            columns=2,
            object_fit="contain",
            height="auto",
            label="Pictures",
            elem_id=f"{label}-pictures",
            elem_classes="drawn",
        )
        self.log = gr.Textbox(label="Output", lines=14, max_lines=14, interactive=False, elem_id=f"{label}-log", elem_classes="told")
        self.parts = [self.seen, self.state, self.stop, self.resume, self.curve, self.pictures, self.log]
        gr.Timer(EVERY).tick(self.look, [self.number, self.seen], self.parts, **QUIET)
        self.number.change(self.turn, [self.number], self.parts, **QUIET)
        self.stop.click(told(self.jobs.stop), [self.number], [self.state], **PRIVATE)
        self.resume.click(told(self.jobs.resume), [self.number], [self.state], **PRIVATE)

    def begins(self, button: gr.Button, command_of: Callable[..., Command], device: gr.Component, fields: list[gr.Component]) -> None:
        """The button adds the run that `command_of(*values of fields)` describes, and this view shows it."""

        def start(request: gr.Request, where, *values):
            command = told(command_of)(*values)
            return told(self.jobs.add)(command.kind, command.title, where, command.words, user_of(request))

        button.click(start, [device, *fields], [self.number], **PRIVATE)

    def found_again(self, app: gr.Blocks, kind: str) -> None:
        """A page that is opened shows the newest run of this kind that its user asked for and that is not over."""

        def find(request: gr.Request):
            mine = user_of(request)
            return next((run.id for run in self.jobs.records.all(WAITING, *AT_WORK) if (run.kind, run.user) == (kind, mine)), None)

        app.load(find, None, [self.number], **QUIET)

    def when_done(self, part: gr.Component, of: Callable[[int], Any]) -> None:
        """What `of(number)` gives for a component once the run is done; until then, and for another run, it is hidden."""
        shown = gr.State(None)

        def look(number, shown):
            if number is None or number == shown or not any(run.id == number for run in self.jobs.records.all(DONE)):
                return gr.skip(), gr.skip()
            return of(number), number

        gr.Timer(EVERY).tick(look, [self.number, shown], [part, shown], **QUIET)
        self.number.change(lambda: (gr.update(visible=False), None), None, [part, shown], **QUIET)

    def turn(self, number):
        """What the components show of another run, or of none."""
        return self.look(number, None) if number is not None else self.nothing(self.none)

    @staticmethod
    def nothing(text):
        hidden = gr.update(value=None, visible=False)
        return [None, text, *[gr.update(interactive=False)] * 2, hidden, hidden, ""]

    def look(self, number, seen):
        """What the components show of a run, or nothing new."""
        if number is None:
            return [gr.skip()] * len(self.parts)
        try:
            run = self.jobs.records.get(number)
        except ValueError as error:
            return self.nothing(html.escape(str(error)))
        output = self.workspace.output(number)
        points, place = curves.points(self.workspace, run)
        pictures = self.pictures_of(run)
        now = str(hash((run.state, run.note, output, *points, *pictures))), str(hash((number, *points)))
        if now == seen:
            same = [gr.skip()] * len(self.parts)
            return same if run.is_over() else [now, heading(run), *same[2:]]
        curve = gr.skip()
        if seen is None or seen[1] != now[1]:  # drawing takes a tenth of a second, and most new lines of the output add no point
            curve = gr.update(value=plots.growing(points, place) if points else None, visible=bool(points))
        return [
            now, heading(run), gr.update(interactive=run.state in (WAITING, RUNNING)),
            gr.update(interactive=run.state in (STOPPED, FAILED) and run.kind in RESUMED),
            curve, gr.update(value=pictures, visible=bool(pictures)), output,
        ]  # fmt: skip

    def pictures_of(self, run):
        out = self.workspace.folder(run.id) / "out"
        return [str(path) for pattern in SHOWN for path in sorted(out.glob(pattern))] if run.is_over() else []

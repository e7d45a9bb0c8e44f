"""A table that a run has written, shown when the run is done."""

import csv

import gradio as gr

from snnfast.web.jobs import Jobs
from snnfast.web.pages.view import EVERY, QUIET, View
from snnfast.web.records import DONE


def told(text: str) -> str:
    """A cell: numbers with four places."""
    try:
        return text if text.isdigit() else f"{float(text):.4g}"
    except ValueError:
        return text


def show(jobs: Jobs, view: View, file: str, label: str, name: str) -> None:
    """file: in the folder that the run writes to.  name: of the component in the page."""
    table, shown = gr.Dataframe(label=label, interactive=False, visible=False, elem_id=name), gr.State(None)

    def look(number, shown):
        if number is None or number == shown or not any(run.id == number for run in jobs.records.all(DONE)):
            return gr.skip(), gr.skip()
        with open(jobs.workspace.folder(number) / "out" / file, newline="") as lines:
            head, *rows = csv.reader(lines)
        return gr.update(value=dict(headers=head, data=[[told(cell) for cell in row] for row in rows]), visible=True), number

    gr.Timer(EVERY).tick(look, [view.number, shown], [table, shown], **QUIET)
    view.number.change(lambda: (gr.update(visible=False), None), None, [table, shown], **QUIET)  # not beneath another run

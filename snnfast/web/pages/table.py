"""A table that a run has written, shown when the run is done."""

import csv

import gradio as gr

from snnfast.web.jobs import Jobs
from snnfast.web.pages.view import View


def told(text: str) -> str:
    """A cell: numbers with four places."""
    try:
        return text if text.isdigit() else f"{float(text):.4g}"
    except ValueError:
        return text


def show(jobs: Jobs, view: View, file: str, label: str, name: str) -> None:
    """file: in the folder that the run writes to.  name: of the component in the page."""

    def read(number):
        with open(jobs.workspace.folder(number) / "out" / file, newline="") as lines:
            head, *rows = csv.reader(lines)
        return gr.update(value=dict(headers=head, data=[[told(cell) for cell in row] for row in rows]), visible=True)

    view.when_done(gr.Dataframe(label=label, interactive=False, visible=False, elem_id=name), read)

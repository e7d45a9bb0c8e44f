"""Compare: several evaluations in one picture and one table, with a test of the difference."""

import gradio as gr

from snnfast.web.commands import Offer
from snnfast.web.jobs import Jobs
from snnfast.web.pages import table
from snnfast.web.pages.forms import device
from snnfast.web.pages.view import QUIET, View


def build(jobs: Jobs, offer: Offer, tab: gr.Tab, app: gr.Blocks) -> None:
    with gr.Row():
        chosen = gr.Dropdown([], value=[], multiselect=True, label="Evaluations", info="two or more that are done", elem_id="Compare-runs")
        where = device(jobs)
    begin = gr.Button("Compare", variant="primary", elem_id="Compare-begin")
    view = View(jobs, "Compare")
    view.begins(begin, offer.compare, where, [chosen])
    view.found_again(app, "compare")
    table.show(jobs, view, "compare.csv", "Accuracy by T", "Compare-table")
    fresh = lambda: gr.update(choices=offer.evaluations())  # noqa: E731
    tab.select(fresh, None, [chosen], **QUIET)
    app.load(fresh, None, [chosen], **QUIET)

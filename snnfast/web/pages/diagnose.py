"""Diagnose: which layer loses the accuracy, and why."""

import gradio as gr

from snnfast.web.commands import Offer
from snnfast.web.jobs import Jobs
from snnfast.web.pages import table
from snnfast.web.pages.forms import Conversion, asked, number
from snnfast.web.pages.view import View


def build(jobs: Jobs, offer: Offer, tab: gr.Tab, app: gr.Blocks) -> None:
    form = Conversion(jobs, offer, tab, app, "Diagnose")
    images = number("Images", 64, "the first N of the test set")
    fields = form.fields | dict(images=images)
    begin = gr.Button("Diagnose", variant="primary", elem_id="Diagnose-begin")
    view = View(jobs, "Diagnose")
    view.begins(begin, lambda *values: offer.diagnose(asked(fields, values)), form.device, list(fields.values()))
    view.found_again(app, "diagnose")
    table.show(jobs, view, "diagnosis.csv", "Layers", "Diagnose-layers")

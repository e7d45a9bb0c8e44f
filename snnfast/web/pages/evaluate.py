"""Evaluate: a checkpoint as a spiking network, its accuracy at every T as it grows."""

import gradio as gr

from snnfast.runtime.sparse_products import KINDS as PRODUCTS
from snnfast.web.commands import Offer
from snnfast.web.jobs import Jobs
from snnfast.web.pages import forms
from snnfast.web.pages.forms import Conversion, asked, number
from snnfast.web.pages.view import View


def build(jobs: Jobs, offer: Offer, tab: gr.Tab, app: gr.Blocks) -> None:
    form = Conversion(jobs, offer, tab, app, "Evaluate")
    with gr.Row():
        memory = gr.Textbox("", label="Memory", placeholder="8GiB, auto", info="of the process; empty: as needed")
        batch_size = number("Batch", None, "images at once; empty: chosen")
        images = number("Images", None, "the first N; empty: all", elem_id="Evaluate-images")
        products = forms.choice("Products", list(PRODUCTS), "–: sparse on CPU, dense on GPU")
        statistics = gr.Checkbox(False, label="Statistics", info="firing rates, unevenness, energy")
    fields = form.fields | dict(memory=memory, batch_size=batch_size, images=images, products=products, statistics=statistics)
    begin = gr.Button("Evaluate", variant="primary", elem_id="Evaluate-begin")
    view = View(jobs, "Evaluate")
    view.begins(begin, lambda *values: offer.evaluate(asked(fields, values)), form.device, list(fields.values()))
    view.found_again(app, "eval")

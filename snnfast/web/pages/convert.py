"""Convert: a checkpoint as a spiking network in a file, by a method that is named or by the one that is chosen, to take along."""

import gradio as gr

from snnfast.web.commands import Offer
from snnfast.web.jobs import Jobs
from snnfast.web.pages.forms import Conversion, asked, network, network_of, number
from snnfast.web.pages.view import View


def build(jobs: Jobs, offer: Offer, tab: gr.Tab, app: gr.Blocks) -> None:
    form = Conversion(jobs, offer, tab, app, "Convert", "–: the simplest that keeps the answers at T")
    with gr.Row():
        energy = number("Energy", None, "without a method: the most it may take of the network's")
        images = number("Images", 64, "by which a method is chosen", elem_id="Convert-images")
    fields = form.fields | dict(energy=energy, images=images)
    begin = gr.Button("Convert", variant="primary", elem_id="Convert-begin")
    view = View(jobs, "Convert")
    view.begins(begin, lambda *values: offer.convert(asked(fields, values)), form.device, list(fields.values()))
    view.found_again(app, "convert")
    view.when_done(network("Convert-download"), lambda number: network_of(jobs, number))

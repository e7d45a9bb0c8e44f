"""Train: a network, its data, its activations."""

import gradio as gr

from snnfast.models.activation import ALL_NAMES as ACTIVATIONS
from snnfast.training.optimisers import OPTIMISERS
from snnfast.training.settings import AMP
from snnfast.web import commands
from snnfast.web.commands import Offer
from snnfast.web.jobs import Jobs
from snnfast.web.pages import forms
from snnfast.web.pages.forms import asked, device, number
from snnfast.web.pages.view import View

SPIKING = """Networks from csnn_cifar10 on are trained as spiking ones, T steps per image (empty: their own): Activation, Epochs of stage 2,
Levels, First threshold, Width and Method are not for them."""


def build(jobs: Jobs, offer: Offer, tab: gr.Tab, app: gr.Blocks) -> None:
    with gr.Row():
        arch = gr.Dropdown(commands.networks(), value="vgg11", label="Network", info="or timm:NAME, torchvision.models:NAME",
                           allow_custom_value=True, elem_id="Train-arch")  # fmt: skip
        data = gr.Dropdown(offer.data(), value="digits", label="Data", info="images and their classes")
        activation = gr.Dropdown(list(ACTIVATIONS), value="s-qcfs", label="Activation", info="with stage 2: qcfs, s-qcfs or e-qcfs")
        where = device(jobs)
    gr.Markdown(SPIKING)
    with gr.Row():
        first = number("Epochs of stage 1", 3, "one threshold a layer", elem_id="Train-first")
        second = number("Epochs of stage 2", 2, "finer thresholds; empty: none", elem_id="Train-second")
        levels = number("Levels L", 4, "of an activation, above 0")
        theta = number("First threshold", None, "empty: the recipe's")
        width = number("Width", 0.25, "factor on all channels", elem_id="Train-width")
    with gr.Row():
        batch_size = number("Batch", None, "empty: the recipe's")
        seed = number("Seed", 0, "of weights and order")
        amp = gr.Dropdown(list(AMP), value="fp32", label="Mixed precision", info="of the training")
        method = gr.Dropdown(commands.methods(), value="if", label="Method at the end", info="converts what was trained")
        T = number("T", None, "time steps at the end; empty: 64", elem_id="Train-T")
    with gr.Row():
        earlier = gr.Dropdown([forms.NONE], value="", label="Start from", info="–: random weights; else of the same network and width",
                              elem_id="Train-earlier")  # fmt: skip
        optimiser = forms.choice("Optimiser", list(OPTIMISERS), "–: the recipe's; another wants a rate", elem_id="Train-optimiser")
        lr = number("Learning rate", None, "of stage 1; of stage 2 a tenth; empty: the recipe's", elem_id="Train-lr")
    forms.fresh_sources(offer, tab, app, earlier, none=True)
    forms.upload(jobs, offer, earlier, "Train", none=True)
    fields = dict(
        arch=arch, data=data, activation=activation, first=first, second=second, levels=levels, theta=theta, width=width, batch_size=batch_size,
        seed=seed, amp=amp, method=method, T=T, earlier=earlier, optimiser=optimiser, lr=lr,
    )  # fmt: skip
    begin = gr.Button("Train", variant="primary", elem_id="Train-begin")
    view = View(jobs, "Train")
    view.begins(begin, lambda *values: offer.train(asked(fields, values)), where, list(fields.values()))
    view.found_again(app, "train")

"""What several pages ask for: a device; a checkpoint, its method and its steps."""

import os

import gradio as gr

from snnfast.conversion.functions import MODES
from snnfast.web import commands
from snnfast.web.commands import Offer
from snnfast.web.jobs import Jobs
from snnfast.web.pages.view import PRIVATE, QUIET, told
from snnfast.web.workspace import SUFFIXES

NONE = ("–", "")  # what is seen where nothing is chosen, and what it stands for


def number(label: str, value=None, info: str | None = None, **options) -> gr.Textbox:
    """A number, which may be left empty: Gradio's own field for numbers makes 0 of that."""
    return gr.Textbox("" if value is None else str(value), label=label, info=info, **options)


def choice(label: str, names: list[str], info: str | None = None, **options) -> gr.Dropdown:
    """One of the names or none: Gradio's own field cannot be emptied again."""
    return gr.Dropdown([NONE, *((name, name) for name in names)], value="", label=label, info=info, **options)


def device(jobs: Jobs) -> gr.Dropdown:
    return gr.Dropdown(jobs.devices, value=jobs.devices[0], label="Device", info="what computes")


def network(elem_id: str) -> gr.DownloadButton:
    """Hidden until there is one: `network_of`."""
    return gr.DownloadButton("Download the network", visible=False, elem_id=elem_id)


def network_of(jobs: Jobs, number: int) -> dict:
    """That button's state for a run that is done: the network that it converted or trained."""
    folder = jobs.workspace.folder(number)
    found = next((path for name in (commands.CONVERTED, commands.TRAINED) if os.path.exists(path := name.format(run=folder))), None)
    return gr.update(value=found, visible=found is not None)


class Conversion:
    """The fields of a checkpoint and its conversion, by name."""

    def __init__(
        self, jobs: Jobs, offer: Offer, tab: gr.Tab, app: gr.Blocks, page: str, without: str = "–: if, or a spiking network's own"
    ):
        """without: what happens where no method is chosen."""
        with gr.Row():
            source = gr.Dropdown([], label="Checkpoint", info="trained here, or uploaded", elem_id=f"{page}-source")
            arch = choice("Network", commands.networks(), "for files of others; timm:NAME, torchvision.models:NAME",
                          allow_custom_value=True, elem_id=f"{page}-arch")  # fmt: skip
            data = choice("Data", offer.data(), "–: what the checkpoint is for")
        with gr.Row():
            method = choice("Method", commands.methods(), without, elem_id=f"{page}-method")
            mode = choice("Mode", list(MODES), "of stbif and quanta")
            T = number("T", 64, "time steps; empty: a spiking network's own", elem_id=f"{page}-T")
            self.device = device(jobs)
        with gr.Row():
            v0 = number("v0", None, "start voltage (of theta)")
            tau = number("tau", None, "SRP: steps of phase one")
            rho = number("rho", None, "COS: inputs to calibrate")
            m = number("m", None, "quanta: most in a step")
            classes = number("Classes", None, "for networks of others", elem_id=f"{page}-classes")
            calibrate = choice("Calibrate", ["train"], "sets thresholds of ReLUs", elem_id=f"{page}-calibrate")
        self.fields = dict(
            source=source, arch=arch, data=data, method=method, mode=mode, T=T, v0=v0, tau=tau, rho=rho, m=m, classes=classes, calibrate=calibrate
        )  # fmt: skip
        fresh_sources(offer, tab, app, source)
        upload(jobs, offer, source, page)


def choices(offer: Offer, none: bool) -> list[tuple[str, str]]:
    """What can be evaluated; none: or nothing."""
    return [*([NONE] if none else []), *offer.sources()]


def fresh_sources(offer: Offer, tab: gr.Tab, app: gr.Blocks, shown: gr.Dropdown, none: bool = False) -> None:
    """Networks that were trained, and files that were brought, since the page was opened are among the choices. none: none of them is one too."""
    fresh = lambda: gr.update(choices=choices(offer, none))  # noqa: E731
    tab.select(fresh, None, [shown], **QUIET)
    app.load(fresh, None, [shown], **QUIET)


def upload(jobs: Jobs, offer: Offer, shown: gr.Dropdown, page: str, none: bool = False) -> None:
    """A button that brings a file of weights and chooses it. none: as of `fresh_sources`."""
    button = gr.UploadButton("Upload a file of weights", file_types=list(SUFFIXES), size="sm", elem_id=f"{page}-upload")

    @told
    def bring(path):
        name = jobs.workspace.take(path, path)
        gr.Info(f"{name} is here; it is loaded when it is used, safely")
        return gr.update(choices=choices(offer, none), value=f"file:{name}")

    button.upload(bring, [button], [shown], **PRIVATE)


def asked(fields: dict, values: tuple) -> dict:
    """{name of a field: its value}, None where nothing was filled in."""
    return {name: None if value == "" else value for name, value in zip(fields, values)}

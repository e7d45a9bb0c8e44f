"""Records: every run, where it stands, what it reached; its output and files; stop, resume, delete, download."""

import time

import gradio as gr

from snnfast.web import curves
from snnfast.web.commands import Offer
from snnfast.web.jobs import Jobs
from snnfast.web.pages import forms
from snnfast.web.pages.view import PRIVATE, QUIET, View, told

HEAD = ["run", "what", "of", "device", "state", "best %", "by", "asked for"]
EVERY = 2.0


def rows(jobs: Jobs, kept: dict) -> list[list]:
    """Of the table, the newest run first. kept: {a run that is over, as it was: its best accuracy}; its files are read once."""
    found = []
    for run in jobs.records.all():
        key = run.id, run.state, run.ended
        best = kept[key] if key in kept else curves.best(jobs.workspace, run)
        if run.is_over():
            kept[key] = best
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.created))
        found.append([run.id, run.kind, run.title, run.device, run.state, "" if best is None else f"{best:.2f}", run.user, when])
    return found


def build(jobs: Jobs, offer: Offer, tab: gr.Tab, app: gr.Blocks) -> None:
    table = gr.Dataframe([], headers=HEAD, interactive=False, label="Runs", elem_id="Records-table", max_height=360)
    with gr.Row():
        download = gr.Button("Pack its files", elem_id="Records-pack")
        packed = gr.DownloadButton("Download", visible=False, elem_id="Records-download")
        network = forms.network("Records-network")
        delete = gr.Button("Delete", variant="stop", elem_id="Records-delete")
    view, seen = View(jobs, "Records"), gr.State(None)
    view.when_done(network, lambda number: forms.network_of(jobs, number))
    kept: dict = {}

    def look(seen):
        now = rows(jobs, kept)
        return (gr.skip(), gr.skip()) if now == seen else (now, now)

    def choose(event: gr.SelectData):
        return int(event.row_value[0]), gr.update(visible=False)

    @told
    def pack(number):
        if number is None:
            raise ValueError("choose a run in the table")
        return gr.update(value=str(jobs.workspace.packed(number)), visible=True)

    @told
    def remove(number):
        if number is None:
            raise ValueError("choose a run in the table")
        gr.Info(jobs.delete(number))
        return None

    gr.Timer(EVERY).tick(look, [seen], [table, seen], **QUIET)
    tab.select(lambda: rows(jobs, kept), None, [table], **QUIET)
    table.select(choose, None, [view.number, packed], **QUIET)
    download.click(pack, [view.number], [packed], **PRIVATE)
    delete.click(remove, [view.number], [view.number], **PRIVATE)

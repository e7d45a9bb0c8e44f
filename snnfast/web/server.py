"""The server: a workspace, its queues, and the pages on them."""

import os
from collections.abc import Callable
from pathlib import Path

import gradio as gr
import torch
from starlette.middleware import Middleware

from snnfast import checks
from snnfast.version import __version__
from snnfast.web.commands import Offer
from snnfast.web.guard import OwnPages
from snnfast.web.jobs import Jobs
from snnfast.web.pages import compare, convert, diagnose, evaluate, records, train
from snnfast.web.workspace import MOST, Workspace

PAGES = dict(Train=train, Evaluate=evaluate, Convert=convert, Diagnose=diagnose, Records=records, Compare=compare)
# Tables of the output stay tables; pictures of a run stand two in a row, whole, also where there is one.
CSS = """
body:not(.dark) { --block-info-text-color: var(--neutral-600); }
.told textarea { font-family: monospace; white-space: pre; }
.drawn .grid-container { grid-template-columns: repeat(2, minmax(0, 1fr)) !important; }
.drawn .thumbnail-item { aspect-ratio: 4 / 3 !important; }
"""
TIDIED = 3600, 24 * 3600  # seconds: how often Gradio removes copies of files that were shown, and how old they are then


class Server:
    """path: of the workspace.  devices: those that runs may name (default: the CPU, and every GPU).  data_dir: folder of the data sets.
    check: (name, password) -> whether it is right; without one nobody is asked."""

    def __init__(
        self,
        path: str | os.PathLike,
        devices: list[str] | None = None,
        data_dir: str | None = None,
        check: Callable[[str, str], bool] | None = None,
    ):
        devices = devices or ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        devices = list(dict.fromkeys(str(checks.device("devices", device)) for device in devices))
        if data_dir is not None and not Path(data_dir).is_dir():
            raise ValueError(f"data_dir {data_dir} is no folder")
        self.workspace, self.check = Workspace(path), check
        self.workspace.tidy()
        self.jobs = Jobs(self.workspace, devices)
        self.offer = Offer(self.workspace, data_dir and str(Path(data_dir).absolute()))
        self.app = self._app()

    def _app(self):
        os.environ["GRADIO_TEMP_DIR"] = str(self.workspace.path / "copies")  # of what is shown and brought: in the workspace too
        with gr.Blocks(title="snnfast", delete_cache=TIDIED, analytics_enabled=False) as app:
            gr.Markdown(f"# snnfast {__version__}\nSpiking networks from trained ones, and their accuracy at any T.")
            for name, page in PAGES.items():
                with gr.Tab(name) as tab:
                    page.build(self.jobs, self.offer, tab, app)
        return app

    def start(self, host: str = "127.0.0.1", port: int | None = None) -> str:
        """Serves from a thread; the address. port: None for the first that is free from 7860 on."""
        try:
            _, url, _ = self.app.launch(
                server_name=host, server_port=port, auth=self.check, share=False, quiet=True, prevent_thread_lock=True, show_error=True,
                max_file_size=MOST, allowed_paths=[str(self.workspace.runs), str(self.workspace.packs)], footer_links=[], ssr_mode=False, css=CSS,
                app_kwargs={} if self.check else dict(middleware=[Middleware(OwnPages)]),
            )  # fmt: skip
        except OSError as error:
            raise OSError(f"no server at {host}, port {port or 'from 7860 on'}: {error}") from None
        self.jobs.start()
        return url

    def close(self) -> None:
        """Ends the pages and the queues. What runs goes on, and the next server finds it."""
        self.app.close()
        self.jobs.close()
        self.workspace.close()

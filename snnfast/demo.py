"""`snnfast demo`: from a trained network to its accuracy at T = 1024, on scikit-learn's digits."""

import dataclasses
import json
import time
from pathlib import Path

import torch
from rich.console import Console
from torch.utils.data import DataLoader

from snnfast import backends
from snnfast.checkpoints import save_checkpoint
from snnfast.convert import convert
from snnfast.data import digits, shift
from snnfast.evaluate import evaluate
from snnfast.methods import METHODS, method_of
from snnfast.models import vgg11
from snnfast.ops import checks
from snnfast.plots import curves
from snnfast.progress import progress
from snnfast.report import methods_table
from snnfast.stages import to_channelwise
from snnfast.train import fit

LEVELS, WIDTH, THETA, SHIFT = 4, 0.125, 2.0, 3


def _train(bar, name, net, loader, epochs, lr, device):
    task = bar.add_task(name, total=epochs, note="")

    def on_epoch(epoch, loss, train_accuracy):
        bar.update(task, advance=1, note=f"{train_accuracy:.1f} %")

    fit(net, loader, epochs, lr, augment=lambda x: shift(x, SHIFT), device=device, on_epoch=on_epoch)


def demo(out="runs/digits", device="cpu", T=None, epochs=(30, 8), seed=0, methods=("if",), console=None):
    """Trains a narrow VGG-11 with S-QCFS (L = 4), fine-tunes it channel-wise with CS-QCFS, converts it, and evaluates T = 1, 2, 4, ... in one run
    for each of `methods` ("all": every one). T is 1024 for one method and 64 for several, if not given.

    Writes what `Report.save` writes and model.pt to `out`, with several methods methods.json and methods.png too; returns the `Report` of the first
    method.
    """
    methods = METHODS if methods == "all" else tuple(methods)
    for method in methods:
        checks.choice("methods", method, METHODS)
    T = checks.integer("T", (1024 if len(methods) == 1 else 64) if T is None else T)
    for method in methods:
        method_of(method).check_T(T)
    console = console or Console()
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    torch.manual_seed(seed)
    train, test = digits()
    generator = torch.Generator().manual_seed(seed)
    batches = DataLoader(train, batch_size=64, shuffle=True, generator=generator, drop_last=True)
    tests = DataLoader(test, batch_size=180)
    net = vgg11(num_classes=10, levels=LEVELS, activation="s-qcfs", theta=THETA, width=WIDTH, in_channels=1)
    reports = {}
    with progress(console) as bar:
        _train(bar, "1: S-QCFS", net, batches, epochs[0], 0.05, device)
        net = to_channelwise(net)
        _train(bar, "2: CS-QCFS", net, batches, epochs[1], 0.005, device)
        for method in methods:
            snn = convert(net, method)
            task = bar.add_task(f"{method}, T = {T}", total=len(test) * T, note="")
            on_chunk = lambda n, task=task: bar.advance(task, n)  # noqa: E731
            reports[method] = evaluate(snn, tests, T, ann=net, device=device, on_chunk=on_chunk, statistics=True)
    seconds, report = time.perf_counter() - began, reports[methods[0]]
    report.facts = dict(
        data="scikit-learn digits", train_images=len(train), arch="vgg11", width=WIDTH, levels=LEVELS, activation="cs-qcfs",
        epochs=list(epochs), seed=seed, total_seconds=seconds, kernels=backends.info()["cuda" if "cuda" in str(device) else "cpu"],
        torch=torch.__version__,
    )  # fmt: skip
    wrote = report.save(out)
    facts = dict(data="digits", image_size=32, ann_accuracy=report.ann, epochs=list(epochs), seed=seed)
    save_checkpoint(out / "model.pt", net.cpu(), **facts)
    wrote.append("model.pt")
    if len(methods) > 1:
        text = json.dumps({name: dataclasses.asdict(r) for name, r in reports.items()}, indent=2)
        (out / "methods.json").write_text(text + "\n")
        curves(reports, out / "methods.png")
        wrote += ["methods.json", "methods.png"]
    console.print(report.table() if len(methods) == 1 else methods_table(reports))
    console.print(f"{seconds:.0f} s in all; wrote {', '.join(str(out / f) for f in wrote)}")
    return report

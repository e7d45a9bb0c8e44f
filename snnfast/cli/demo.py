"""`snnfast demo`: from a trained network to its accuracy as a spiking one, on scikit-learn's digits."""

import dataclasses
import json
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from snnfast import checks
from snnfast.checkpoints.own import save_checkpoint
from snnfast.cli.console import Console
from snnfast.cli.progress import progress
from snnfast.conversion.convert import convert
from snnfast.conversion.methods import METHODS, method_of
from snnfast.data import digits, shift
from snnfast.evaluation.evaluate import evaluate
from snnfast.models import swin_tiny, vgg11, vit_tiny
from snnfast.models.channelwise import to_channelwise
from snnfast.ops import info
from snnfast.reports.plots import curves
from snnfast.reports.report import methods_table
from snnfast.runtime.network import not_idle_note
from snnfast.training.fit import fit

SHIFT = 3


@dataclasses.dataclass(frozen=True)
class Small:
    """A network that two cores train in two minutes. epochs, lr: of each stage; T: of the evaluation with one method and with several."""

    build: object
    options: dict
    epochs: tuple
    lr: tuple
    T: tuple
    methods: tuple
    training: dict = dataclasses.field(default_factory=dict)


_ADAMW = dict(optimiser="adamw", weight_decay=0.05, warmup=2)
_TINY = dict(levels=16, theta=2.0, in_channels=1, image_size=32, mlp_ratio=2.0)
ARCHS = {
    "vgg": Small(vgg11, dict(levels=4, theta=2.0, width=0.125, in_channels=1), (30, 8), (0.05, 0.005), (1024, 64), ("if",)),
    "vit": Small(vit_tiny, dict(patch_size=8, dim=64, depth=4, heads=4, **_TINY), (30, 8), (2e-3, 2e-3), (64, 64), ("stbif",), _ADAMW),
    "swin": Small(swin_tiny, dict(patch_size=4, dim=32, depths=(2, 2), heads=(2, 4), window=4, **_TINY), (40, 8), (2e-3, 2e-3), (64, 64), ("stbif",),
                  _ADAMW),
}  # fmt: skip


def _train(bar, name, net, loader, epochs, lr, device, options):
    task = bar.add_task(name, total=epochs, note="")

    def on_epoch(epoch, loss, train_accuracy):
        bar.update(task, note=f"{train_accuracy:.1f} %")
        bar.advance(task, 1)

    fit(net, loader, epochs, lr, augment=lambda x: shift(x, SHIFT), device=device, on_epoch=on_epoch, **options)


def demo(out=None, device="cpu", T=None, epochs=None, seed=0, methods=None, arch="vgg", console=None):
    """Trains a small network with one threshold per layer (S-QCFS), fine-tunes it with one per channel (CS-QCFS) or, in a transformer, per attention
    head and feature (HN-QCFS), converts it, and evaluates T = 1, 2, 4, ... in one run for each of `methods` ("all": every one).

    arch: "vgg", a narrow VGG-11; "vit" or "swin", whose ST-BIF neurons run in mode "differential" and whose other methods in mode "per_step". T is
    1024 for a VGG and one method, else 64, if not given.

    Writes what `Report.save` writes and model.pt to `out`, with several methods methods.json and methods.png too; returns the `Report` of the first
    method.
    """
    small = ARCHS[checks.choice("arch", arch, tuple(ARCHS))]
    methods = METHODS if methods == "all" else tuple(methods or small.methods)
    for method in methods:
        checks.choice("methods", method, METHODS)
    T = checks.steps("T", small.T[len(methods) > 1] if T is None else T)
    for method in methods:
        method_of(method).check_T(T)
    console, epochs = console or Console(), epochs or small.epochs
    out = Path(out or ("runs/digits" if arch == "vgg" else f"runs/digits-{arch}"))
    out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    torch.manual_seed(seed)
    train, test = digits()
    generator = torch.Generator().manual_seed(seed)
    batches = DataLoader(train, batch_size=64, shuffle=True, generator=generator, drop_last=True)
    tests = DataLoader(test, batch_size=180)
    net = small.build(num_classes=10, activation="s-qcfs", **small.options)
    reports = {}
    with progress(console) as bar:
        _train(bar, "1: S-QCFS", net, batches, epochs[0], small.lr[0], device, small.training)
        net = to_channelwise(net)
        _train(bar, "2: CS-QCFS" if arch == "vgg" else "2: HN-QCFS", net, batches, epochs[1], small.lr[1], device, small.training)
        for method in methods:
            snn = convert(net, method, mode=_mode(arch, method))
            task = bar.add_task(f"{method}, T = {T}", total=len(test) * T, note="")
            on_chunk = lambda n, task=task: bar.advance(task, n)  # noqa: E731
            reports[method] = evaluate(snn, tests, T, ann=net, device=device, on_chunk=on_chunk, statistics=True)
    seconds, report = time.perf_counter() - began, reports[methods[0]]
    report.facts = dict(
        data="scikit-learn digits", train_images=len(train), config=net.config, epochs=list(epochs), seed=seed, total_seconds=seconds,
        kernels=info.info()["cuda" if "cuda" in str(device) else "cpu"], torch=torch.__version__,
    )  # fmt: skip
    wrote = report.save(out)
    facts = dict(data="digits", image_size=32, ann_accuracy=report.ann, epochs=list(epochs), seed=seed)
    save_checkpoint(out / "model.pt", net.cpu(), **facts)
    wrote.append("model.pt")
    if len(methods) > 1:
        text = json.dumps({name: dataclasses.asdict(r) for name, r in reports.items()}, indent=2)
        (out / "methods.json").write_text(text + "\n", "utf-8")
        curves(reports, out / "methods.png")
        wrote += ["methods.json", "methods.png"]
    console.print(report.table() if len(methods) == 1 else methods_table(reports))
    if report.not_idle and report.not_idle[0]:
        console.print(not_idle_note(*report.not_idle))
    console.print(f"{seconds:.0f} s in all; wrote {', '.join(str(out / f) for f in wrote)}")
    return report


def _mode(arch, method):
    if arch == "vgg":
        return None
    return "differential" if method == "stbif" else "per_step"

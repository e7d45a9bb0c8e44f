"""Networks that others trained, on real images, at few steps: how often the spiking network answers what the network answers, and at what energy.

`python bench/gallery.py [--store] [NAME ...]`; a name is imagenet, cifar10 or mnist. Thresholds are the package's
default, from images that are not the ones evaluated: the images are halved, and each half is answered with thresholds of the other. Prints a table;
writes runs/gallery/gallery.json and .png.
"""

import argparse
import json
import math
import time
import warnings
from pathlib import Path

import stored
import torch
from gallery_networks import ENTRIES, PACKAGES
from gpu_tables import table as lay
from torch.utils.data import TensorDataset

import snnfast
from snnfast.conversion import methods
from snnfast.graph.prepare import captured_once

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

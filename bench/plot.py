"""The pictures of the READMEs, from stored rows alone: `make figures`, or `python bench/plot.py [--machine M]`.

memory.png    peak memory of a network against T, by the way it is run
peers.png     how many times as long the others take for the same work
roofline.png  GB/s of the ops in fp32 at T = 32 against the bytes that a step moves, below what copy_ moves
scaling.png   cost along T, N and batch
"""

import argparse
import itertools
import math
import statistics
from pathlib import Path

import matplotlib
import stored

matplotlib.use("agg")
from matplotlib import pyplot as plt  # noqa: E402
from tables import AVX512, WAYS, WHOS  # noqa: E402

FOLDER = Path(__file__).parent / "figures"
STYLE = {"font.size": 9}


def _axes(ax, x, y, log="xy"):
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    if "x" in log:
        ax.set_xscale("log", base=2)
    if "y" in log:
        ax.set_yscale("log")
    ax.grid(True, which="major", alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)


def memory(machine):
    """Peak memory of the process against T."""
    found = stored.last([r for r in stored.read("large-T", machine) if r["batch"] == 4 and r["width"] == 1.0], "arch", "way", "T")
    archs = sorted({arch for arch, _, _ in found}, reverse=True)
    figure, all_axes = plt.subplots(1, len(archs), figsize=(4.2 * len(archs), 3.2), sharey=True, squeeze=False)
    for ax, arch in zip(all_axes[0], archs):
        for way, name in WAYS.items():
            points = sorted((T, r["peak"] / 2**30) for (a, w, T), r in found.items() if (a, w) == (arch, way) and "peak" in r)
            ax.plot(*zip(*points), marker="o", label=name, lw=2.5 if way == "snnfast" else 1.3)
        _axes(ax, "T", "peak of the process, GiB" if ax is all_axes[0][0] else "")
        ax.set_yticks([0.5, 1, 2, 4, 8], ["½", "1", "2", "4", "8"])
        ax.minorticks_off()
        ax.set_title(f"{arch}, four 32×32 images")
    all_axes[0][0].legend(frameon=False)
    return figure


def peers(machine):
    """Ratios of times by work, a panel per shape; the peer that is missing cannot do the row."""
    found = stored.last(stored.read("peers", machine), "work", "T", "N", "who")
    whos = [who for who in WHOS[1:] if any(key[-1] == who for key in found)]
    works, shapes = ([*dict.fromkeys(key[part] for key in found)] for part in (slice(0, 1), slice(1, 3)))
    figure, all_axes = plt.subplots(
        1, len(shapes), figsize=(3 + 2.1 * len(shapes), 0.55 * len(works) + 1.4), sharey=True, sharex=True, squeeze=False
    )
    height = 0.8 / len(whos)
    for ax, shape in zip(all_axes[0], shapes):
        for i, who in enumerate(whos):
            rows = [(j, found.get((*work, *shape, who), {})) for j, work in enumerate(works)]
            points = [(j + (i - len(whos) / 2 + 0.5) * height, row["ratio"]) for j, row in rows if "ratio" in row]
            ax.barh([y for y, _ in points], [r for _, r in points], height, label=who, color=f"C{i}")
        ax.axvline(1, color="black", lw=1)
        ax.set_title(f"T = {shape[0]}, N = 2^{int(math.log2(shape[1]))}")
        _axes(ax, "", "", log="")
        ax.set_xscale("log")
    all_axes[0][0].set_yticks(range(len(works)), [work.replace(", forward", ",\nforward") for (work,) in works])
    all_axes[0][0].invert_yaxis()
    figure.supxlabel("times as long as snnfast, for the same spikes and gradients", fontsize=9)
    figure.legend(
        *all_axes[0][0].get_legend_handles_labels(), frameon=False, ncol=len(whos), loc="upper center", bbox_to_anchor=(0.5, 1.03)
    )
    return figure


def roofline(machine):
    """GB/s of the ops against the bytes that a step moves, and what the copies beside them moved."""
    found = stored.last(stored.read("ops", machine), "op", "kind", "dtype", "T", "N")
    rows = [r for r in found.values() if (r["dtype"], r["T"]) == ("fp32", 32) and r["kind"] != "count, constant input"]
    figure, ax = plt.subplots(figsize=(7.5, 4.6))
    copies = {}
    for r in rows:
        copies.setdefault(8 * r["N"], []).append(r["copy_gb_per_s"])
    middle = sorted((size, statistics.median(speeds)) for size, speeds in copies.items())
    ax.plot(*zip(*middle), color="black", ls="--", label="copy_ of the same x")
    marks = itertools.cycle("sD^vP*Xhdp<>")
    for name in dict.fromkeys((r["op"], r["kind"]) for r in rows):
        points = sorted((r["bytes"] / r["T"], r["gb_per_s"]) for r in rows if (r["op"], r["kind"]) == name)
        curve = len(points) > 2  # the others have a small and a large N
        ax.plot(*zip(*points), marker="." if curve else next(marks), ms=6 if curve else 4, lw=1.6 if curve else 0, label=", ".join(name))
    _axes(ax, "bytes that one of 32 steps moves, fp32", "GB/s")
    ax.legend(frameon=False, fontsize=6.5, ncol=3, loc="upper center", bbox_to_anchor=(0.5, -0.15))
    return figure


def scaling(machine):
    """Seconds along each variable, with the slope of the upper half."""
    rows = [r for r in stored.read("scaling", machine) if r["along"] in ("T", "N", "batch") and "failed" not in r]
    found = stored.last(rows, "curve", "along", "at")
    curves = list(dict.fromkeys((curve, along) for curve, along, _ in found))
    figure, all_axes = plt.subplots(1, len(curves), figsize=(3.2 * len(curves), 3), squeeze=False)
    for ax, (curve, along) in zip(all_axes[0], curves):
        points = sorted((at, r["seconds"], r["slope"]) for (c, a, at), r in found.items() if (c, a) == (curve, along))
        ax.plot([p[0] for p in points], [p[1] for p in points], marker="o")
        ax.set_title(f"{curve.replace(', ', chr(10))}: slope {points[-1][2]:.2f}")
        _axes(ax, along, "seconds" if ax is all_axes[0][0] else "")
    return figure


PICTURES = {"memory": memory, "peers": peers, "roofline": roofline, "scaling": scaling}


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--machine", default=AVX512, help=f"the name of a file of rows (default {AVX512})")
    p.add_argument("--out", type=Path, default=FOLDER)
    args = p.parse_args()
    for bench in ("large-T", "peers", "ops", "scaling"):
        if not stored.read(bench, args.machine):
            p.error(f"no {bench} rows of {args.machine} in {stored.RESULTS}")
    args.out.mkdir(exist_ok=True)
    with plt.rc_context(STYLE):
        for name, draw in PICTURES.items():
            figure = draw(args.machine)
            figure.tight_layout()
            figure.savefig(args.out / f"{name}.png", dpi=110, bbox_inches="tight", metadata={"Software": None})
            plt.close(figure)
            print(args.out / f"{name}.png")


if __name__ == "__main__":
    main()

"""What the demos end with: `python bench/demos.py` runs them as `snnfast demo` does and stores the accuracies; about six minutes on two cores."""

import argparse
import json
import tempfile
from pathlib import Path

import stored
import torch
from rich.console import Console

from snnfast.cli.demo import demo

RUNS = (("vgg", ("if",)), ("vgg", ("srp", "cos")), ("vit", ("stbif", "if", "cos")), ("swin", ("stbif",)))


def rows(arch, methods, **options):
    """A row per method."""
    with tempfile.TemporaryDirectory() as folder:
        first = demo(out=folder, arch=arch, methods=methods, console=Console(quiet=True), **options)
        file = Path(folder) / "methods.json"
        reports = json.loads(file.read_text()) if file.exists() else {methods[0]: vars(first)}
        for method, report in reports.items():
            yield dict(
                arch=arch,
                method=method,
                images=report["images"],
                ann=report["ann"],
                at=list(report["at"]),
                accuracy=list(report["accuracy"]),
            )


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--results", type=Path, default=stored.RESULTS)
    args = p.parse_args()
    torch.set_num_threads(2)
    for arch, methods in RUNS:
        found = list(rows(arch, methods))
        stored.append("demo", stored.facts(), found, args.results)
        for row in found:
            print(
                f"{arch}, {row['method']}: {row['ann']:.2f} | " + ", ".join(f"{t}: {a:.2f}" for t, a in zip(row["at"], row["accuracy"])),
                flush=True,
            )


if __name__ == "__main__":
    main()

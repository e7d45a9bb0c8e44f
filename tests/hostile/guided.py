"""What a coverage-guided fuzzer makes of the readers: pickle programs of checkpoints, whose archive is whole, and report files. `make test-hostile`.

    python tests/hostile/guided.py [--seconds 60]      needs atheris (`pip install atheris`), which counts the branches of the readers' Python code

The programs begin as those of real checkpoints. A reader may refuse with ValueError or read, in seconds; anything else ends the run and leaves the
input as build/hostile/crash-*, which `python tests/hostile/guided.py FILE` reads again.
"""

import argparse
import contextlib
import os
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import atheris

ROOT = Path(__file__).parents[2]
sys.path += [str(ROOT), str(Path(__file__).parent)]
import torch  # noqa: E402, F401

with atheris.instrument_imports(include=["snnfast.checkpoints", "snnfast.reports", "pickletools"]):
    import snnfast  # noqa: F401
    from snnfast.reports.report import load_report

from fuzz import FOUND, SECONDS, originals  # noqa: E402

REPORT, ARCHIVES = "report.json", ("own.pt", "objects.pt")


def program_of(path):
    """(name, bytes) of the archive's pickle."""
    with zipfile.ZipFile(path) as archive:
        name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
        return name, archive.read(name)


def rewritten(path, to, program):
    """The archive with another program, its checksums right: else every change would be a damaged file."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(to, "w") as new:
        for item in old.infolist():
            new.writestr(item, program if item.filename.endswith("data.pkl") else old.read(item.filename))


class Target:
    """Reads an input: its first byte says by which reader."""

    def __init__(self, folder):
        self.folder, self.readers = folder, originals(folder)

    def corpus(self):
        for number, name in enumerate((*ARCHIVES, REPORT)):
            data = (self.folder / name).read_bytes() if name == REPORT else program_of(self.folder / name)[1]
            yield bytes([number]) + data

    def __call__(self, data):
        name = (*ARCHIVES, REPORT)[data[0] % 3] if data else REPORT
        path = self.folder / f"guided-{name}"
        if name == REPORT:
            path.write_bytes(data[1:])
        else:
            rewritten(self.folder / name, path, data[1:])
        began = time.process_time()
        with contextlib.suppress(ValueError):
            load_report(path) if name == REPORT else self.readers[name](path)
        assert time.process_time() - began < SECONDS, f"{name} took {time.process_time() - began:.0f} s"


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("file", nargs="?", type=Path, help="read only this input")
    p.add_argument("--seconds", type=int, default=60)
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        target = Target(folder)
        if args.file:
            return target(args.file.read_bytes())
        corpus = folder / "corpus"
        corpus.mkdir()
        for number, data in enumerate(target.corpus()):
            (corpus / str(number)).write_bytes(data)
        FOUND.mkdir(parents=True, exist_ok=True)
        options = [f"-max_total_time={args.seconds}", f"-artifact_prefix={FOUND}{os.sep}", f"-timeout={2 * SECONDS}", "-rss_limit_mb=4096"]
        atheris.Setup([sys.argv[0], *options, "-max_len=65536", "-print_final_stats=1", str(corpus)], target)
        atheris.Fuzz()


if __name__ == "__main__":
    main()

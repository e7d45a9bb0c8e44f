"""Where rows are kept: one file a machine, appended, never edited. Each row says of which benchmark it is, where and when it was measured.

(Files with a benchmark's name before the machine's are older.)
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from snnfast.engines import backends
from snnfast.reports.machine import machine

RESULTS = Path(os.environ.get("BENCH_RESULTS", Path(__file__).parent / "results"))


def positive(text):
    """A whole number from 1 on, for argparse."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, got {text}")
    return int(text)


def slug(*parts):
    """A file name of the parts."""
    return "".join(c if c.isalnum() else "-" for c in "-".join(parts)).lower()


def isa():
    """The instruction set of the kernels that run on the CPU."""
    return backends._C.isa() if backends._C else "reference"


def now():
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def facts(device="cpu"):
    """Machine, versions, commit and time of a run."""
    return machine(device) | dict(time=now())


def name_of(facts):
    """The file name of a machine."""
    return slug(facts["gpu"]) if "gpu" in facts else slug(facts["cpu"], isa())


def child(script, environment=None, **options):
    """The JSON that a script prints last in a process of its own, given --name value [value ...]; {"failed": why} where it fails."""
    words = [word for name, value in options.items() for word in (f"--{name}", *(value if isinstance(value, list) else [value]))]
    done = subprocess.run([sys.executable, str(script), *map(str, words)], capture_output=True, text=True, env=environment)
    if done.returncode:
        return dict(failed=done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"ended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def append(bench, facts, rows, folder=RESULTS):
    """Rows of a benchmark with their facts, to the file of this machine."""
    folder.mkdir(exist_ok=True)
    with open(folder / f"{name_of(facts)}.jsonl", "a") as file:
        for row in rows:
            file.write(json.dumps(dict(bench=bench) | facts | row) + "\n")


def read(bench, machine=None, folder=RESULTS):
    """All rows of a benchmark, oldest first; of one machine, by its file name, or of all."""
    found = []
    for path in sorted(folder.glob("*.jsonl")):
        old = path.stem.startswith(f"{bench}-")
        of = path.stem.removeprefix(f"{bench}-") if old else path.stem
        if machine not in (None, of):
            continue
        for line in path.read_text().splitlines():
            row = json.loads(line)
            if row.get("bench", bench if old else "goals" if "copy_ms" in row else None) == bench:
                found.append(row | dict(of=of))
    return sorted(found, key=lambda row: row["time"])


def last(rows, *keys):
    """Of rows that agree in `keys`, the last one: {values of keys: row}."""
    return {tuple(_plain(row.get(key)) for key in keys): row for row in rows}


def _plain(value):
    return tuple(value) if isinstance(value, list) else value


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h of glibc


def keep_pages():
    """Asks glibc to serve large blocks from a heap that it never gives back; returns whether it took that.

    For a benchmark only: the heap can fragment, and then it grows.
    """
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, -1))

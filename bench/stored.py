"""Where rows are kept: one file a machine, appended, never edited."""

import json
import subprocess
import sys
import time
from pathlib import Path

from snnfast import backends
from snnfast.machine import machine

RESULTS = Path(__file__).parent / "results"


def slug(*parts):
    """A file name of the parts."""
    return "".join(c if c.isalnum() else "-" for c in "-".join(parts)).lower()


def isa():
    """The instruction set of the kernels that run on the CPU."""
    return backends._C.isa() if backends._C else "reference"


def now():
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def facts(device):
    """Machine, versions, commit and time of a run."""
    return machine(device) | dict(time=now())


def child(script, **options):
    """The JSON that a script prints last in a process of its own, given --name value; {"failed": why} where it fails."""
    line = [sys.executable, script, *(word for name, value in options.items() for word in (f"--{name}", value))]
    done = subprocess.run([*map(str, line)], capture_output=True, text=True)
    if done.returncode:
        return dict(failed=done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"ended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def append(stem, facts, rows, folder=RESULTS):
    """Rows with their facts, to the file of this machine."""
    folder.mkdir(exist_ok=True)
    name = slug(facts["gpu"]) if "gpu" in facts else slug(facts["cpu"], isa())
    with open(folder / f"{stem}-{name}.jsonl", "a") as file:
        for row in rows:
            file.write(json.dumps(facts | row) + "\n")

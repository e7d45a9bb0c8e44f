"""Runs the real command `snnfast` in a process of its own."""

import ctypes
import json
import os
import signal
import subprocess
import sys

ENV = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}  # the tests' workers share the cores


def heeds_interrupts():
    """For `preexec_fn`: a process started from one that ignores Ctrl-C, as a shell's background job does, would ignore it too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def cannot_write_what_is_read_only():
    """Takes from a child of the superuser what lets it write files that nobody may write (CAP_DAC_OVERRIDE)."""
    if os.geteuid() == 0:
        ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)


def start(*arguments, script=("-m", "snnfast"), before=heeds_interrupts):
    """A running process, its output piped. before: is called in it before it begins."""
    line = [sys.executable, *script, *map(str, arguments)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENV, preexec_fn=before)


def run(*arguments, **options):
    """(exit code, stdout, stderr)."""
    process = start(*arguments, **options)
    out, error = process.communicate(timeout=300)
    return process.returncode, out, error


def report(folder):
    return json.loads((folder / "report.json").read_text())


# What a report says about time and place, which differs from run to run; all else must be equal.
PLACE = ("seconds", "speed", "memory", "profile", "machine", "facts")


def result(folder):
    return {k: v for k, v in report(folder).items() if k not in PLACE}

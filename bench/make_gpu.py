"""`make gpu`: builds for the card, tests on it, measures, then looks for wrong accesses and races; at most nine minutes, unattended.

Uses the Python it is run with, as it is: nothing is installed, nothing is fetched. A step that fails does not stop the ones that can still tell
something; the table at the end says what each found, and the exit status is 1 if any failed.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
LIMIT = 530  # seconds for everything
RESERVE = {"test": 260, "measure": 150, "memcheck": 60, "racecheck": 0}  # what must be left for later steps when a step ends


def run(command, seconds, **env):
    """The exit status; 124 if it ran out of time."""
    print(f"\n$ {' '.join(map(str, command))}", flush=True)
    try:
        return subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), **env}, timeout=max(1, seconds)).returncode
    except subprocess.TimeoutExpired:
        return 124


def steps(arch):
    cores = len(os.sched_getaffinity(0))
    python = sys.executable
    build = f"build/cmake-{sys.implementation.cache_tag}"
    yield "build", [python, "setup.py", "--quiet", "build_ext", "--inplace"], dict(SNNFAST_CUDA="1", SNNFAST_CUDA_ARCHS=arch)
    yield "build for tests", ["cmake", "--build", build, "--target", "isas", "_cuda_on_host"], {}
    parallel = ["-n", str(min(8, cores))] if shutil.which("pytest") and _has("xdist") else []
    yield "test", [python, "-m", "pytest", "-q", *parallel, "-p", "no:cacheprovider", "tests"], {}
    yield "measure", [python, "bench/gpu.py", "--seconds", "120"], {}
    sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    for tool in ("memcheck", "racecheck"):
        command = [sanitizer, "--tool", tool, "--error-exitcode", "1", python, "tests/sanitize.py"]
        yield tool, command if Path(sanitizer).exists() else None, dict(PYTORCH_NO_CUDA_MEMORY_CACHING="1")


def _has(module):
    import importlib.util

    return importlib.util.find_spec(module) is not None


def main():
    if not torch.cuda.is_available():
        print("make gpu: no CUDA device is visible to this Python's torch", file=sys.stderr)
        return 2
    arch = "".join(map(str, torch.cuda.get_device_capability()))
    began, found = time.monotonic(), []
    for name, command, env in steps(arch):
        at = time.monotonic()
        if command is None:
            found.append((name, "not done: no compute-sanitizer on this machine", 0))
            continue
        status = run(command, LIMIT - (at - began) - RESERVE.get(name, 0), **env)
        word = "ok" if status == 0 else "out of time" if status == 124 else f"FAILED (exit status {status})"
        found.append((name, word, time.monotonic() - at))
    print("\n| step | result | s |\n|---|---|---|")
    for name, word, seconds in found:
        print(f"| {name} | {word} | {seconds:.0f} |")
    return 1 if any(word != "ok" and not word.startswith("not done") for _, word, _ in found) else 0


if __name__ == "__main__":
    raise SystemExit(main())

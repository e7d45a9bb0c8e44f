"""`make gpu`, `make gpu-second`, `make gpu-third`: what a GPU has to show, in steps, unattended; at most seven minutes, four, and two.

Uses the Python it is run with, as it is: nothing is installed, nothing is fetched. Everything is written as it comes to $BENCH_RESULTS (else
bench/results), so that a run which is cut leaves all that it found:

    steps.jsonl    when each step began, how it ended      gpu.log        what the steps printed
    <gpu>.jsonl    rows of bench/gpu.py and networks.py    tests.log      each test and its result
    sanitizer.log, ncu.csv                                 what those tools printed

Each step has a limit of its own, and a step that fails stops nothing but itself. `python bench/make_gpu.py --table FOLDER` makes the table of
whatever is there. `--stand-in` rehearses without a GPU: CUDA kernels compiled for the host, Triton interpreted.
"""

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from gpu_tables import of_a_run

ROOT = Path(__file__).resolve().parents[1]
KIT = ROOT / "build/gpu-kit"
# What tools say that a machine does not let near its card.
REFUSED = "Device not supported", "LibraryNotLoaded", "ERR_NVGPUCTRPERM", "no CUDA-capable device"


@dataclasses.dataclass
class Step:
    """One command, None where its tool is not here; its limit in seconds; the file its output goes to beside gpu.log; variables that it needs;
    `alone` where it does not need the compiled library: the others are not begun without it, since Triton would serve them in its place."""

    name: str
    command: list | None
    limit: float
    file: str | None = None
    env: dict = dataclasses.field(default_factory=dict)
    alone: bool = False


def results():
    return Path(os.environ.get("BENCH_RESULTS") or ROOT / "bench/results")


def tool(name):
    """The path of one of CUDA's tools, or None."""
    beside = [shutil.which(name), *(f"{home}/bin/{name}" for home in (os.environ.get("CUDA_HOME"), "/usr/local/cuda") if home)]
    return next((path for path in beside if path and Path(path).exists()), None)


def pytest(*arguments, workers=4):
    """With workers, where the machine has cores for them; `python -m`, so that no PATH is asked."""
    has = lambda module: importlib.util.find_spec(module) is not None  # noqa: E731
    many = ["-n", str(min(workers, len(os.sched_getaffinity(0))))] if has("xdist") else []
    slow = ["--timeout", "60"] if has("pytest_timeout") else []
    return [sys.executable, "-m", "pytest", "-vv", "-rfE", "--no-header", *many, *slow, "-p", "no:cacheprovider", *arguments]


def gpu(*arguments, seconds, stand_in):
    long = patience(stand_in)
    return [sys.executable, "bench/gpu.py", *arguments, "--seconds", str(seconds * long), *(["--stand-in"] if stand_in else [])]


def patience(stand_in):
    """How many times the limits a run gets. A rehearsal has no card to give back, and a slow machine is no fault of it."""
    return 10 if stand_in else 1


def sanitizer(name, stand_in, *options):
    command = [
        tool("compute-sanitizer"),
        "--tool",
        name,
        "--error-exitcode",
        "1",
        "--report-api-errors",
        "no",
        sys.executable,
        "tests/sanitize.py",
        *options,
    ]
    return Step(name, None if stand_in or not command[0] else command, 60, "sanitizer.log", dict(PYTORCH_NO_CUDA_MEMORY_CACHING="1"))


def first(stand_in):
    """`make gpu`: 7 minutes at most."""
    here = ["--stand-in"] if stand_in else []
    yield Step("library", [sys.executable, __file__, "--library", *here], 170)
    yield Step("every op once", [sys.executable, "tests/every_op.py", *here], 40)
    tests = "tests/engines/test_cuda_on_host.py" if stand_in else "tests/engines/test_gpu.py"
    yield Step("tests", pytest(tests, *(["-k", "test_cos or test_rows"] if stand_in else [])), 90, "tests.log")
    yield Step("copies before", gpu("--by", "copies", seconds=35, stand_in=stand_in), 45, alone=True)
    for number in ("1", "2"):
        yield Step(f"CUDA rows, round {number}", gpu("--by", "cuda", "--round", number, seconds=60, stand_in=stand_in), 72)
    yield Step("Triton rows", gpu("--by", "triton", seconds=70, stand_in=stand_in), 82, alone=True)
    yield Step("copies after", gpu("--by", "copies", "--round", "2", seconds=35, stand_in=stand_in), 45, alone=True)
    yield sanitizer("racecheck", stand_in, "--shared")  # what nothing but a card can show, so before what the host's sanitizers have seen
    yield sanitizer("memcheck", stand_in)
    sections = "SpeedOfLight", "Occupancy", "WarpStateStats", "MemoryWorkloadAnalysis"
    profile = [tool("ncu"), "--csv", "--clock-control", "none", *(word for section in sections for word in ("--section", section))]
    profile += ["-k", "regex:multistep_(fwd|bwd|few)_kernel|elementwise_(fwd|bwd)|rows_kernel", "--launch-count", "9"]
    profile += [sys.executable, "bench/gpu.py", "--by", "four"]
    yield Step("ncu", None if stand_in or not profile[0] else profile, 50, "ncu.csv")


def second(stand_in):
    """`make gpu-second`: 4 minutes at most. The machine may be another one by now, so the library comes first."""
    yield Step("library", [sys.executable, __file__, "--library", *(["--stand-in"] if stand_in else [])], 120)
    size = ["--batch", "1", "--T", "2", "--width", "0.125"] if stand_in else ["--device", "cuda", "--batch", "200", "--T", "1024"]
    network = [sys.executable, "bench/networks.py", "--arch", "vgg16", "--ways", "snnfast", "--rounds", "1", *size]
    yield Step("VGG-16, T = 1024, 200 images", network, 60)
    if not stand_in:
        yield Step("VGG-16, TF32", [*network, "--dtype", "tf32"], 40)
    few = "test_cos_triton" if stand_in else "cos_triton or qcfs_triton"
    yield Step("Triton equality, activations", pytest("tests/engines/test_backends.py", "-k", few, workers=14), 40, "tests.log", alone=True)
    yield Step("CUDA rows, round 3", gpu("--by", "cuda", "--round", "3", seconds=58, stand_in=stand_in), 70)
    if not stand_in:  # interpreted in tests/engines/test_backends.py; on an H100 machine of 16 cores Triton had compiled 59 of 96 in 60 s
        neurons = pytest("tests/engines/test_backends.py", "-k", "test_triton", workers=14)
        yield Step("Triton equality, neurons", neurons, 110, "tests.log", alone=True)


def third(stand_in):
    """`make gpu-third`: 2 minutes at most. What people use now for the same work."""
    yield Step("library", [sys.executable, __file__, "--library", *(["--stand-in"] if stand_in else [])], 120)
    yield Step("products of others", gpu("--by", "products", seconds=50, stand_in=stand_in), 60)
    yield Step("peers", gpu("--by", "peers", seconds=70, stand_in=stand_in), 80, alone=True)


PLANS = {"gpu": (first, 420), "gpu-second": (second, 240), "gpu-third": (third, 120)}


# ---- the library


def sources():
    """What the compiled libraries are made of, as one number: a kit of other sources is not used."""
    import hashlib

    files = sorted(p for folder in ("csrc", "tests/cuda_on_host") for p in (ROOT / folder).rglob("*") if p.is_file())
    digest = hashlib.sha256()
    for path in (*files, ROOT / "CMakeLists.txt"):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def place(kit, package):
    """The libraries of a kit in the place of those that a package has: _C and _CUDA, both or one."""
    for old in package.glob("_C*.so"):
        old.unlink()
    for new in kit.glob("_C*.so"):
        shutil.copy2(new, package / new.name)


def library(stand_in):
    """Puts the libraries into the package: those that travelled with the checkout if they are of its sources and load, else built here."""
    probe = "from snnfast.engines import backends; from snnfast.ops import info; print(info.info()['cuda'])"
    probe += "" if stand_in else "; assert backends.provider == 'cuda'"
    loads = lambda: subprocess.run([sys.executable, "-c", probe], cwd=ROOT).returncode == 0  # noqa: E731
    if not (KIT / "kit.json").exists():
        print("no kit came along: build/gpu-kit is not there", flush=True)
    elif json.loads((KIT / "kit.json").read_text())["sources"] != sources():
        print("the kit is of other sources", flush=True)
    elif stand_in:
        print(f"the kit: {(KIT / 'kit.json').read_text()}", flush=True)
        return 0 if loads() else 1
    else:
        place(KIT, ROOT / "snnfast")
        if loads():
            print(f"the kit serves: {(KIT / 'kit.json').read_text()}", flush=True)
            return 0
        print("the kit does not load", flush=True)
    if stand_in:
        return 0 if loads() else 1
    import torch

    arch = "".join(map(str, torch.cuda.get_device_capability()))
    env = dict(os.environ, SNNFAST_CUDA="1", SNNFAST_CUDA_ARCHS=arch)
    built = subprocess.run([sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"], cwd=ROOT, env=env).returncode
    return built or (0 if loads() else 1)


def kit(build):
    """`make gpu-kit`: the libraries that a build folder holds, and what they were made of."""
    KIT.mkdir(parents=True, exist_ok=True)
    for old in KIT.iterdir():
        old.unlink()
    for path in (ROOT / "snnfast/_C.abi3.so", Path(build) / "kit/_CUDA.abi3.so"):
        shutil.copy2(path, KIT / path.name)
        subprocess.run(["strip", "--strip-unneeded", KIT / path.name], check=True)
    import torch

    from snnfast.reports.machine import commit

    (KIT / "kit.json").write_text(json.dumps(dict(commit=commit(), torch=torch.__version__, sources=sources())) + "\n")
    size = sum(path.stat().st_size for path in KIT.iterdir())
    print(f"build/gpu-kit: {size / 1e6:.1f} MB")
    return 0 if size <= 25e6 else print("it may have 25 MB at most") or 1


# ---- the steps


def say(folder, **what):
    """A line of steps.jsonl, on the disk before the next thing happens."""
    with open(folder / "steps.jsonl", "a") as file:
        file.write(json.dumps(what) + "\n")
        file.flush()
        os.fsync(file.fileno())


def run(step, seconds, folder):
    """(how it ended, its output's last lines): output goes line by line to the log, to the step's file and to the terminal."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])  # packages may have travelled too
    env = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "BENCH_RESULTS": str(folder), **step.env}
    with contextlib.ExitStack() as stack:
        names = ["gpu.log", *([step.file] if step.file else [])]
        files = [stack.enter_context(open(folder / name, "a", buffering=1)) for name in names]
        head = f"\n$ {' '.join(map(str, step.command))}\n"
        files[0].write(head)
        print(head, end="", flush=True)
        process = subprocess.Popen(
            step.command, cwd=ROOT, env=env, text=True, errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        last = []

        def read():
            for text in process.stdout:
                last.append(text)
                del last[:-40]
                print(text, end="", flush=True)
                for file in files:
                    file.write(text)

        # Read beside: what hangs in a driver may keep the pipe open after its end.
        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            reader.join(max(1, seconds))
            late = reader.is_alive()
        finally:
            if reader.is_alive():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                reader.join(3)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
    if late or process.returncode is None:
        return "out of time", last
    status = process.returncode
    if status and any(word in text for text in last for word in REFUSED):
        return "not done: this machine refuses the tool", last
    return "ok" if status == 0 else f"FAILED (exit status {status})", last


def follow(name, steps, limit, folder):
    """Runs the steps; each gets its own limit, or what is left of the whole."""
    folder.mkdir(parents=True, exist_ok=True)
    began, good, served = time.monotonic(), True, True
    for step in steps:
        left = limit - (time.monotonic() - began)
        at, what = time.monotonic(), dict(run=name, step=step.name)
        if step.command is None:
            say(folder, **what, result="not done: no such tool here", seconds=0)
            continue
        if left < 5 or not (served or step.alone):
            say(folder, **what, result="not begun: " + ("out of time" if left < 5 else "the library is not in place"), seconds=0)
            continue
        say(folder, **what, begun=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
        try:
            result, _ = run(step, min(step.limit, left), folder)
        except OSError as error:
            result = f"FAILED ({error})"
        served &= step.name != "library" or result == "ok"
        good &= result == "ok" or result.startswith("not done")
        say(folder, **what, result=result, seconds=round(time.monotonic() - at, 1))
    print(of_a_run(folder))
    return 0 if good else 1


def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("plan", nargs="?", choices=PLANS, default="gpu")
    p.add_argument("--stand-in", action="store_true", help="without a GPU: rehearse the same steps")
    p.add_argument("--library", action="store_true", help="only put the compiled libraries into place")
    p.add_argument("--kit", metavar="BUILD", help="only gather what travels, from this build folder")
    p.add_argument("--table", type=Path, metavar="FOLDER", help="only print the table of these results")
    args = p.parse_args(argv)
    if args.table:
        print(of_a_run(args.table))
        return 0
    if args.kit:
        return kit(args.kit)
    if args.library:
        return library(args.stand_in)
    if not args.stand_in:
        import torch

        if not torch.cuda.is_available():
            print("make gpu: no CUDA device is visible to this Python's torch", file=sys.stderr)
            return 2
    steps, limit = PLANS[args.plan]
    long = patience(args.stand_in)
    longer = (dataclasses.replace(step, limit=step.limit * long) for step in steps(args.stand_in))
    return follow(args.plan, longer, limit * long, results())


if __name__ == "__main__":
    raise SystemExit(main())

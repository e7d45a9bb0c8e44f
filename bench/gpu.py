"""Speed of the ops on a GPU, as shares of what a copy moves per second beside them: `make gpu` runs it in steps, or `python bench/gpu.py --by cuda`.

--by      copies: three kinds of copy; cuda, triton: the kernels of that provider; peers: what people use now; products: convolutions over
          spikes; four: four kernels, for a profiler
--round   written into the rows: rounds of one day are compared
--stand-in   no GPU: CUDA kernels compiled for the host, Triton interpreted, small sizes. It rehearses; its rows say so and are no figures.

Each row proves its result against the reference on a slice first. Then runs of it are captured in a CUDA graph and replayed between replays of a
copy's: `warm` on the same tensors again and again, which a cache may hold, `cold` on one set of tensors after the other, together more than four
times the L2. Bytes are those that must move. A row that fails, or takes the process with it, is told and left behind: the rows after it are measured
in a new process.
"""

import argparse
import contextlib
import functools
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

if "--stand-in" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported

import stored
import torch
from gpu_rows import NAMES, rows

PATIENCE, STARTING = 45, 60  # seconds that a row may take before its process is ended; that a process may take before its first


def sets_for(row, cold):
    """How many sets of tensors are needed for one after the other to be cold."""
    if not cold:
        return 1
    l2 = torch.cuda.get_device_properties(0).L2_cache_size if torch.cuda.is_available() else 512
    return max(1, min(16, -(-4 * l2 // int(row.bytes))))


class Timed:
    """Runs of some functions, one after the other, as often as fills about 4 ms; microseconds of one run by call."""

    def __init__(self, runs, graph, stand_in):
        self.runs, self.stand_in, self.graph, self.many = runs, stand_in, None, 1
        self.turn()
        if stand_in:
            return
        self.turn()
        us = self()
        self.many = max(1, round(4000 / us / len(runs)))
        if graph:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self.turn()
            torch.cuda.current_stream().wait_stream(stream)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.turn()
        self()

    def turn(self):
        for _ in range(self.many):
            for run in self.runs:
                run()

    def __call__(self):
        go = self.graph.replay if self.graph else self.turn
        if self.stand_in:
            began = time.perf_counter()
            go()
            return 1e6 * (time.perf_counter() - began) / len(self.runs)
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        first.record()
        go()
        last.record()
        torch.cuda.synchronize()
        return 1e3 * first.elapsed_time(last) / self.many / len(self.runs)


def measured(row, cold, copy, rounds, stand_in):
    """The record of one row: it and the copy take turns."""
    made = [row.make() for _ in range(sets_for(row, cold))]
    for _, check in made[:1]:
        assert check(), "WRONG RESULT, not timed"
    timed = Timed([run for run, _ in made], row.graph, stand_in)
    took, beside = [], []
    for _ in range(rounds):
        beside.append(copy())
        took.append(timed())
    us, copy_us = statistics.median(took), statistics.median(beside)
    speed, moved = row.bytes / us / 1e3, copy.bytes / copy_us / 1e3
    return dict(us=us, us_least=min(took), us_most=max(took), bytes=row.bytes, gb_per_s=speed, copy_gb_per_s=moved, share=speed / moved,
                sets=len(made)) | ({"tflops": row.flops / us / 1e6} if row.flops else {})  # fmt: skip


def described(row):
    return dict(op=row.name, provider=row.provider, shape=list(row.shape), dtype=NAMES[row.dtype], goal=row.goal)


def facts(stand_in):
    found = stored.facts("cpu" if stand_in else "cuda") | (dict(gpu="stand-in", stand_in=True) if stand_in else {})
    kit = Path(__file__).parents[1] / "build/gpu-kit/kit.json"
    if found["commit"] is None and kit.exists():  # no git there: what travelled knows
        found["commit"] = json.loads(kit.read_text())["commit"]
    with contextlib.suppress(ImportError):
        found["triton"] = __import__("triton").__version__
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        found["driver"] = subprocess.run(ask, capture_output=True, text=True, timeout=5).stdout.strip()
    return found


def line(record):
    goal = "" if record["goal"] is None else f"{record['goal']:.2f}"
    how = f"{record['us']:.1f} | {record['gb_per_s']:.0f} | {record['share']:.2f}" if "us" in record else f"{record['failed']} | |"
    heat = "cold" if record["cold"] else "warm"
    return f"| {record['op']} | {record['provider']} | {record['shape']} | {record['dtype']} | {heat} | {how} | {goal} |"


def child(args):
    """Measures rows from --first on in this process; says on the standard output which row it begins, and each result."""
    stand_in, device = args.stand_in, "cpu" if args.stand_in else "cuda"
    about, todo = facts(stand_in), plan(args)
    x = torch.randn(64, (1 << 10) if stand_in else 1 << 20, device=device)
    y = torch.empty_like(x)
    copy = Timed([functools.partial(y.copy_, x)], True, stand_in)
    copy.bytes = 2 * x.nbytes
    for i in range(args.first, len(todo)):
        row, cold = todo[i]
        record = described(row) | dict(by=args.by, cold=cold, round=args.round)
        print("begun " + json.dumps([i, about, record]), flush=True)
        try:
            record |= measured(row, cold, copy, 1 if stand_in else 7, stand_in)
        except (torch.AcceleratorError, SystemError):
            raise  # the device does not answer this process any more
        except Exception as error:
            record |= dict(failed=f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:200])
        stored.append("gpu", about | dict(time=stored.now()), [record])
        print(line(record), flush=True)
        if device == "cuda":
            torch.cuda.empty_cache()


def plan(args):
    """(row, cold) of each measurement: everything cold; warm too, where that is not the same."""
    found = rows(args.by, "cpu" if args.stand_in else "cuda", args.stand_in)
    small = [row for row in found if row.graph and sets_for(row, True) > 1]
    return [(row, True) for row in found] + [(row, False) for row in small]


def watch(args):
    """Runs children until all rows are measured or told as failed. Returns how many failed."""
    first, failed, until = 0, 0, time.monotonic() + args.seconds
    print("| op | by | shape | dtype | | us | GB/s | share of a copy | goal |\n|---|---|---|---|---|---|---|---|---|", flush=True)
    for _ in range(6):
        command = [sys.executable, __file__, *sys.argv[1:], "--first", str(first)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        begun, last, heard = None, "", [time.monotonic() + STARTING]

        def end_when_late(process=process, heard=heard):
            while process.poll() is None:
                if time.monotonic() > min(until, heard[0] + PATIENCE):
                    process.kill()
                time.sleep(0.2)

        threading.Thread(target=end_when_late, daemon=True).start()
        for text in process.stdout:
            heard[0] = time.monotonic()
            if text.startswith("begun "):
                begun = json.loads(text.removeprefix("begun "))
                continue
            failed += text.startswith("|") and "Error: " in text
            last = text.strip() or last
            print(text, end="", flush=True)
        if process.wait() == 0:
            return failed
        if time.monotonic() > until:
            print("(out of time: the rows that follow were not measured)", flush=True)
            return failed
        failed += 1
        if begun is None:
            print(f"no row was begun: {last}", flush=True)
            return failed
        why = f"no answer within {PATIENCE} s" if time.monotonic() > heard[0] + PATIENCE else f"took its process with it: {last}"
        number, about, record = begun
        record["failed"] = why[:200]
        stored.append("gpu", about | dict(time=stored.now()), [record])
        print(line(record), flush=True)
        first = number + 1
    return failed


def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument(
        "--by", choices=("copies", "cuda", "triton", "peers", "products", "four"), default="cuda", help="whose rows (default cuda)"
    )
    p.add_argument("--round", type=int, default=1, help="written into the rows (default 1)")
    p.add_argument("--seconds", type=float, default=120, help="stop after this long (default 120)")
    p.add_argument("--stand-in", action="store_true", help="without a GPU: rehearse, on small sizes")
    p.add_argument("--first", type=int, help=argparse.SUPPRESS)
    args = p.parse_args(argv)
    if not args.stand_in and not torch.cuda.is_available():
        p.error("no CUDA device is visible to torch")
    if args.by == "four":
        for row in rows("four", "cpu" if args.stand_in else "cuda", args.stand_in):
            run, _ = row.make()
            run()
        return 0
    if args.first is not None:
        return child(args)
    return 1 if watch(args) else 0


if __name__ == "__main__":
    raise SystemExit(main())

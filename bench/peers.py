"""The same work by what people use now: `make peers` makes an environment for it, then runs it; or `python bench/peers.py` where they are installed.

work           a neuron over T steps of N inputs in fp32, T and N as small, long and large jobs have them, on two threads or on the GPU
authors' loop  what the method's users run, written from its definition (`others.py`)
torch.compile  that loop compiled; the time it took to compile stands apart
SpikingJelly   2.0.0: its IFNode, LIFNode, ActivationAwareIFNode and the functions below them; the fastest of those that do the row. On a GPU each of
               its implementations (native, Triton, torch), which it takes from the environment, in a process of its own
snnTorch, norse   their neuron, step by step, as their manuals have it

Everybody's spikes, and gradients where there are some, are compared with ours before they are timed. All take turns, two calls each, of which the
second is timed; medians are told. Results are allocated, on the CPU from a heap that keeps its pages (`stored.keep_pages`): the
price of fresh ones depends on what ran before. Who cannot do a row says so.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"  # before torch: what is compiled is compiled here

import stored
import tables
import torch
from others import WORKS, Cannot, trained
from stored import keep_pages

SHAPES = ((4, 1 << 18), (64, 1 << 12), (64, 1 << 18), (1024, 1 << 12))
ROUNDS, SECONDS = 9, 2.0  # seconds for the rounds of one runner
JELLY = "cuda", "triton", "torch"  # what SpikingJelly calls its implementations on a GPU
JELLY_VARIABLES = [f"SJ_{op}_CUDA_IMPLEMENTATION" for op in ("IF", "LIF", "STBIF", "ACTIVATION_AWARE_IF")]


def both(f):
    """x -> (results, gradient of x) of their sum."""
    ones = []

    def run(x):
        if not ones:
            ones.append(torch.ones_like(x))
        leaf = x.detach().requires_grad_()
        y = f(leaf)
        y.backward(*ones)
        return y.detach(), leaf.grad

    return run


def forward(f):
    def run(x):
        with torch.no_grad():
            return (f(x),)

    return run


def seconds_of(run, x):
    wait = torch.cuda.synchronize if x.is_cuda else lambda: None
    wait()
    began = time.perf_counter()
    found = run(x)
    wait()
    return time.perf_counter() - began, found


def prepared(kind, build, x, expected):
    """(run, seconds of the first call, share of other spikes), or Cannot. kind: `both` or `forward`."""
    run = kind(build(*x.shape, x.device))
    first, got = seconds_of(run, x)
    other = float((got[0] != expected[0]).float().mean())
    if other > 1e-4:  # another order of operations moves a few of a million
        raise Cannot(f"{100 * other:.3g} % of its spikes are others")
    if len(got) == 2:
        off = (got[1] - expected[1]).abs() > 1e-2 * (1 + expected[1].abs())
        # Behind a spike that moved, gradients are others too.
        if (share := float(off.float().mean())) > 1e-3:
            raise Cannot(f"{100 * share:.3g} % of its gradients are others")
    return run, first, other


def measured(work, T, N, device="cpu", only=None):
    """Rows of one work: ours, then each peer (or only one)."""
    ours, peers = WORKS[work]
    kind = both if trained(work) else forward
    torch.manual_seed(0)
    x = (torch.randn(T, N) * 0.6 + 0.3).to(device)
    own = kind(ours)
    expected, runs, failed = own(x), {("snnfast", "snnfast"): (own, None, 0.0)}, {}
    for who, ways in peers.items():
        for name, build in ways if only in (None, who) else ():
            try:
                runs[who, name] = prepared(kind, build, x, expected)
            except (Cannot, ImportError, RuntimeError) as why:  # the latter are a package's own: not on this device, not built
                failed[who, name] = str(why).strip().splitlines()[0]
    took = in_turn({key: run for key, (run, _, _) in runs.items()}, x)
    base, rows = statistics.median(took["snnfast", "snnfast"]), []
    for (who, name), times in took.items():
        if who != "snnfast" and any(statistics.median(took[key]) < statistics.median(times) for key in took if key[0] == who):
            continue  # another of its ways is faster
        ratios = sorted(t / b for t, b in zip(times, took["snnfast", "snnfast"]))
        row = dict(work=work, T=T, N=N, who=who, by=name, ms=1e3 * statistics.median(times), ratio=statistics.median(times) / base,
                   p20=ratios[len(ratios) // 5], p80=ratios[-1 - len(ratios) // 5], rounds=len(times), other_spikes=runs[who, name][2])  # fmt: skip
        first = runs[who, name][1]
        rows.append(row | ({"compile_s": first} if who == "torch.compile" else {}))
    for (who, name), why in failed.items():
        if not any(row["who"] == who for row in rows):
            rows.append(dict(work=work, T=T, N=N, who=who, by=name, failed=why))
    return rows


def in_turn(runs, x):
    """Seconds of each, in rounds."""
    took = {key: [] for key in runs}
    for i in range(ROUNDS + 1):
        for key, run in runs.items():
            if sum(took[key]) > SECONDS and len(took[key]) >= 3:
                continue
            run(x)  # so that everybody finds the heap as it left it, and not as the one before did
            seconds, _ = seconds_of(run, x)
            if i:
                took[key].append(seconds)
    return took


def jelly_elsewhere(works, shapes, device):
    """SpikingJelly's rows by each of its GPU implementations: {(work, T, N): rows}."""
    found = {}
    for name in JELLY:
        environment = {**os.environ, **dict.fromkeys(JELLY_VARIABLES, name)}
        rows = stored.child(__file__, device=device, only="SpikingJelly", shapes=shapes, work=works, environment=environment)
        for row in [dict(failed=rows["failed"])] if "failed" in rows else rows["rows"]:
            if row.get("who") == "SpikingJelly":
                found.setdefault((row["work"], row["T"], row["N"]), []).append(row | dict(by=f"{row['by']}, {name}"))
            elif "failed" in row:
                print(f"SpikingJelly by {name}: {row['failed']}")
    return found


def fastest(rows):
    """Of rows of one peer, the fastest; where none does the work, the first."""
    return min(rows, key=lambda row: row.get("ratio", float("inf")))


def rows_of(args):
    device, rows = args.device, []
    shapes = SHAPES[: args.shapes]
    elsewhere = jelly_elsewhere(args.work, args.shapes, device) if device == "cuda" and args.only is None else {}
    for work in args.work:
        for T, N in shapes:
            found = measured(work, T, N, device, args.only)
            more = elsewhere.get((work, T, N), [])
            jelly = [row for row in found if row["who"] == "SpikingJelly"] + more
            rows += [row for row in found if row["who"] != "SpikingJelly"] + ([fastest(jelly)] if jelly else [])
    return rows


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument(
        "--work", nargs="+", default=list(WORKS), choices=list(WORKS), metavar="WORK", help="one or more of: " + "; ".join(WORKS)
    )
    p.add_argument("--shapes", type=stored.positive, default=len(SHAPES), help="only the first ones")
    p.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    p.add_argument("--results", type=Path, default=stored.RESULTS)
    p.add_argument("--only", help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        p.error("no CUDA device is visible to torch")
    torch.set_num_threads(2)
    if args.device == "cpu":
        keep_pages()
    rows = rows_of(args)
    if args.only:
        return print(json.dumps(dict(rows=rows)))
    stored.append("peers", stored.facts(args.device) | dict(peers=versions()), rows, args.results)
    print("Milliseconds of snnfast; of the others, how many times that\n\n" + tables.peers(rows) + "\n" + tables.reasons(rows))


def versions():
    from importlib import metadata

    found = {}
    for name in ("spikingjelly", "snntorch", "norse"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


if __name__ == "__main__":
    main()

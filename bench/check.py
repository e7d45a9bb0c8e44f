"""Is anything slower than it was? `make bench-check`: ratio rows of this machine against the last stored ones.

Rows of `ops.py` (fp32, N = 2^18) are measured anew, without being stored. What is slower than the spread of both explains is warned of; past 1.5
times it is measured twice more, and if the best of all is still past it, the check fails. A row is slower by the smaller of two factors, that of its
share of `copy_` and that of its time: where others leave a machine more memory bandwidth, a share falls though nothing got slower.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import stored

KEYS = ("op", "kind", "dtype", "T", "N")
CHOSEN = "-32-262144 and fp32 or -256-262144 and fp32"
WARN, FAIL, AGAIN = 1.15, 1.5, 2


def measured(choice):
    """Rows of `ops.py` that pytest's -k chooses."""
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, Path(__file__).with_name("ops.py"), "-k", choice]
        done = subprocess.run(line, capture_output=True, text=True, env={**os.environ, "BENCH_RESULTS": folder})
        if done.returncode:
            raise SystemExit(f"bench/ops.py failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return stored.last(stored.read("ops", folder=Path(folder)), *KEYS)


def compared(before, now):
    """(factor by which a row is slower, whether the spread of both rows explains it)."""
    return min(before["share"] / now["share"], now["us"] / before["us"]), now["p80"] >= before["p20"]


def judged(before, measure):
    """For each row: (key, its stored row, its new one, factor, word)."""
    best = {key: row for key, row in measure().items() if key in before}
    for _ in range(AGAIN):
        if all(compared(before[key], row)[0] <= FAIL for key, row in best.items()):
            break
        for key, row in measure().items():
            if key in best and compared(before[key], row)[0] < compared(before[key], best[key])[0]:
                best[key] = row
    for key, row in best.items():
        factor, explained = compared(before[key], row)
        word = "FAILED" if factor > FAIL else "slower" if factor > WARN and not explained else "ok"
        yield key, before[key], row, factor, word


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--choose", default=CHOSEN, help="pytest's -k for the rows of ops.py")
    args = p.parse_args()
    name = stored.name_of(stored.facts())
    before = stored.last(stored.read("ops", name), *KEYS)
    if not before:
        print(f"no rows of {name} are stored: run `make bench-ops` first; nothing was compared")
        return 0
    found = list(judged(before, lambda: measured(args.choose)))
    print("| op, output, dtype, T, N | share of copy_, stored (20-80 %) | now | slower by | |\n|---|---|---|---|---|")
    for key, old, new, factor, word in found:
        spread = lambda r: f"{r['share']:.2f} ({r['p20']:.2f}-{r['p80']:.2f})"  # noqa: E731
        print(f"| {', '.join(map(str, key))} | {spread(old)} | {spread(new)} | {factor:.2f} | {word} |")
    if not found:
        raise SystemExit(f"none of the rows that {args.choose!r} chooses is stored: {json.dumps([list(k) for k in list(before)[:3]])} ...")
    warned = sum(word == "slower" for *_, word in found)
    if warned:
        print(f"warning: {warned} of {len(found)} rows are slower than their spread explains")
    return 1 if any(word == "FAILED" for *_, word in found) else 0


if __name__ == "__main__":
    sys.exit(main())

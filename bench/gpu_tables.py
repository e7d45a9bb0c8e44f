"""Tables of what a GPU showed, from stored rows: a run's steps and rows from whatever pieces are there, the goals, predictions, and versions."""

import contextlib
import json

import stored

COLUMNS = "cuda", "triton"


def line(cells):
    return "| " + " | ".join(map(str, cells)) + " |\n"


def table(head, rows):
    return line(head) + "|---" * len(head) + "|\n" + "".join(map(line, rows))


def records(path):
    """The lines of a file that are whole: a run that was cut leaves half of one."""
    for text in path.read_text(errors="replace").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            yield json.loads(text)


def of_a_run(folder):
    """The steps and the rows of bench/make_gpu.py in a folder of results."""
    steps, ended, found = folder / "steps.jsonl", {}, {}
    for r in records(steps) if steps.exists() else ():
        ended[r["run"], r["step"]] = (r["result"], r["seconds"]) if "result" in r else ("cut off", "")
    text = "\n" + table(["run", "step", "result", "s"], [(*key, *value) for key, value in ended.items()])
    for path in sorted(folder.glob("*.jsonl")):
        for r in records(path):
            if r.get("bench") == "gpu":
                heat = "cold" if r["cold"] else "warm"
                found.setdefault((r["gpu"], r["op"], r["provider"], str(r["shape"]), r["dtype"], heat), []).append(r)
    rows = []
    for key, all_rounds in found.items():
        us = ", ".join(f"{r['us']:.1f}" if "us" in r else r["failed"] for r in all_rounds)
        share = ", ".join(f"{r['share']:.2f}" for r in all_rounds if "share" in r)
        rows.append([*key, us, share, all_rounds[-1]["goal"] or ""])
    head = ["GPU", "op", "by", "shape", "dtype", "", "us, round by round", "share of a copy", "goal"]
    return text + ("\n" + table(head, rows) if rows else "")


# ---- the pages


def measured(op, dtype="fp32", by="cuda", cold=True, unit="share"):
    """The last figure of a row on each GPU, or that there is none."""
    last = {}
    for r in stored.read("gpu"):
        if (r["op"], r["dtype"], r["provider"], r["cold"]) == (op, dtype, by, cold) and "us" in r and not r.get("stand_in"):
            last[r["gpu"]] = f"{r['share']:.2f}" if unit == "share" else f"{r['us']:.1f} µs"
    return "; ".join(f"{figure} ({name})" for name, figure in last.items()) or "not measured yet"


ONE_IMAGE = "iaf scaled, one image (goal 15 us)"
BOTH = "iaf forward + backward, zif"
QCFS = "qcfs forward + backward"


def goals():
    """What the kernels are held to on a GPU, as shares of what `copy_` moves beside them."""
    rows = [(f"forward fp32 → `{kind}`", f"iaf {kind}", "fp32", goal) for kind, goal in
            (("scaled", 0.92), ("int8", 0.92), ("bits", 0.95), ("count", 0.95))]  # fmt: skip
    rows += [("forward fp16 → `int8`", "iaf int8", "fp16", 0.88), ("forward + backward, fp32", BOTH, "fp32", 0.85),
             ("forward + backward, bf16", BOTH, "bf16", 0.85), ("`qcfs` forward + backward", QCFS, "fp32", 0.85),
             ("`qcfs`, a threshold per channel", "qcfs, theta per channel forward + backward", "fp32", 0.85)]  # fmt: skip
    cells = [[what, *(measured(op, dtype, by) for by in COLUMNS), f"{goal:.2f}"] for what, op, dtype, goal in rows]
    cells.append(["T = 1024, N = 4,096, from L2", *(measured(ONE_IMAGE, by=by, cold=False, unit="us") for by in COLUMNS), "15 µs"])
    return table(["GPU, share of a copy", "CUDA C++", "Triton", "goal"], cells)


# What was changed for a GPU, and what the machine code says of it (sm_90): before, now, what should follow, and the row that will tell.
PREDICTIONS = (
    ("Triton backward, fp32: loads of `ds` in front of the reverse loop, not behind stores of `dx`", "loads between waits 17, 1 × 16; 64 registers",
     "17, 16; 124 registers", "share 0.6 to 0.76 → 0.85", dict(op=BOTH, by="triton")),
    ("Triton backward, bf16: two neurons to a thread", "2-byte loads, one by one; 66 instructions a step and neuron", "4-byte loads, together; 44",
     "share 0.3 to 0.4 → 0.8", dict(op=BOTH, by="triton", dtype="bf16")),
    ("Triton `qcfs`: one threshold is a constant; 32-bit indices; whole words", "two 64-bit divisions an element; 4-byte loads",
     "no division; 16-byte loads and stores", "share 0.4 to 0.65 → 0.85", dict(op=QCFS, by="triton")),
    ("Triton `qcfs`, a threshold per channel", "the same", "32-bit divisions; 16-byte loads and stores", "share 0.4 → 0.8",
     dict(op="qcfs, theta per channel forward + backward", by="triton")),
    ("CUDA, T = 1024, N = 4,096: the reset is one `fma` whose product is exact, not a selection", "32.9 cycles a step", "25.0 cycles a step",
     "17 to 19 → 14.6 µs at 1.755 GHz, from L2", dict(op=ONE_IMAGE, cold=False, unit="us")),
    ("CUDA backward, bf16: a fourth block", "131 registers", "105", "share + 0.02 to 0.05", dict(op=BOTH, dtype="bf16")),
    ("CUDA fp32 → `int8`: a third block; bytes without conversions", "83 registers, 81 cycles a row of 4", "72, 70", "share 0.90 → 0.92",
     dict(op="iaf int8")),
    ("CUDA fp16 → `int8`: the word from the spikes' top bytes", "107 registers, 142 cycles a row of 8", "96, 114", "share 0.80 → 0.88",
     dict(op="iaf int8", dtype="fp16")),
    ("CUDA, N = 100,352: blocks as small as fill the chip", "98 blocks of 256 on 132 multiprocessors", "392 of 64", "a quarter less time",
     dict(op="iaf scaled, 100,352 neurons")),
)  # fmt: skip


def predictions():
    cells = [[what, before, now, follows, measured(**row)] for what, before, now, follows, row in PREDICTIONS]
    return table(["change", "before", "now", "prediction for an H100", "measured"], cells)


def versions():
    """What each environment of `make test-versions` showed last."""
    last = {(row["python"], row["torch"]): row for row in stored.read("versions")}
    cells = []
    for (python, torch), row in sorted(last.items()):
        failed = [name for name, word in row["checks"].items() if word != "ok"]
        cuda = f"CUDA {row['cuda']}" + (
            ", linked" if any("CUDA linked" in name for name in row["checks"]) else ", not linked: nvcc is of another"
        )
        cells.append([python, torch, cuda, f"{row.get('triton', '–')}, {row.get('kernels', 0)} kernels", ", ".join(sorted(row["loads"])),
                      "; ".join(failed) or "nothing", f"{row['commit']}, {row['time'][:10]}"])  # fmt: skip
    return table(
        ["Python", "torch", "its CUDA", "Triton, compiled for sm_90", "loads libraries built with torch", "failed", "commit, day"], cells
    )


TABLES = {"gpu-goals": goals, "gpu-predictions": predictions, "versions": versions}

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


NOT_YET = "not measured yet"


def newest(op, dtype="fp32", by="cuda", cold=True, since="", until="~"):
    """The last row of an op on each GPU, of those measured between two times."""
    found = {}
    for r in stored.read("gpu"):
        if (
            (r["op"], r["dtype"], r["provider"], r["cold"]) == (op, dtype, by, cold)
            and "us" in r
            and not r.get("stand_in")
            and since < r["time"] < until
        ):
            found[r["gpu"]] = r
    return found


def measured(*row, unit="share", **more):
    """The last figure of a row on each GPU, or that there is none."""
    figures = {name: f"{r['share']:.2f}" if unit == "share" else f"{r['us']:.1f} µs" for name, r in newest(*row, **more).items()}
    return "; ".join(f"{figure} ({name})" for name, figure in figures.items()) or NOT_YET


ONE_IMAGE = "iaf scaled, one image (goal 15 us)"
BOTH = "iaf forward + backward, zif"
QCFS = "qcfs forward + backward"


def goals():
    """What the kernels are held to on a GPU, as shares of what `copy_` moves beside them."""
    rows = [(f"forward fp32 → `{kind}`", f"iaf {kind}", "fp32", goal) for kind, goal in
            (("scaled", 0.92), ("int8", 0.92), ("bits", 0.95), ("count", 0.95))]  # fmt: skip
    rows += [("forward fp16 → `int8`", "iaf int8", "fp16", 0.88), ("forward + backward, fp32", BOTH, "fp32", 0.85),
             ("forward + backward, bf16", BOTH, "bf16", 0.85), ("forward + backward, `atan`", "iaf forward + backward, atan", "fp32", 0.85),
             ("`plif` forward + backward, `atan`", "plif forward + backward, atan", "fp32", 0.85), ("`qcfs` forward + backward", QCFS, "fp32", 0.85),
             ("`qcfs`, a threshold per channel", "qcfs, theta per channel forward + backward", "fp32", 0.85)]  # fmt: skip
    cells = [[what, *(measured(op, dtype, by) for by in COLUMNS), f"{goal:.2f}"] for what, op, dtype, goal in rows]
    cells.append(["T = 1024, N = 4,096, from L2", *(measured(ONE_IMAGE, by=by, cold=False, unit="us") for by in COLUMNS), "15 µs"])
    return table(["GPU, share of a copy", "CUDA C++", "Triton", "goal"], cells)


def summary():
    """The first screen's: the kernels against a copy, and the user's own loop and formula against the kernels, on the GPU where both were measured
    last."""
    every = {name: r["time"] for name, r in newest("loop over time", by="torch.compile").items()}
    gpu = max(every, key=every.get)
    of = lambda *row, **more: newest(*row, **more)[gpu]  # noqa: E731
    kinds = ", ".join(f"{of(f'iaf {kind}')['share']:.2f} (`{kind}`)" for kind in ("scaled", "int8", "bits", "count"))
    loops, formulas = ({how: of(op, by=how)["us"] for how in ("torch.compile", "eager")} for op in ("loop over time", QCFS))
    ours = of("iaf scaled")["us"], of(QCFS)["us"]
    against = lambda took, us: ", ".join(f"{t / us:.1f} ({how})" for how, t in took.items())  # noqa: E731
    return table(["", f"an {gpu}, T = 64, N = 2^20, fp32"], [
        ["`iaf`, bandwidth relative to `copy_`", kinds],
        ["`iaf` forward + backward; `qcfs` forward + backward", f"{of(BOTH)['share']:.2f}; {of(QCFS)['share']:.2f}"],
        ["the user's loop over time takes so many times as long", against(loops, ours[0])],
        ["the user's `qcfs` formula, forward + backward", against(formulas, ours[1])],
    ])  # fmt: skip


def products():
    """A convolution over spikes and the neuron behind it, by what torch has for it, on each GPU."""
    last = {}
    for r in stored.read("gpu"):
        if "tflops" in r and r["cold"] and not r.get("stand_in"):
            last[r["gpu"], r["op"]] = r
    cells = []
    for gpu, op in last:
        if not op.endswith("+ iaf"):
            alone, both = last[gpu, op], last[gpu, f"{op} + iaf"]
            cells.append([op, str(alone["shape"]), *(f"{r['us']:.0f} µs, {r['tflops']:.0f} TFLOP/s" for r in (alone, both)), gpu])
    return table(["convolution", "input", "alone", "with `iaf` behind it", "GPU"], cells)


def networks():
    """Whole networks on each GPU."""
    last = {}
    for r in stored.read("large-T"):
        if "gpu" in r and "seconds" in r and r["gpu"] != "stand-in":
            last[r["gpu"], r["arch"], r["T"], r["batch"], "exact" if r.get("products") == "exact" else r.get("dtype", "fp32"), r["way"],
                 r["kernels"].split(",")[0]] = r  # fmt: skip
    cells = [
        [arch, T, batch, dtype, way, kernels, f"{r['images_per_second']:.1f}", f"{r['peak'] / (1 << 30):.2f} GiB", gpu]
        for (gpu, arch, T, batch, dtype, way, kernels), r in last.items()
    ]
    return table(["network", "T", "images at once", "products in", "way", "neurons by", "images/s", "peak", "GPU"], cells)


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
     "17 to 19 → 14.6 µs at 1.755 GHz, from L2", dict(op=ONE_IMAGE, cold=False, unit="us", until="2026-11-26T16")),
    ("CUDA backward, bf16: a fourth block", "131 registers", "105", "share + 0.02 to 0.05", dict(op=BOTH, dtype="bf16")),
    ("CUDA fp32 → `int8`: a third block; bytes without conversions", "83 registers, 81 cycles a row of 4", "72, 70", "share 0.90 → 0.92",
     dict(op="iaf int8")),
    ("CUDA fp16 → `int8`: the word from the spikes' top bytes", "107 registers, 142 cycles a row of 8", "96, 114", "share 0.80 → 0.88",
     dict(op="iaf int8", dtype="fp16")),
    ("CUDA, N = 100,352: blocks as small as fill the chip", "98 blocks of 256 on 132 multiprocessors", "392 of 64", "a quarter less time",
     dict(op="iaf scaled, 100,352 neurons")),
    ("CUDA, T = 1024, N = 4,096: one warp computes, from shared memory to shared memory; three bring x and take the spikes away",
     "16.8 instructions and 49 cycles a step; 28.2 µs on an H100", "9 instructions, 14.5 cycles", "12.5 µs, from L2",
     dict(op=ONE_IMAGE, cold=False, unit="us", since="2026-11-26T16")),
    ("CUDA, training with another surrogate (`atan`): the rule is known when compiling", "13,096 instructions, 209 KB; share 0.68 on an H100",
     "3,072 instructions", "share 0.68 → 0.87", dict(op="iaf forward + backward, atan")),
    ("CUDA `plif`, `atan`: the same", "7,952 instructions; 0.79 on an H100", "4,760 instructions", "share 0.79 → 0.87",
     dict(op="plif forward + backward, atan")),
    ("Triton, T = 1024, N = 4,096: rows of the next turns on their way to shared memory", "one turn at a time; 53.7 µs on an H100",
     "8 rows a turn, 4 turns", "25 µs, from L2", dict(op=ONE_IMAGE, by="triton", cold=False, unit="us", since="2026-11-26T16")),
    ("CUDA `qcfs`: the quotient by the levels is two `fma` behind a product, not a division whose slow path half of the elements took",
     "0.79 of a copy on an H100; of 32 threads 22.9 active", "no division but x / theta", "share 0.79 → 0.90", dict(op=QCFS, since="2026-11-26T14")),
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


TABLES = {
    "gpu-summary": summary, "gpu-products": products, "gpu-networks": networks, "gpu-goals": goals, "gpu-predictions": predictions,
    "versions": versions,
}  # fmt: skip

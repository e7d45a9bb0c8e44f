"""The tables of the READMEs, from stored rows alone: `make figures` writes them, and a test holds the READMEs to them.

A table stands between `<!-- rows: name -->` and `<!-- end -->`; `TABLES` has a function for each name. Numbers are of the last row of each kind.
"""

import argparse
import re
import statistics
from pathlib import Path

import gallery
import gpu_tables
import stored
import zoo
from gpu_tables import table

from snnfast.system.memory import told

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", *(f"docs/{name}.md" for name in ("ops", "networks", "evaluation", "install", "zoo", "gallery")), "bench/README.md",
         "bench/gpu-predictions.md")  # fmt: skip
MARKED = re.compile(r"(<!-- rows: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
AVX512, AVX2 = "amd-epyc-family-26-model-2-x86-64-v4", "amd-epyc-x86-64-v3"


def last(bench, *keys, machine=AVX512, **only):
    """The last row for each value of the keys, or for the one key; `only`: of rows that have these values."""
    rows = [row for row in stored.read(bench, machine) if all(row.get(k) == v for k, v in only.items())]
    found = stored.last(rows, *keys)
    return {key[0]: row for key, row in found.items()} if len(keys) == 1 else found


# ---- the first screen


def summary():
    """Against the limit, against others, and the memory at T = 1024."""
    ops = last("ops", "op", "kind", dtype="fp32", T=256, N=1 << 18)
    kinds = ", ".join(f"{ops['iaf', kind]['share']:.2f} (`{kind}`)" for kind in ("scaled", "int8", "bits", "count"))
    peers, best = last("peers", "work", "who", T=64, N=1 << 18), []
    for work in dict.fromkeys(work for work, _ in peers):
        others = [(row["ratio"], who) for (w, who), row in peers.items() if w == work and who != "snnfast" and "ratio" in row]
        if "ratio" in peers[work, "torch.compile"]:  # works that everybody's loop does
            best.append(f"{min(others)[0]:.1f} ({work}; {min(others)[1]})")
    networks = last("large-T", "arch", "way", batch=4, width=1.0, T=1024)
    own, authors = (networks["resnet18", way] for way in ("snnfast", "authors"))
    return table(["", "two cores with AVX-512"], [
        ["`iaf`, bandwidth relative to `copy_`, the limit of memory (fp32, T = 256, N = 2^18)", kinds],
        ["times as fast as the fastest of the others for the same spikes (fp32, T = 64, N = 2^18)", ", ".join(best)],
        ["ResNet-18 at T = 1024, four images: against the fastest other way to run it", f"{own['ratio']:.2f} times as fast"],
        ["its memory; that of the authors' way", f"{told(own['peak'])}; {told(authors['peak'])}"],
    ])  # fmt: skip


# ---- the ops


def speed():
    """Two columns of rows: forward on the left, the rest on the right."""
    here, there = (last("goals", "op", machine=m) for m in (AVX512, AVX2))

    def cells(name, op):
        return [name, f"{here[op]['ratio']:.2f} ({here[op]['ms']:.2f} ms)", f"{there[op]['ratio']:.2f}"]

    left = [
        ("`scaled`", "iaf scaled, one theta"), ("`int8`", "iaf int8, one theta"), ("`bits`", "iaf bits, one theta"),
        ("`count`", "iaf count, one theta"), ("`count`, constant input", "iaf count, constant input"),
        ("`scaled`, result allocated", "iaf scaled, result allocated"), ("the user's loop, eager", "loop, eager"),
        ("the user's loop, `torch.compile`", "loop, torch.compile"),
    ]  # fmt: skip
    right = [
        ("`iaf`, pages kept", "iaf forward + backward, pages kept"), ("`iaf`, results allocated", "iaf forward + backward"),
        ("the user's loop, eager", "loop forward + backward, eager"), ("`qcfs`, pages kept", "qcfs forward + backward, pages kept"),
        ("the formula under `torch.compile`, pages kept", "qcfs torch.compile forward + backward, pages kept"),
        ("`cs_qcfs`, pages kept", "cs_qcfs forward + backward, pages kept"),
        ("the formula under `torch.compile`, pages kept", "cs_qcfs torch.compile forward + backward, pages kept"),
        ("`qcfs`, eager formula, results allocated", "qcfs forward + backward, eager"),
    ]  # fmt: skip
    head = ["forward, into a given `out`", "AVX-512", "AVX2", "forward + backward", "AVX-512", "AVX2"]
    return table(head, [cells(*a) + cells(*b) for a, b in zip(left, right)])


def goals():
    """Ratios to a copy, and of what allocates its results to the compiled formula."""
    here, there = (last("goals", "op", machine=m) for m in (AVX512, AVX2))
    told_goal = lambda row: f"{row['ratio']:.2f}, {'met' if row['ratio'] <= row['goal'] else 'missed'}"  # noqa: E731
    rows = [[op, f"{row['goal']:.2f}", told_goal(row), told_goal(there[op])] for op, row in here.items() if row["goal"] is not None]
    for name in ("qcfs", "cs_qcfs"):
        pairs = ((f"{name} forward + backward, pages kept", f"{name} torch.compile forward + backward, pages kept"),
                 (f"{name} forward + backward, snnfast", f"{name} forward + backward, torch.compile"))  # fmt: skip
        for ours, theirs in pairs:
            found = [
                f"{f[ours]['ratio']:.2f} against {f[theirs]['ratio']:.2f}, {'met' if f[ours]['ratio'] < f[theirs]['ratio'] else 'missed'}"
                for f in (here, there)
            ]
            what = "pages kept" if "pages kept" in ours else "results allocated"
            rows.append([f"{name} against torch.compile, forward + backward, {what}", "faster", *found])
    copies = [sorted(row["copy_ms"] for row in f.values()) for f in (here, there)]
    rows.append(["`copy_` beside the rows", "", *(f"{c[0]:.1f} to {c[-1]:.1f} ms" for c in copies)])
    return table(["row", "goal", "AVX-512", "AVX2"], rows)


STEPS, SIZES = (1, 4, 32, 256, 1024), (1 << 12, 1 << 18)


def ops(rows=None, dtypes=("fp32", "bf16", "fp16", "fp64")):
    """rows: of one run; default: the last of all."""
    found = last("ops", "op", "kind", "dtype", "T", "N") if rows is None else stored.last(rows, "op", "kind", "dtype", "T", "N")
    columns = [(T, N) for N in SIZES for T in STEPS]
    rows = []
    for key in dict.fromkeys(key[:3] for key in found if key[0] not in ("qcfs", "cs_qcfs") and key[2] in dtypes):
        rows.append([", ".join(key), *(_share(found.get((*key, T, N))) for T, N in columns)])
    return table(["op, output, dtype", *(f"{'small' if N == SIZES[0] else 'large'} N, T = {T}" for T, N in columns)], rows)


def ops_fp32():
    return ops(dtypes=("fp32",))


def ops_others():
    return ops(dtypes=("bf16", "fp16", "fp64"))


def _share(row):
    return "" if row is None else f"{row['share']:.2f}"


def activations(rows=None):
    found = last("ops", "op", "kind", "dtype", "N", T=1) if rows is None else stored.last(rows, "op", "kind", "dtype", "N")
    names = dict.fromkeys(key[:3] for key in found if key[0] in ("qcfs", "cs_qcfs"))
    rows = [[", ".join(key), *(_share(found.get((*key, N))) for N in (1 << 14, 1 << 22))] for key in names]
    return table(["activation, dtype", "2^14 elements", "2^22"], rows)


WHOS = ("snnfast", "authors' loop", "torch.compile", "SpikingJelly", "snnTorch", "norse")


def peers(rows=None):
    """rows: of one run; default: the last of all."""
    found = last("peers", "work", "T", "N", "who") if rows is None else stored.last(rows, "work", "T", "N", "who")
    whos = [who for who in WHOS if any(key[-1] == who for key in found)]
    cell = lambda row: _peer(row) if row else ""  # noqa: E731
    works = dict.fromkeys(key[:3] for key in found)
    return table(["work, T, N", *whos], [[", ".join(map(str, key)), *(cell(found.get((*key, who))) for who in whos)] for key in works])


def _peer(row):
    if "failed" in row:
        return "–"
    if row["who"] == "snnfast":
        return f"{row['ms']:.3g} ms"
    return f"{row['ratio']:.2f}" + (f" (compiled in {row['compile_s']:.0f} s)" if "compile_s" in row else "")


def reasons(rows=None):
    found = rows or last("peers", "work", "T", "N", "who").values()
    why = {}
    for row in found:
        if "failed" in row:
            why.setdefault((row["who"], re.sub(r"^[\d.e+-]+ %", "some", row["failed"])), {})[row["work"]] = None
    return table(["who", "why", "work"], [[who, reason, ", ".join(works)] for (who, reason), works in why.items()])


CURVES = ["what, along", "time", "slope", "memory on top"]


def curve(rows):
    """The cells of one curve, from the rows of its points."""
    first = rows[0]
    points = ", ".join(f"{row['at']}: {row.get('failed') or _time(row['seconds'])}" for row in rows)
    rises = ", ".join(told(row["rise"]) for row in rows if "rise" in row)
    name = first["curve"] if first["along"] == "what" else f"{first['curve']}, {first['along']}"
    return [name, points, f"{first['slope']:.2f}" if "slope" in first else "", rises]


def scaling():
    found = last("scaling", "curve", "along", "at")
    names = dict.fromkeys(key[:2] for key in found)
    return table(CURVES, [curve([row for key, row in found.items() if key[:2] == name]) for name in names])


def _time(seconds):
    return f"{seconds:.3g} s" if seconds >= 0.1 else f"{1e3 * seconds:.3g} ms" if seconds >= 1e-4 else f"{1e6 * seconds:.3g} µs"


def split(rows=None):
    """rows: of one run; default: the last of all."""
    found = last("split", "arch", "layer", batch=4, width=1.0, T=32) if rows is None else stored.last(rows, "arch", "layer")
    rows = []
    for arch in dict.fromkeys(arch for arch, _ in found):
        layers = [row for (a, _), row in found.items() if a == arch]
        whole = sum(row["seconds"] for row in layers)
        for kind in ("product", "neuron", "other", "all"):
            own = [row for row in layers if kind in (row["kind"], "all")]
            seconds, *floors = (sum(row[part] for row in own) for part in ("seconds", "arithmetic_s", "memory_s"))
            floor = sum(max(row["arithmetic_s"], row["memory_s"]) for row in own)
            times = f"{seconds / floor:.1f}" if floor else ""
            rows.append([f"{arch}, {kind}", f"{100 * seconds / whole:.0f} %", *map(_time, (seconds, *floors)), times])
    steps = next(iter(found.values()))["T"]
    return table(["network, kind of layer", "share", f"time of {steps} steps", "floor: additions", "floor: bytes", "times the floor"], rows)


CONV = {
    "64 → 64, 3×3 on 32×32, 32 rows": (32, 64, 32, 64, 1, 3), "128 → 128, 3×3 on 16×16, 64 rows": (64, 128, 16, 128, 1, 3),
    "256 → 256, 3×3 on 8×8, 64 rows": (64, 256, 8, 256, 1, 3), "512 → 512, 3×3 on 4×4, 64 rows": (64, 512, 4, 512, 1, 3),
    "512 → 512, 3×3 on 2×2, 64 rows": (64, 512, 2, 512, 1, 3), "64 → 128, 3×3, stride 2 on 32×32, 32 rows": (32, 64, 32, 128, 2, 3),
    "64 → 128, 1×1, stride 2 on 32×32, 32 rows": (32, 64, 32, 128, 2, 1), "linear, 4096 → 4096, 64 rows": (64, 4096, 1, 4096, 1, 1),
}  # fmt: skip


def conv(densities=(0.05, 0.1, 0.2, 0.3, 0.5, 1.0), names=tuple(CONV)):
    found = last("conv", "shape", "density")
    rows = [[name] + [f"{found[CONV[name], d]['ratio']:.2f}" for d in densities] + [_dense_rate(CONV[name], found)] for name in names]
    return table(["layer, rows", *(f"{100 * d:.0f} %" for d in densities), "torch: 10^9 multiply-adds/s"], rows)


def _dense_rate(shape, found):
    """Of torch's own product, whose speed does not depend on the density."""
    rows, channels, size, outputs, stride, kernel = shape
    work = rows * (size // stride) ** 2 * outputs * channels * kernel**2
    return f"{work / statistics.median(row['torch_ms'] for (s, _), row in found.items() if s == shape) / 1e6:.0f}"


def conv_short():
    return conv((0.05, 0.1, 0.2, 0.3, 0.5), (*list(CONV)[:4], list(CONV)[-1]))


# ---- networks

WAYS = {
    "authors": "the authors' way, [T·B] at once",
    "steps": "one step at a time",
    "spikingjelly": "SpikingJelly, chunked",
    "snnfast": "snnfast",
}


def large_T():
    found = last("large-T", "arch", "T", "way", batch=4, width=1.0)
    rows = []
    for arch, T in sorted({(a, T) for a, T, _ in found}, key=lambda key: (key[0] != "vgg16", key)):
        ways = [found[arch, T, way] for way in WAYS]
        peaks = "; ".join(told(w["peak"]) if "peak" in w else w["failed"] for w in ways)
        rows.append([f"{arch}, {T}", *(_speed(w) for w in ways), f"{ways[-1]['ratio']:.2f}", peaks])
    head = ["network, T", "authors", "one step at a time", "SpikingJelly, chunked", "snnfast", "against the best other",
            "peak of the process: authors; steps; SpikingJelly; snnfast"]  # fmt: skip
    return table(head, rows)


def _speed(row):
    return f"{row['image_steps_per_second']:.0f}" if "failed" not in row else "–"


def large_T_short():
    found = last("large-T", "arch", "way", batch=4, width=1.0, T=1024)
    cells = lambda arch: [f"{_speed(found[arch, way])}; {told(found[arch, way]['peak'])}" for way in WAYS]  # noqa: E731
    rows = [["VGG-16, image-steps/s; peak", *cells("vgg16")], ["ResNet-18", *cells("resnet18")]]
    return table(["T = 1024", *WAYS.values()], rows)


def transformers():
    found = last("transformers", "batch", arch="vit_tiny", T=32)
    told_ratio = lambda ratio: f"{ratio:.2f}" + ("" if ratio <= 1 else ": missed")  # noqa: E731
    rows = [[B, told_ratio(row["ratio"]), row["rounds"], told(row["peak"])] for B, row in sorted(found.items())]
    return table(["batch", "ratio, goal 1.0", "rounds", "peak of a run that does not stop"], rows)


def vit_memory():
    found = last("transformers", "T", arch="vit_small", batch=16)
    rows = [[T, told(row["peak"]), f"{row['whole_run']:.1f} s"] for T, row in sorted(found.items())]
    return table(["T", "peak of the process", "time of the whole run"], rows)


# ---- choices


def precision():
    found = last("precision", "products", "T")
    names = {"fp32, dense": "fp32, dense (torch's order of sums)", "bf16": "bf16", "fp16": "fp16"}

    def cells(key):
        short, long = found[key, 32], found[key, 256]
        digits = 3 if short["changed"] < 1 else 1
        return [
            f"{short['changed']:.{digits}f} %; {long['changed']:.{digits}f} %",
            f"{short['moved']:.1f} %; {long['moved']:.1f} %",
            f"{short['accuracy']:.2f}",
        ]

    rows = [[name, *cells(key)] for key, name in names.items()] + [["tf32, author", "not measured yet (a GPU's)", "", ""]]
    return table(["products", "neurons with another count at T = 32; 256", "logits moved by", "accuracy"], rows)


def choices():
    found = last("choices", "arch", "choice")
    names = ["half the chunk", "twice the chunk", "fixed shapes", "dense products", "dense products, fixed shapes", "from the system"]
    heads = [*names[:4], "dense products in fixed shapes", "large blocks from the system"]
    rows = []
    for arch, name in (("vgg16", "VGG-16"), ("resnet18", "ResNet-18")):
        base = found[arch, "as it is"]
        shares = "; ".join(f"{100 * base['share'][part]:.0f} %" for part in ("product", "neuron", "other"))
        ratios = [f"{found[arch, choice]['ms'] / base['ms']:.2f}" for choice in names]
        rows.append([f"{name} ({base['ms']:.2f} ms an image-step, {base['chunk']} steps at a time)", *ratios, shares])
    return table(["", *heads, "of its time: products; neurons; the rest"], rows)


def deterministic():
    found = last("choices", "arch", "choice")
    ratio = lambda arch, a, b: f"{found[arch, a]['ms'] / found[arch, b]['ms']:.2f}"  # noqa: E731
    kinds = (("sparse", "fixed shapes", "as it is"), ("dense", "dense products, fixed shapes", "dense products"))
    return table(["products", "VGG-16", "ResNet-18"], [[name, ratio("vgg16", a, b), ratio("resnet18", a, b)] for name, a, b in kinds])


def methods():
    """Costs beside the plain run, where less is better; gains of `accelerate`, where more is."""
    found, widths = last("models", "row", "width"), (0.5, 1.0)
    rows = []
    for name, row in (("SRP, tau = 4", "srp"), ("COS, rho = 4", "cos"), ("statistics", "if, statistics")):
        both = [[found[f"{arch}: {row}", width] for arch in ("vgg16", "resnet18")] for width in widths]
        goal = both[0][0]["goal"]
        cells = ["; ".join(f"{r['ratio']:.2f}" + ("" if r["ratio"] <= goal else " missed") for r in pair) for pair in both]
        rows.append([f"{name}: VGG-16; ResNet-18", f"{goal:.2f}", *cells])
    whole = [found["vgg16 in the authors' form, whole", width] for width in widths]
    rows.append(
        [
            "`accelerate`, whole VGG-16",
            whole[0]["goal"],
            *(f"{r['ratio']:.2f}" + ("" if r["ratio"] >= r["goal"] else " missed") for r in whole),
        ]
    )
    layers = [[r for (name, w), r in found.items() if w == width and ", neurons " in name] for width in widths]
    cells = [
        f"{min(r['ratio'] for r in own):.2f} to {max(r['ratio'] for r in own):.2f}, missed in {sum(r['ratio'] < 5 for r in own)} of {len(own)}"
        for own in layers
    ]
    rows.append(["`accelerate`, each neuron layer", 5, *cells])
    return table(["row", "goal", "width 0.5, batch 16", "width 1, batch 2"], rows)


# ---- accuracies


def _accuracies(names, last_column):
    """names: (arch, method) -> what it is called. The last column holds all steps from 64 on, where they agree."""
    found, rows = last("demo", "arch", "method"), []
    for key, name in names.items():
        row = found[key]
        by_t = dict(zip(row["at"], row["accuracy"]))
        late = sorted({f"{a:.2f}" for t, a in by_t.items() if t >= 64})
        rows.append(
            [name, f"{row['ann']:.2f}", *(f"{by_t[t]:.2f}" for t in (1, 2, 4, 8, 16, 32)), " to ".join((late[0], late[-1])[: len(late)])]
        )
    return table([f"accuracy of {row['images']} test images, %", "ANN", "T = 1", 2, 4, 8, 16, 32, last_column], rows)


def demo_vgg():
    names = {("vgg", "if"): "`if`, to T = 1024", ("vgg", "srp"): "`srp`, τ = 4, to T = 64", ("vgg", "cos"): "`cos`, ρ = 4, to T = 64"}
    return _accuracies(names, "64 and more")


def demo_transformers():
    names = {("vit", "stbif"): "ViT, differential", ("vit", "if"): "the same, per step, `if`", ("vit", "cos"): "the same, per step, `cos`",
             ("swin", "stbif"): "Swin, differential"}  # fmt: skip
    return _accuracies(names, 64)


TABLES = gpu_tables.TABLES | {
    "zoo": zoo.table, "gallery": gallery.table,
    "methods": methods, "demo-vgg": demo_vgg, "demo-transformers": demo_transformers,
    "summary": summary, "ops-fp32": ops_fp32, "ops-others": ops_others, "activations": activations, "goals": goals, "peers": peers,
    "reasons": reasons, "scaling": scaling,
    "split": split, "precision": precision, "choices": choices, "deterministic": deterministic, "speed": speed, "conv": conv,
    "conv-short": conv_short, "large-T": large_T, "large-T-short": large_T_short, "transformers": transformers, "vit-memory": vit_memory,
}  # fmt: skip


def written(text):
    """The text of a page with all its tables made anew."""
    return MARKED.sub(lambda m: m[1] + TABLES[m[2]]() + m[3], text)


def main():
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    if not stored.read("ops", AVX512):
        raise SystemExit(f"no rows of {AVX512} in {stored.RESULTS}: the READMEs' tables are of that machine; a benchmark prints its own")
    for page in PAGES:
        path = ROOT / page
        before = path.read_text()
        after = written(before)
        if after != before:
            path.write_text(after)
            print(f"{page}: tables made anew")


if __name__ == "__main__":
    main()

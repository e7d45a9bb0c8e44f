"""`snnfast compare`: several evaluations in one table and one picture."""

from pathlib import Path

from rich.table import Table

from snnfast.cli.console import plain_console
from snnfast.cli.folders import can_draw, free
from snnfast.evaluation.compare import by_step, group, latex, rows
from snnfast.reports import plots
from snnfast.system.files import save_rows, save_text, whole

MOST_SHOWN = 60  # steps on the terminal


def groups_of(given):
    """NAME=FOLDER,FOLDER ... or FOLDER ... as groups, each name once."""
    groups, names = [], set()
    for text in given:
        name, _, folders = ("", "", text) if Path(text).exists() else text.partition("=") if "=" in text else ("", "", text)
        folders = [f for f in folders.split(",") if f]
        if not folders:
            raise ValueError(f"a run is a folder, or NAME=FOLDER,FOLDER..., got {text!r}")
        path = Path(folders[0]).absolute()
        name = name or (path.parent.name if path.suffix == ".json" else path.name)
        if name in names:
            raise ValueError(f"two runs are called {name}: give names, such as A={folders[0]}")
        names.add(name)
        groups.append(group(name, folders))
    return groups


def run(args):
    console = plain_console()
    out = free(args.out, "compare.csv", args.overwrite)
    groups = groups_of(args.runs)
    found = rows(groups)
    at = sorted({r["t"] for r in found})
    out.mkdir(parents=True, exist_ok=True)
    save_rows(out / "compare.csv", found)
    save_text(out / "compare.tex", latex(groups, found))
    reports = {g.name: g.as_report(at) for g in groups}
    deviations = {g.name: [g.deviation(t) for t in at] for g in groups}
    wrote = ["compare.csv", "compare.tex"]
    draws = can_draw(console)
    for name in ("compare.pdf", "compare.png") if draws else ():
        with whole(out / name) as part:
            plots.curves(reports, part, deviations)
        wrote.append(name)
    energies = {g.name: g.reports[0] for g in groups if g.reports[0].energy}
    if draws and len(energies) == len(groups):
        with whole(out / "energy.pdf") as part:
            plots.energy(energies, part)
        wrote.append("energy.pdf")
    bibtex = dict.fromkeys(entry for g in groups for r in g.reports for entry in r.bibtex().split("\n\n"))
    save_text(out / "citations.bib", "\n\n".join(bibtex) + "\n")
    wrote.append("citations.bib")
    console.print(_table(groups, found))
    for g in groups:
        for line in g.reports[0].notes():
            if line.startswith(("settings", "machine")):
                console.print(f"{g.name}: {line}", soft_wrap=True)
    console.print(f"wrote {', '.join(wrote)} to {out}", soft_wrap=True)


def _table(groups, found):
    first = groups[0].reports[0]
    table = Table(title=f"Accuracy of {first.images} images, %; p against {groups[0].name}")
    table.add_column("T", justify="right")
    for g in groups:
        table.add_column(g.name + (f" ({len(g.reports)} runs)" if len(g.reports) > 1 else ""), justify="right")
        if g is not groups[0]:
            table.add_column("p", justify="right")
    steps = sorted({r["t"] for r in found})
    shown = {*steps} if len(steps) <= MOST_SHOWN else {steps[round(i * (len(steps) - 1) / (MOST_SHOWN - 1))] for i in range(MOST_SHOWN)}
    for t, of_step in by_step(found):
        if t not in shown:
            continue
        cells = []
        for r in of_step:
            cells.append(f"{r['mean']:.2f}" + (f" ± {r['deviation']:.2f}" if r["runs"] > 1 else ""))
            if r["name"] != groups[0].name:
                cells.append("–" if r["p"] is None else f"{r['p']:.3g}")
        table.add_row(str(t), *cells)
    tests = {r["test"] for r in found if r["test"]}
    missing = len(groups) > 1 and any(r["p"] is None and r["name"] != groups[0].name for r in found)
    told = {"McNemar": "McNemar's exact test over images", "t": "paired t test over seeds"}
    table.caption = "; ".join(
        ([f"{len(shown)} of {len(steps)} steps, all of them in compare.csv"] if len(shown) < len(steps) else [])
        + [told[t] for t in sorted(tests)]
        + (["–: no test, runs of other numbers or images, records that are gone, or differences without spread"] if missing else [])
    )
    return table

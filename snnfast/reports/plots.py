"""Pictures of reports. matplotlib is imported where one is drawn."""

import importlib.util

MARKERS = "osv^D*Px"


def can_draw():
    """Whether matplotlib is there. A run whose numbers are the result does without; its pictures are left out."""
    return importlib.util.find_spec("matplotlib") is not None


def check_installed():
    """Refuses to draw without matplotlib."""
    if not can_draw():
        raise ValueError("pictures want the package matplotlib: pip install matplotlib, or snnfast[demo]")


def _label(name):
    """A name as matplotlib shows it: no mathematics, and no underscore first, which would leave it out of a legend."""
    return ("\u200b" if name.startswith("_") else "") + name.replace("$", r"\$")


def _axes(many=1, size=(6, 4)):
    check_installed()
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(1, many, squeeze=False)[0]


def _time_axis(axes, steps, label="time steps T"):
    """A log axis of powers of two, with at most a dozen numbers on it."""
    axes.set_xscale("log", base=2)
    ticks = sorted(t for t in steps if t & (t - 1) == 0) or sorted(steps)
    ticks = ticks[:: max(1, -(-len(ticks) // 12))]
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.minorticks_off()
    axes.set_xlabel(label)
    axes.grid(alpha=0.3)


def curves(reports, path, deviations=None):
    """Accuracy against T (log axis) of several reports by name, with the network's line where they share it.

    deviations: by name, a band around each curve, in %.
    """
    figure, (axes,) = _axes()
    for (name, report), marker in zip(reports.items(), MARKERS * len(reports)):
        marker = marker if len(report.at) <= 200 else ""  # else they hide the line
        (line,) = axes.plot(report.at, report.accuracy, marker=marker, markersize=4, label=_label(name))
        if deviations and any(deviations[name]):
            low, high = ([a + sign * d for a, d in zip(report.accuracy, deviations[name])] for sign in (-1, 1))
            axes.fill_between(report.at, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    networks = {name: r.ann for name, r in reports.items() if r.ann is not None}
    if len({round(a, 6) for a in networks.values()}) == 1:
        ann = next(iter(networks.values()))
        axes.axhline(ann, color="black", linestyle="--", linewidth=1, label=f"ANN {ann:.2f} %")
    elif networks:
        for line, (name, report) in zip(list(axes.get_lines()), reports.items()):
            if report.ann is not None:
                axes.axhline(
                    report.ann, color=line.get_color(), linestyle="--", linewidth=1, label=f"ANN of {_label(name)} {report.ann:.2f} %"
                )
    _time_axis(axes, {t for r in reports.values() for t in r.at})
    axes.set_ylabel("accuracy (%)")
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=150)


def growing(points, place):
    """A run's curves so far as a figure. points: (place, accuracy in %, name of the curve); place: what places are, "T" on a log axis or "epoch"."""
    from matplotlib.ticker import MaxNLocator

    figure, (axes,) = _axes(size=(8, 3.6))
    for name in dict.fromkeys(name for _, _, name in points):
        x, y = zip(*((x, y) for x, y, of in points if of == name))
        axes.plot(x, y, marker="o" if len(x) <= 50 else "", markersize=4, label=_label(name))
    if place == "T":
        _time_axis(axes, {int(x) for x, _, _ in points})
    else:
        axes.set_xlim(0.5, max(x for x, _, _ in points) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlabel(place)
        axes.grid(alpha=0.3)
    axes.set_ylabel("accuracy (%)")
    axes.legend(loc="lower right")
    return figure


def layers(report, path):
    """Firing rate of each layer, and beside it how its neurons compare with the quantised network: right, and the three cases of unevenness."""
    rows = [r for r in report.layers if r["neurons"]]
    names, places = [r["layer"] for r in rows], list(range(len(rows)))
    has_levels = any(r["levels"] for r in rows)  # ReLUs have none, so nothing to be uneven against
    figure, (left, *others) = _axes(2 if has_levels else 1, (11 if has_levels else 6, max(3.0, 1.2 + 0.26 * len(rows))))
    left.barh(places, [r["firing_rate"] for r in rows], color="tab:blue")
    left.set_xlabel("spikes per neuron and step")
    for right in others:
        _cases(right, rows, places, report.totals.get("T", ""))
    for axes in (left, *others):
        axes.set_yticks(places, names if axes is left else [""] * len(names), fontsize=8)
        axes.invert_yaxis()
        axes.grid(axis="x", alpha=0.3)
    if others:
        figure.legend(*others[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    figure.savefig(path, dpi=150)


def _cases(right, rows, places, T):
    """The shares of the cases, beside each other."""
    start = [0.0] * len(rows)
    for key, label, color in (
        ("right_zero", "right, level 0", "0.85"),
        ("right_above", "right, level > 0", "0.65"),
        ("case1", "case 1: level 0, but fired", "tab:red"),
        ("case2", "case 2: too many", "tab:orange"),
        ("case3", "case 3: too few", "tab:purple"),
    ):
        shares = [r[key] or 0.0 for r in rows]
        right.barh(places, shares, left=start, color=color, label=label)
        start = [a + b for a, b in zip(start, shares)]
    right.set_xlabel(f"% of the neurons at T = {T}")
    right.set_xlim(0, 100)


def energy(reports, path):
    """Energy per image against T, in microjoule."""
    figure, (axes,) = _axes()
    for (name, report), marker in zip(reports.items(), MARKERS * len(reports)):
        if report.energy:
            axes.plot(
                [r["t"] for r in report.energy],
                [r["energy_pJ"] / 1e6 for r in report.energy],
                marker=marker,
                markersize=4,
                label=_label(name),
            )
    first = next(r for r in reports.values() if r.energy)
    if first.totals.get("ann_energy_pJ"):
        axes.axhline(first.totals["ann_energy_pJ"] / 1e6, color="black", linestyle="--", linewidth=1, label="ANN")
    _time_axis(axes, {row["t"] for r in reports.values() for row in r.energy})
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    axes.set_ylabel("energy per image (µJ)")
    axes.set_title(
        f"{first.totals['energy_ac_pJ']} pJ per accumulate, {first.totals['energy_mac_pJ']} pJ per MAC: a convention", fontsize=9
    )
    axes.legend()
    figure.savefig(path, dpi=150)


def early_exit(report, path):
    """Accuracy against the mean number of steps, when each image stops as soon as it is sure enough."""
    figure, (axes,) = _axes()
    rows = report.early_exit
    axes.plot(report.at, report.accuracy, color="0.6", marker="o", markersize=3, label="all images stop at T")
    axes.plot([r["mean_steps"] for r in rows], [r["accuracy"] for r in rows], marker="s", markersize=4, label="each stops at its threshold")
    _time_axis(axes, report.at, "mean steps")
    taken: list = []  # a threshold's number stands below its point, unless another number stands there
    for r in rows:
        point = r["mean_steps"], r["accuracy"]
        place = axes.transData.transform(point)
        if r["threshold"] in (0.5, 0.9, 0.99, 0.999) and all(max(abs(place - other) / (30, 12)) >= 1 for other in taken):
            low = axes.transAxes.inverted().transform(place)[1] < 0.08
            axes.annotate(f"{r['threshold']:g}", point, textcoords="offset points", xytext=(0, 6 if low else -11), ha="center", fontsize=7)
            taken.append(place)
    axes.set_ylabel("accuracy (%)")
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=150)


def start_stop(report, path):
    """Accuracy of the output between a first and a last step, as a matrix."""
    from matplotlib import colormaps

    found = report.start_stop
    table = [[float("nan") if a is None else a for a in row] for row in found["accuracy"]]
    many = len(found["last_step"])
    figure, (axes,) = _axes(1, (1.8 + 0.5 * min(many, 16), 1.2 + 0.45 * min(many, 16)))
    picture = axes.imshow(table, cmap=colormaps["viridis"], aspect="auto")
    low, high = picture.get_clim()
    for i, row in enumerate(found["accuracy"] if many <= 16 else []):  # numbers where there is room for them
        for j, a in enumerate(row):
            if a is not None:
                dark = high > low and (a - low) / (high - low) < 0.6
                axes.text(j, i, f"{a:.1f}", ha="center", va="center", fontsize=6, color="white" if dark else "black")
    places = range(0, many, -(-many // 16))
    axes.set_xticks(places, [found["last_step"][i] for i in places], fontsize=8)
    axes.set_yticks(places, [found["first_step"][i] for i in places], fontsize=8)
    axes.set_xlabel("last step that is read")
    axes.set_ylabel("first step that is read")
    figure.colorbar(picture, label="accuracy (%)")
    figure.savefig(path, dpi=150)

"""Which layer of a spiking network loses the accuracy, and why: the output of each layer in T steps minus that of the network, split into parts.

f: the activation (ReLU, ReLU6, or QCFS with L levels), x: its input in the network, X: the mean current of the neuron in T steps, Y: its mean output,
c: min(f(X), theta), with theta the most that a step holds, q: what T steps can tell about X, the activation with T m levels. Then

    Y - f(x)  =  f(X) - f(x)    inherited from the layers before
               + c - f(X)       clipped: the current is above what a step holds (0 for a quantised activation, which clips itself)
               + q - c          rounded: T m levels are too few (for a quantised activation q - f(X))
               + Y - q          uneven: the current came at the wrong times (Bu et al., ICLR 2022, section 4.3)

Each part is reported as its norm over the norm of f(x). In mode "differential" X and Y are sums, and q has the activation's own levels.
"""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from snnfast import checks
from snnfast.evaluation.quantised_pass import QuantisedPass
from snnfast.ops.qcfs import qcfs
from snnfast.reports import plots
from snnfast.runtime.execution import Execution
from snnfast.runtime.network import SpikingNetwork
from snnfast.system.files import save_rows

PARTS = ("inherited", "clipped", "rounded", "uneven")
FIELDS = ("layer", "error", *PARTS, "values_clipped", "silent", "firing_rate")
MANY_CLIPPED = 1.0  # % of the active values
WHAT = {
    "clipped": "its currents are above its threshold: give more calibration images, a higher percentile, or one threshold for the layer",
    "rounded": "its steps are too few for its values: a larger T, or method 'quanta' with a larger m",
    "uneven": "its currents come at the wrong times: methods 'stbif' and 'quanta' take back what was too much; a larger T helps all",
}


class _Network(QuantisedPass):
    """One pass of the network that was converted. values: f(x) of every neuron layer."""

    def __init__(self, *args):
        self.values: dict = {}
        super().__init__(*args)

    def _activation(self, node, layer, x):
        self.values[node] = super()._activation(node, layer, x) if self.levels.get(node.target) else x.clamp(0, layer.cap)
        return self.values[node]


@dataclasses.dataclass
class Diagnosis:
    """What `diagnose` found.

    rows: a dictionary for each neuron layer, in the order of the network, with the keys FIELDS. error and its parts: norms over the norm of the
        network's activations. values_clipped: % of the active values above the threshold. silent: % of the neurons active in the network that sent
        nothing. firing_rate: spikes per neuron and step.
    T, images: of the run. agreement: % of the images with the network's answer; None if the outputs are not classes.
    """

    rows: list
    T: int
    images: int
    agreement: float | None

    def worst(self) -> tuple[str, str]:
        """(layer, part): where most is lost that is not inherited."""
        _, layer, part = max((row[part], row["layer"], part) for row in self.rows for part in PARTS[1:])
        return layer, part

    def at(self, layer: str, part: str) -> float:
        """A number of a layer."""
        return next(row for row in self.rows if row["layer"] == layer)[part]

    def advice(self) -> list[str]:
        """Lines of text: where most is lost and what helps, and whether thresholds are too low."""
        layer, part = self.worst()
        lines = [f"most is lost in {layer}, {self.at(layer, part):.3f} of its values, {part}: {WHAT[part]}"]
        low = [row for row in self.rows if (row["values_clipped"] or 0) > MANY_CLIPPED]
        if low:
            most = max(low, key=lambda row: row["values_clipped"])
            lines.append(
                f"{len(low)} of {len(self.rows)} layers clip more than {MANY_CLIPPED:g} % of their active values, {most['layer']} "
                f"{most['values_clipped']:.1f} %: too few calibration images, or too low a percentile"
            )
        return lines

    def __str__(self):
        head = f"{'layer':<24}{'error':>9}" + "".join(f"{part:>11}" for part in PARTS) + f"{'clipped %':>11}{'silent %':>10}{'rate':>8}"
        lines = [head]
        for r in self.rows:
            clipped = "–" if r["values_clipped"] is None else f"{r['values_clipped']:.2f}"
            parts = "".join(f"{r[part]:>11.4f}" for part in PARTS)
            lines.append(f"{r['layer'][-24:]:<24}{r['error']:>9.4f}{parts}{clipped:>11}{r['silent']:>10.2f}{r['firing_rate']:>8.3f}")
        told = "" if self.agreement is None else f", {self.agreement:.2f} % of the answers are the network's"
        return "\n".join([*lines, f"T = {self.T}, {self.images} images{told}", *self.advice()])

    def save(self, path: str | Path) -> None:
        """Writes the rows as a table (.csv), or a picture of them (.png)."""
        if str(path).endswith(".csv"):
            return save_rows(path, self.rows)
        plots.check_installed()
        from matplotlib.figure import Figure

        figure = Figure(figsize=(max(5.0, 1.5 + 0.28 * len(self.rows)), 4.2), layout="constrained")
        panel = figure.subplots()
        for part in ("error", *PARTS):
            style: dict[str, Any] = dict(color="black", linewidth=1.5) if part == "error" else dict(linewidth=1, marker="o", markersize=3)
            panel.plot([r[part] for r in self.rows], label=part, **style)
        panel.set_xticks(range(len(self.rows)), [r["layer"] for r in self.rows], rotation=90, fontsize=6)
        panel.set_ylabel("of the norm of the activations")
        panel.set_title(f"what each layer loses in T = {self.T} steps, {self.images} images", fontsize=10)
        panel.set_ylim(bottom=0)
        panel.legend(fontsize=8)
        figure.savefig(path, dpi=130)


@torch.no_grad()
def diagnose(snn: SpikingNetwork, images: torch.Tensor, T: int) -> Diagnosis:
    """Runs T steps of some images and takes apart, layer by layer, how the spiking network differs from the network it was converted from.

    Args:
        snn: what `snnfast.convert` returned.
        images: [B, ...], not those that set thresholds; a few images tell much. Memory holds four values for each neuron and image.
        T: number of steps, >= 1.

    Raises:
        TypeError, ValueError: naming the argument, what was given and what is allowed.

    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> snn = snnfast.convert(net, calibrate=torch.rand(10, 4))
    >>> found = snnfast.diagnose(snn, torch.rand(10, 4), T=4)
    >>> [row["layer"] for row in found.rows], found.worst()[0]
    (['1'], '1')
    """
    if not isinstance(snn, SpikingNetwork):
        raise TypeError(f"snn must be what snnfast.convert returned, got {type(snn).__name__}")
    if snn.method.name == "direct":
        raise ValueError("snn was trained as a spiking network: it was converted from none that it could be compared with")
    checks.tensor("images", images)
    currents: dict = {}
    outputs: dict = {}
    fired: dict = {}

    def observe(node, current, s):
        for sums, value in ((currents, current), (outputs, s)):
            sums[node] = sums.get(node, 0) + value.sum(0)
        fired[node] = fired.get(node, 0) + (s != 0).sum(0)

    execution = Execution(snn.gm, images.device)
    answers: Any = sum(y.sum(0) for y, _ in snn.run(images, T, execution=execution, observe=observe))
    plan = snn.plan()
    seen = _Network(snn.gm, plan, snn.levels, images, execution, (), snn.clock.differential)
    rows = [_row(snn, node, seen.values[node], currents[node], outputs[node], fired[node], T) for node in plan.firing if node in currents]
    agreement = None
    if seen.logits.dim() == 2 and answers.shape == seen.logits.shape:
        agreement = 100 * float((answers.argmax(1) == seen.logits.argmax(1)).float().mean())
    return Diagnosis(rows, T, len(images), agreement)


def _row(snn, node, wanted, current, output, fired, T):
    """The numbers of one neuron layer, all in fp64."""
    layer, L, steps = snn.gm.get_submodule(node.target), snn.levels.get(node.target), 1 if snn.clock.differential else T
    wanted, X, Y = wanted.double(), current.double() / steps, output.double() / steps
    theta, m = layer.theta_for(current).double(), layer.most
    ceiling, theta, clipped = theta * m, theta * layer.parts, None  # what a step holds, the activation's threshold
    if snn.clock.differential:
        low, high = layer.options["caps"]
        c = q = f = torch.floor(X / theta + 0.5).clamp(low, high) * theta
    else:
        q = qcfs(X, ceiling, T * m)
        f = X.clamp(0, layer.cap) if L is None else qcfs(X, theta, L)
        c = torch.minimum(f, ceiling) if L is None else f
        clipped = 100 * int((f > ceiling).sum()) / max(1, int((X > 0).sum())) if L is None else None
    size = max(float(wanted.norm()), 1e-30)
    parts = dict(zip(PARTS, (float(d.norm()) / size for d in (f - wanted, c - f, q - c, Y - q))))
    on = wanted > 0
    return dict(
        layer=node.target, error=float((Y - wanted).norm()) / size, **parts, values_clipped=clipped,
        silent=100 * int((on & (fired == 0)).sum()) / max(1, int(on.sum())), firing_rate=float(fired.double().mean()) / T,
    )  # fmt: skip

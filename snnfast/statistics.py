"""What a run's spikes cost and where they differ from the quantised network, per layer, collected in the run itself with a few numbers per neuron.

Unevenness (Bu et al., ICLR 2022, section 4.3), on whole counts: alpha = clamp(floor(L z + 1/2), 0, L) is the level that the quantised network gives a
neuron, N its net emitted spikes in T steps; a neuron is right where N/T = alpha/L, else

    case 1   alpha = 0, but it fired           case 2   alpha > 0, and too many           case 3   alpha > 0, and too few

Firing rate: spikes of either sign per neuron and step. SOPs: spikes times fan-out, the fan-out of a layer being its multiplications per input
element, borders averaged in. A layer that takes the image itself counts as MACs, once, one that takes another layer's output as MACs at every step;
spikes of Poisson input are SOPs too. The tau steps of SRP's first phase are in none of these numbers. Energy: 0.9 pJ per SOP (an accumulate), 4.6 pJ
per MAC, 45 nm (Horowitz, ISSCC 2014): the field's convention, not a measurement. Threshold spread of a layer: (max - min)/min over its thresholds.
"""

import csv
import math

import torch
from torch import fx

from snnfast import nn
from snnfast.ops import checks
from snnfast.ops.qcfs import qcfs

FIELDS = (
    "layer", "neurons", "levels", "spikes", "firing_rate", "right_zero", "right_above", "case1", "case2", "case3", "SOPs", "MACs", "energy_pJ",
    "theta_min", "theta_max", "theta_spread",
)  # fmt: skip
_WEIGHTED = (torch.nn.modules.conv._ConvNd, torch.nn.Linear)


class _QuantisedPass(fx.Interpreter):
    """Runs a spiking network's graph with the activation in place of every neuron; keeps each neuron's level and every layer's multiplications.

    fixed: what the run has computed already, the layers before the first neuron.
    """

    def __init__(self, gm, levels, fixed):
        super().__init__(gm)
        self.levels, self.fixed, self.alpha, self.work = levels, fixed, {}, {}

    def run_node(self, node):
        layer = self.module.get_submodule(node.target) if node.op == "call_module" else None
        if isinstance(layer, nn.IF):
            x = self.env[node.all_input_nodes[0]]
            theta, L = layer.theta_for(x), self.levels.get(node.target)
            if L is None:
                return torch.minimum(x.relu(), theta.to(x.dtype))
            y = qcfs(x, theta, L)
            self.alpha[node] = (y / theta * L).round().to(torch.int32)
            return y
        if hasattr(layer, "over_time"):
            return layer.over_time(self.env[node.all_input_nodes[0]].unsqueeze(0), None)[0].squeeze(0)
        value = self.fixed[node] if node in self.fixed else super().run_node(node)
        weight = layer.weight if isinstance(layer, _WEIGHTED) else self._weight_of(node)
        if weight is not None:
            inputs = self.env[node.all_input_nodes[0]]
            # Per image: (multiplications, input elements). A transposed convolution multiplies per input, the others per output.
            many = inputs if isinstance(layer, torch.nn.modules.conv._ConvTransposeNd) else value
            self.work[node] = (many[0].numel() * weight[0].numel(), inputs[0].numel())
        return value

    def _weight_of(self, node):
        if node.op != "call_function" or getattr(node.target, "__name__", "") not in ("conv1d", "conv2d", "conv3d", "linear"):
            return None
        weight = node.args[1] if len(node.args) > 1 else node.kwargs.get("weight")
        return self.env.get(weight)


class Statistics:
    """Collects over the batches of an evaluation; `rows()` and `totals()` give what was found, means over the images seen.

    energy_ac, energy_mac: pJ of an accumulate and of a multiply-accumulate.
    """

    def __init__(self, snn, energy_ac=0.9, energy_mac=4.6):
        self.gm, self.levels, self.plan, self.images, self.T = snn.gm, snn.levels, snn.plan(), 0, None
        self.energy_ac, self.energy_mac = checks.number("energy_ac", energy_ac, True), checks.number("energy_mac", energy_mac, True)
        self.neurons = dict.fromkeys(self.plan.firing, 0)
        self.spikes = dict.fromkeys(self.plan.firing, 0)
        self.cases = {node: torch.zeros(5, dtype=torch.int64) for node in self.plan.firing}
        self.work, self.image_spikes, self.poisson = {}, 0, snn.method.amplitude is not None

    def _sources(self):
        """What reaches the input of each node without passing weights: neurons, "image" (as spikes), "layer" (another layer's output at every step);
        nothing where the image is a constant current."""
        carried = {}
        for node in self.gm.graph.nodes:
            if node in self.plan.firing:
                carried[node] = {node}
            elif node in self.work:
                carried[node] = {"layer"} if node in self.plan.spiking else set()
            elif node.op == "placeholder":
                carried[node] = {"image"} if self.poisson else set()
            else:
                carried[node] = set().union(*(carried[a] for a in node.all_input_nodes)) if node.all_input_nodes else set()
        return {node: carried[node.all_input_nodes[0]] for node in self.work}

    # ---- called by the run of one batch

    def begin(self, run):
        """Before the first step: the levels of the quantised network for this batch."""
        seen = _QuantisedPass(self.gm, self.levels, run.fixed)
        seen.run(run.image)
        self.work, self.alpha, self.signed, self.from_image = seen.work, seen.alpha, dict.fromkeys(self.plan.firing, 0), 0

    def chunk(self, run, steps):
        """After a chunk: spikes of either sign, which the net count does not tell; read off the buffers they lie in."""
        self.from_image += run.image_spikes
        for node in self.plan.firing:
            if self.gm.get_submodule(node.target).is_signed():
                self.signed[node] += int(torch.count_nonzero(run.buffers[node][:steps]))

    def end(self, run, T):
        if self.T not in (None, T):
            raise ValueError(f"statistics of T = {self.T} cannot take in a run of T = {T}: make new ones")
        self.T = T
        self.images += run.B
        self.image_spikes += self.from_image
        for node in self.plan.firing:
            neuron, mask = self.gm.get_submodule(node.target), run.options[node].get("mask")
            N = run.states[node].count
            if N.is_floating_point():  # a float memory: the sum of s theta
                N = (N / neuron.theta_for(N)).round().to(torch.int32)
            N = N if mask is None else N * mask
            self.neurons[node] += N.numel()
            self.spikes[node] += self.signed[node] if neuron.is_signed() else int(N.sum(dtype=torch.int64))
            if node in self.alpha:
                self.cases[node] += _cases(self.alpha[node], N, self.levels[node.target], T)

    # ---- results

    def rows(self):
        """One dictionary per layer with the keys FIELDS, in the order of the graph: neurons, spikes, SOPs, MACs and energy per image, cases in %."""
        if not self.images:
            raise ValueError("no image was seen")
        sources = self._sources()
        fed = self._spikes_into_layers(sources)
        found = []
        for node in self.plan.firing:
            theta = self.gm.get_submodule(node.target).theta
            low, high = float(theta.min()), float(theta.max())
            neurons, spikes = self.neurons[node], self.spikes[node]
            row = dict(layer=node.target, neurons=neurons / self.images, levels=self.levels.get(node.target), spikes=spikes / self.images)
            row["firing_rate"] = spikes / (neurons * self.T) if neurons else 0.0
            shares = (100 * self.cases[node].double() / max(1, neurons)).tolist() if self.levels.get(node.target) else [None] * 5
            row |= dict(zip(("right_zero", "right_above", "case1", "case2", "case3"), shares))
            row |= dict(SOPs=fed[node] / self.images, MACs=0, theta_min=low, theta_max=high, theta_spread=(high - low) / low)
            found.append(row | {"energy_pJ": row["SOPs"] * self.energy_ac})
        once = sum(work for node, (work, _) in self.work.items() if not sources[node])
        macs = once + self.T * sum(work for node, (work, _) in self.work.items() if "layer" in sources[node])
        sops, spikes = fed["image"] / self.images, self.image_spikes / self.images
        image = dict.fromkeys(FIELDS) | dict(layer="image", spikes=spikes, SOPs=sops, MACs=macs)
        image["energy_pJ"] = macs * self.energy_mac + sops * self.energy_ac
        return [image, *found]

    def _spikes_into_layers(self, sources):
        """SOPs caused by each neuron layer and by the image's spikes, over all images. What takes another layer's output is counted as MACs."""
        found = dict.fromkeys([*self.plan.firing, "image"], 0.0)
        for node, (work, inputs) in self.work.items():
            for source in sources[node] if "layer" not in sources[node] else ():
                found[source] += (self.image_spikes if source == "image" else self.spikes[source]) * work / inputs
        return found

    def totals(self):
        """Sums per image, the firing rate over all neurons, the largest and the mean threshold spread of a layer."""
        rows = self.rows()
        layers = rows[1:]
        spreads = [r["theta_spread"] for r in layers]
        neurons = sum(r["neurons"] for r in layers)
        return dict(
            T=self.T, images=self.images, neurons=neurons, spikes=sum(r["spikes"] for r in layers),
            firing_rate=sum(r["spikes"] for r in layers) / (neurons * self.T) if neurons else 0.0, SOPs=sum(r["SOPs"] for r in rows),
            MACs=rows[0]["MACs"], energy_pJ=sum(r["energy_pJ"] for r in rows), theta_spread_max=max(spreads),
            theta_spread_mean=math.fsum(spreads) / len(spreads), energy_ac_pJ=self.energy_ac, energy_mac_pJ=self.energy_mac,
        )  # fmt: skip

    def save_csv(self, path):
        """The rows as a table, one line per layer."""
        with open(path, "w", newline="") as file:
            table = csv.DictWriter(file, FIELDS)
            table.writeheader()
            table.writerows(self.rows())


def _cases(alpha, N, L, T):
    """How many neurons are right at zero, right above it, and in cases 1, 2, 3: N/T against alpha/L."""
    whole = torch.int64 if L * T >= 1 << 30 else torch.int32
    excess, zero = (N.to(whole) * L).sub_(alpha.to(whole) * T), alpha == 0
    many, few = excess > 0, excess < 0
    zeros, more, less, fired, silenced = (int(torch.count_nonzero(k)) for k in (zero, many, few, many & zero, few & zero))
    right_zero = zeros - fired - silenced
    # A net count below zero where the level is zero is too few as well: it needs n_min < 0.
    return torch.tensor([right_zero, alpha.numel() - right_zero - more - less, fired, more - fired, less])

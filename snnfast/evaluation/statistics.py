"""What a run's spikes cost and where they differ from the quantised network, per layer, collected in the run itself with a few numbers per neuron.

Unevenness (Bu et al., ICLR 2022, section 4.3), on whole counts: alpha = clamp(floor(L z + 1/2), 0, L) is the level that the quantised network gives a
neuron, N its net emitted spikes in T steps; a neuron is right where N/T = alpha/L, else

    case 1   alpha = 0, but it fired           case 2   alpha > 0, and too many           case 3   alpha > 0, and too few

Within half a level: |N/T - alpha/L| <= 1/(2L), what rounding to levels leaves open, so that one spike of many does not count as uneven.

For neurons that send up to m quanta of theta/m in a step, N counts quanta, and N/(m T) stands for N/T; a step with any quanta counts as one spike.

Firing rate: spikes of either sign per neuron and step. SOPs: spikes that enter a layer (`entering.py`) times its fan-out, the weights that an
input element meets on average, fewer at a border. If several neuron layers feed a layer, each of them gets the share of its spikes. A layer that
takes the image itself counts as MACs, once; a layer that takes another layer's output counts as MACs at every step; both without the zeros of
borders. Spikes of Poisson input are SOPs. The tau steps of SRP's first phase are in none of these numbers. Energy: 0.9 pJ per SOP (an accumulate),
4.6 pJ per MAC, 45 nm (Horowitz, ISSCC 2014): the field's convention, not a measurement. Spikes of neurons that may send several quanta need a
multiplication, so that their SOPs cost what MACs do; powers of two need a shift, and cost what an accumulate does (before a pooling adds them up, as
all spikes there). The ANN's MACs are those of one pass through all its products; its energy is that of these MACs.

Products of two values (attention). In mode "differential" a product of spikes with spikes is the sum of q_t K_t + Q_(t-1) k_t, with Q and K the sums
so far: each spike of either factor counts the values of the other that it meets. Step by step the spikes of the first factor count. A factor that is
not spikes, but another layer's output or what a function (a softmax, a layer norm) gives, makes the product MACs, all of them at every step.
Threshold spread of a layer: (max - min)/min over its thresholds.
"""

import copy
import math
from pathlib import Path
from typing import Any

import torch

from snnfast import checks
from snnfast.evaluation.entering import Entering, Operand, counted, shares
from snnfast.evaluation.quantised_pass import QuantisedPass
from snnfast.graph import products
from snnfast.nn.masking import rows_are
from snnfast.runtime.execution import Execution
from snnfast.runtime.network import powers_of_two
from snnfast.runtime.number_formats import faithful, formats
from snnfast.runtime.run import nonzeros
from snnfast.system.files import save_rows

CASES = ("right_zero", "right_above", "case1", "case2", "case3", "within_half_level")
FIELDS = (
    "layer", "neurons", "levels", "spikes", "firing_rate", *CASES, "SOPs", "MACs", "energy_pJ", "theta_min", "theta_max", "theta_spread",
)  # fmt: skip


class Statistics:
    """Collects over the batches of an evaluation; `rows()` and `totals()` give what was found, means over the images seen.

    energy_ac, energy_mac: pJ of an accumulate and of a multiply-accumulate.
    """

    def __init__(self, snn: Any, energy_ac: float = 0.9, energy_mac: float = 4.6):
        self.gm, self.levels, self.plan, self.images = snn.gm, snn.levels, snn.plan(), 0
        self.T: Any = None  # of the runs, once there is one
        self.energy_ac, self.energy_mac = checks.number("energy_ac", energy_ac, True), checks.number("energy_mac", energy_mac, True)
        self.neurons = dict.fromkeys(self.plan.firing, 0)
        self.spikes: dict[int, dict] = {}  # {t: spikes of each layer in t steps}
        self.image_spikes: dict[int, int] = {}  # by step
        self.entered: dict[int, dict] = {}  # {t: what entered each product that is counted at its input}
        self.cases = {node: torch.zeros(6, dtype=torch.int64) for node in self.plan.firing}
        self.differential = snn.clock.differential
        self.image = {"image"} if snn.clock.poisson else {"layer"} if snn.clock.frames else set()  # in `sources`
        self.work: dict[Operand, tuple] = {}  # see QuantisedPass
        self.known: dict = {}  # multiplications of products of two values
        self.executions: dict[tuple, Execution] = {}  # of the quantised network, by device, whether shapes are fixed, and products

    def empty(self) -> "Statistics":
        """Statistics of the same network and energies that have seen nothing."""
        new = copy.copy(self)
        new.T, new.images, new.spikes, new.image_spikes, new.entered, new.work = None, 0, {}, {}, {}, {}
        new.neurons = dict.fromkeys(self.plan.firing, 0)
        new.cases = {node: torch.zeros(6, dtype=torch.int64) for node in self.plan.firing}
        return new

    def marks(self, T, least=0):
        """The steps at which spikes are counted: powers of two from `least` on, and T."""
        self._check_T(T)
        return [t for t in powers_of_two(T) if t >= least]

    # ---- a batch's numbers as plain values, for a file; sums of them are exact, so batches may come in any order

    def state(self) -> dict[str, Any]:
        """Everything that was counted, as dictionaries, lists and whole numbers."""
        by_name = lambda found: {node.name: int(many) for node, many in found.items()}
        by_operand = lambda found: {str(operand): int(many) for operand, many in found.items()}
        return dict(
            T=self.T, images=self.images, neurons=by_name(self.neurons), spikes={str(t): by_name(s) for t, s in self.spikes.items()},
            image_spikes={str(t): int(s) for t, s in self.image_spikes.items()}, entered={str(t): by_operand(s) for t, s in self.entered.items()},
            cases={node.name: c.tolist() for node, c in self.cases.items()}, work={str(operand): list(w) for operand, w in self.work.items()},
        )  # fmt: skip

    def add(self, state: dict[str, Any]) -> None:
        """Takes in what `state()` of other statistics of this network gave."""
        self._check_T(state["T"])
        self.T = state["T"]
        nodes = {node.name: node for node in self.gm.graph.nodes}
        self.images += state["images"]
        self.work = self.work or {Operand.named(name, nodes): tuple(w) for name, w in state["work"].items()}
        for name, many in state["neurons"].items():
            self.neurons[nodes[name]] += many
            self.cases[nodes[name]] += torch.tensor(state["cases"][name])
        for t, spikes in state["spikes"].items():
            entered = {Operand.named(name, nodes): many for name, many in state["entered"][t].items()}
            self._count(int(t), {nodes[name]: many for name, many in spikes.items()}, state["image_spikes"][t], entered)

    def _check_T(self, T):
        if self.T not in (None, T):
            raise ValueError(f"statistics of T = {self.T} cannot take in a run of T = {T}: make new ones")

    def _count(self, t, spikes, of_image, entered):
        into = self.entered.setdefault(t, dict.fromkeys(entered, 0))
        for node, many in entered.items():
            into[node] += many
        known = self.spikes.setdefault(t, dict.fromkeys(self.plan.firing, 0))
        for node, many in spikes.items():
            known[node] += many
        self.image_spikes[t] = self.image_spikes.get(t, 0) + of_image

    def sources(self):
        """What reaches the input of each node without passing weights: neurons, "image" (as spikes), "layer" (another layer's output at every step,
        or frames, which are counts of events); nothing where the image is a constant current."""
        carried, (sizes, _), multiply = {}, self.plan.without_values, {operand.node for operand in self.work}
        for node in self.gm.graph.nodes:
            if node in sizes:
                carried[node] = set()
            elif node in self.plan.firing:
                carried[node] = {node}
            elif node in multiply or (node in self.plan.spiking and products.is_dense(node, self.gm)):
                carried[node] = {"layer"} if node in self.plan.spiking else set()
            elif node.op == "placeholder":
                carried[node] = self.image
            else:
                carried[node] = set().union(*(carried[a] for a in node.all_input_nodes)) if node.all_input_nodes else set()
        return {operand: {"layer"} if self._is_real(operand.node, carried) else carried[operand.source()] for operand in self.work}

    def _is_real(self, node, carried):
        """Whether a product of two values has a factor that is no spikes, or stands inside of a function, as in `scaled_dot_product_attention`."""
        if node not in self.plan.spiking or not products.may_multiply_values(node, self.gm):
            return False
        return not products.is_of_values(node, self.gm, self.plan.spiking) or any("layer" in carried[a] for a in node.all_input_nodes)

    # ---- called by the run of one batch

    def begin(self, run):
        """Before the first step: the levels of the quantised network for this batch."""
        # Exact products are of spikes, and here a neuron gives a level, which is a part of its threshold: then those of the device.
        kind = None if run.execution.products == "exact" else run.execution.products
        key = (run.image.device, run.execution.deterministic, kind)
        if key not in self.executions:
            self.executions[key] = Execution(self.gm, key[0], deterministic=key[1], products=key[2])
        fixed = run.fixed if run.execution.dtype in ("fp32", "author") else ()
        with formats(faithful(run.execution.dtype), run.execution.deterministic), rows_are(run.first):
            image = run.clock.at_a_step(run.image)
            seen = QuantisedPass(self.gm, self.plan, self.levels, image, self.executions[key], fixed, self.differential, self.known)
        self.work, self.alpha, self.from_image, self.marked = seen.work, seen.alpha, 0, {}
        self.done = 0  # steps
        run.entering = Entering(counted(self.gm, self.plan, self.work), nonzeros)

    def mark(self, run, steps, node):
        """Notes the spikes of a neuron layer that has done `steps` steps of the current chunk."""
        spikes, *_ = self.marked.setdefault(self.done + steps, [{}, self.from_image + run.image_inside.get(steps, 0), {}])
        spikes[node] = self._spikes(run, node)

    def chunk(self, run, done):
        """After a chunk, `done` steps in all."""
        for t in {self.done + steps for steps in run.marks} - set(self.marked):  # the chunk did not run, because the network was idle
            self.marked[t] = [self._all_spikes(run), self.from_image, run.entering.at()]
        for steps in run.marks:
            self.marked[self.done + steps][2] = run.entering.at(steps)
        run.entering.forget()
        self.done, self.from_image = done, self.from_image + run.image_spikes
        if done & (done - 1) == 0:  # a mark
            self.marked[done] = [self._all_spikes(run), self.from_image, run.entering.at()]

    def _all_spikes(self, run):
        return {node: self._spikes(run, node) for node in self.plan.firing}

    def _spikes(self, run, node):
        """Spikes of either sign so far: counted by the run where they have a sign, else the net count."""
        if not self.gm.get_submodule(node.target).is_counted():
            return int(run.signed[node])
        return int(self._net(run, node).sum(dtype=torch.int64))

    def _net(self, run, node):
        N, mask = run.states[node].count, run.options[node].get("mask")
        if N.is_floating_point():  # a float memory: the sum of s theta
            N = (N / self.gm.get_submodule(node.target).theta_for(N)).round().to(torch.int32)
        return N if mask is None else N * mask

    def end(self, run, T):
        self._check_T(T)
        self.T = T
        self.images += run.B
        if T not in self.marked:
            self.marked[T] = [self._all_spikes(run), self.from_image, run.entering.at()]
        for t, seen in self.marked.items():
            self._count(t, *seen)
        for node in self.plan.firing:
            N = self._net(run, node)
            self.neurons[node] += N.numel()
            if node in self.alpha:
                scale = (1, 1) if self.differential else (self.levels[node.target], T * self.gm.get_submodule(node.target).parts)
                self.cases[node] += _cases(self.alpha[node], N, *scale)
        self.alpha = {}

    # ---- results

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary per layer with the keys FIELDS, in the order of the graph: neurons, spikes, SOPs, MACs and energy per image, cases in %."""
        if not self.images:
            raise ValueError("no image was seen")
        sources = self.sources()
        fed = self._spikes_into_layers(sources, self.T)
        found = []
        for node in self.plan.firing:
            layer = self.gm.get_submodule(node.target)
            low, high = (float(t) * layer.parts for t in (layer.theta.min(), layer.theta.max()))
            neurons, spikes = self.neurons[node], self.spikes[self.T][node]
            row = dict(layer=node.target, neurons=neurons / self.images, levels=self.levels.get(node.target), spikes=spikes / self.images)
            row["firing_rate"] = spikes / (neurons * self.T) if neurons else 0.0
            shares = (100 * self.cases[node].double() / max(1, neurons)).tolist() if self.levels.get(node.target) else [None] * 6
            row |= dict(zip(CASES, shares))
            row |= dict(SOPs=fed[node] / self.images, MACs=0, theta_min=low, theta_max=high, theta_spread=(high - low) / low)
            found.append(row | {"energy_pJ": row["SOPs"] * self._energy_of(node)})
        macs = self._macs(sources, self.T)
        sops, spikes = fed["image"] / self.images, self.image_spikes[self.T] / self.images
        image = dict.fromkeys(FIELDS) | dict(layer="image", spikes=spikes, SOPs=sops, MACs=macs)
        image["energy_pJ"] = macs * self.energy_mac + sops * self.energy_ac
        return [image, *found]

    def _energy_of(self, source):
        """pJ of one SOP behind a neuron layer, or the image."""
        layer = None if source == "image" else self.gm.get_submodule(source.target)
        return self.energy_mac if _multiplies(layer) else self.energy_ac

    def _macs(self, sources, t):
        """MACs per image, in t steps."""
        of = {}  # {product: what reaches its operands}
        for operand, found in sources.items():
            of.setdefault(operand.node, set()).update(found)
        each = self._multiplications()
        return sum(each[node] for node in of if not of[node]) + t * sum(each[node] for node in of if "layer" in of[node])

    def _multiplications(self):
        """{product: multiplications per image without the zeros of borders}"""
        return {operand.node: round(work * inside) for operand, (work, _, inside) in self.work.items()}

    def over_time(self) -> list[dict[str, Any]]:
        """What t steps cost, one dictionary per t (powers of two, and T): t, spikes, SOPs, MACs, energy_pJ per image, energy_ratio (E_SNN/E_ANN)."""
        sources, ann, found = self.sources(), self._of_ann()["ann_energy_pJ"], []
        for t in sorted(self.spikes):
            fed, macs = self._spikes_into_layers(sources, t), self._macs(sources, t)
            sops = sum(fed.values()) / self.images
            energy = sum(many * self._energy_of(source) for source, many in fed.items()) / self.images + macs * self.energy_mac
            row = dict(t=t, spikes=sum(self.spikes[t].values()) / self.images, SOPs=sops, MACs=macs, energy_pJ=energy)
            found.append(row | dict(energy_ratio=energy / ann if ann else None))
        return found

    def _spikes_into_layers(self, sources, t):
        """SOPs caused by each neuron layer and by the image's spikes in t steps, over all images. Another layer's output counts as MACs instead."""
        found = dict.fromkeys([*self.plan.firing, "image"], 0.0)
        emitted = self.spikes[t] | {"image": self.image_spikes[t]}
        dense = {operand.node for operand in self.work if "layer" in sources[operand]}
        for operand, (work, inputs, inside) in self.work.items():
            fan_out, of = work / inputs * inside, sources[operand] if operand.node not in dense else ()
            if operand in self.entered[t] and of:
                for source, share in shares(of, emitted).items():
                    found[source] += share * self.entered[t][operand] * fan_out
                continue
            for source in of:
                found[source] += emitted[source] * fan_out
        return found

    def _of_ann(self):
        """The cost, per image, of one pass of the network that this one was converted from."""
        macs = sum(self._multiplications().values())
        return dict(ann_MACs=macs, ann_energy_pJ=macs * self.energy_mac)

    def _neurobench(self, total, graded):
        """The totals under the names of NeuroBench (Yik et al., Nature Communications 2025): footprint in bytes of weights and states,
        activation_sparsity, the share of neurons and steps without a spike, and synaptic_operations per image: Effective_MACs, Effective_ACs, and
        Dense, what all products would take at every step, with borders. graded: SOPs of neurons that may send
        more than 1, which NeuroBench counts among the MACs.
        """
        weights = [*self.gm.parameters(), *self.gm.buffers()]
        states = total["neurons"] * (12 if any(t.dtype == torch.float64 for t in weights) else 8)
        dense = self.T * sum({operand.node: work for operand, (work, *_) in self.work.items()}.values())
        return dict(
            footprint=round(sum(t.nbytes for t in weights) + states), activation_sparsity=1 - total["firing_rate"],
            synaptic_operations=dict(Effective_MACs=total["MACs"] + graded, Effective_ACs=total["SOPs"] - graded, Dense=dense),
        )  # fmt: skip

    def totals(self) -> dict[str, Any]:
        """Sums per image, of the ANN too, the firing rate over all neurons, the largest and the mean threshold spread of a layer; `neurobench`: the
        same under the names of NeuroBench."""
        rows = self.rows()
        ann = self._of_ann()
        energy = sum(r["energy_pJ"] for r in rows)
        ratio = energy / ann["ann_energy_pJ"] if ann["ann_energy_pJ"] else None
        layers = rows[1:]
        graded = sum(r["SOPs"] for r in layers if self.gm.get_submodule(r["layer"]).most > 1)
        spreads = [r["theta_spread"] for r in layers]
        neurons = sum(r["neurons"] for r in layers)
        total = dict(
            T=self.T, images=self.images, neurons=neurons, spikes=sum(r["spikes"] for r in layers),
            firing_rate=sum(r["spikes"] for r in layers) / (neurons * self.T) if neurons else 0.0, SOPs=sum(r["SOPs"] for r in rows),
            MACs=rows[0]["MACs"], energy_pJ=energy, **ann, energy_ratio=ratio, theta_spread_max=max(spreads),
            theta_spread_mean=math.fsum(spreads) / len(spreads), energy_ac_pJ=self.energy_ac, energy_mac_pJ=self.energy_mac,
        )  # fmt: skip
        return total | dict(neurobench=self._neurobench(total, graded))

    def save_csv(self, path: str | Path) -> None:
        """The rows as a table, one line per layer."""
        save_rows(path, self.rows())


def _multiplies(layer):
    """Whether the spikes of a layer are factors other than powers of two."""
    return layer is not None and layer.most > 1 and layer.options.get("ladder") != "power"


def _cases(alpha, N, L, T):
    """How many neurons are right at zero, right above it, in cases 1, 2, 3, and within half a level: N/T against alpha/L."""
    whole = torch.int64 if L * T >= 1 << 30 else torch.int32
    excess, zero = (N.to(whole) * L).sub_(alpha.to(whole) * T), alpha == 0
    many, few = excess > 0, excess < 0
    zeros, more, less, fired, silenced = (int(torch.count_nonzero(k)) for k in (zero, many, few, many & zero, few & zero))
    right_zero = zeros - fired - silenced
    # A net count below zero where the level is zero is too few as well: it needs n_min < 0.
    near = int(torch.count_nonzero(excess.abs_() * 2 <= T))
    return torch.tensor([right_zero, alpha.numel() - right_zero - more - less, fired, more - fired, less, near])

"""Unevenness cases, firing rates, SOPs, energy and threshold spread against counts made by hand."""

import copy
import csv

import pytest
import torch

import snnfast
from snnfast import nn
from snnfast.evaluation.statistics import FIELDS, Statistics


@pytest.fixture(scope="module")
def net():
    """A residual network with 1 x 1 convolutions, whose fan-out has no borders, and uneven thresholds per channel."""

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = torch.nn.Conv2d(2, 6, 3), torch.nn.Conv2d(6, 8, 1), torch.nn.Conv2d(6, 8, 1)
            self.one, self.two, self.pool, self.fc = (
                nn.CQCFS(6, 4, 0.5),
                nn.CQCFS(8, 8, 0.5),
                torch.nn.AvgPool2d(2),
                torch.nn.Linear(8 * 9, 5),
            )

        def forward(self, x):
            h = self.one(self.a(x))
            return self.fc(self.pool(self.two(self.b(h) + self.c(h))).flatten(1))

    torch.manual_seed(3)
    made = Net().double().eval()
    with torch.no_grad():
        for act in (made.one, made.two):
            act.thresh.mul_(0.5 + torch.rand_like(act.thresh))
    return made


X = torch.randn(7, 2, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def spikes_of(snn, T):
    """The emitted spikes of each layer [T, B, ...] as whole numbers, and their net counts."""
    found = {}

    def keep(name, neuron):
        fire = neuron.fire

        def run(*args, **kwargs):
            s, state = fire(*args, **kwargs)
            found.setdefault(name, []).append((s / neuron.theta.view(-1, 1, 1)).round())
            return s, state

        neuron.fire = run

    for name, neuron in snn.neurons():
        keep(name, neuron)
    snn.logits(X, T, chunk=1)
    for _, neuron in snn.neurons():
        del neuron.fire
    return {name: torch.cat(rows)[-T:] for name, rows in found.items()}


def act_theta(net, name):
    return getattr(net, name).thresh.detach().view(-1, 1, 1)


@pytest.mark.parametrize("method", ["if", "stbif", "snm", "srp", "cos"])
@pytest.mark.parametrize("T", [4, 6, 16])
def test_against_counts_by_hand(net, method, T):
    snn = snnfast.convert(net, method)
    spikes = spikes_of(snn, T)
    report = snnfast.evaluate(
        snn, [(X[:4], torch.zeros(4, dtype=torch.long)), (X[4:], torch.zeros(3, dtype=torch.long))], T=T, chunk=5, statistics=True
    )
    rows = {row["layer"]: row for row in report.layers}
    with torch.no_grad():
        h = net.a(X)
        levels = {"one": torch.round(net.one(h) / net.one.thresh.view(-1, 1, 1) * 4)}
        z = net.b(net.one(h)) + net.c(net.one(h))
        levels["two"] = torch.round(net.two(z) / net.two.thresh.view(-1, 1, 1) * 8)
    for name, L in (("one", 4), ("two", 8)):
        s, alpha, row = spikes[name], levels[name], rows[name]
        N, many = s.sum(0), s[0].numel()
        shares = [
            (alpha == 0) & (N == 0), (alpha > 0) & (N * L == alpha * T), (alpha == 0) & (N > 0), (alpha > 0) & (N * L > alpha * T),
            (alpha > 0) & (N * L < alpha * T),
        ]  # fmt: skip
        keys = ("right_zero", "right_above", "case1", "case2", "case3")
        assert [row[k] for k in keys] == pytest.approx([100 * float(c.double().mean()) for c in shares])
        assert sum(row[k] for k in keys) == pytest.approx(100)
        near = (N / T - alpha / L).abs() <= 0.5 / L + 1e-9
        assert row["within_half_level"] == pytest.approx(100 * float(near.double().mean())) and row["within_half_level"] > 0
        assert row["firing_rate"] == pytest.approx(float(s.abs().sum()) / (many * T)) and row["neurons"] == many / 7
        # One spike of `one` meets 8 weights in b and 8 in c; what of `two` comes through the pooling and is not 0, 5 in fc.
        arrives = s.abs().sum() if name == "one" else net.pool((s * act_theta(net, name)).flatten(0, 1)).count_nonzero()
        assert row["SOPs"] == pytest.approx(float(arrives) / 7 * (16 if name == "one" else 5))
        theta = getattr(net, name).thresh.detach()
        assert row["theta_spread"] == pytest.approx(float((theta.max() - theta.min()) / theta.min()))
        assert row["energy_pJ"] == pytest.approx(0.9 * row["SOPs"])
    assert rows["image"]["MACs"] == 6 * 6 * 6 * 18 and rows["image"]["energy_pJ"] == pytest.approx(4.6 * 6 * 6 * 6 * 18)
    # The network itself: 18 products for each of 6 x 6 x 6 outputs, then every output of one pass.
    _of_the_network(net, report.totals, T)
    if method == "stbif":
        assert any((s < 0).any() for s in spikes.values())
    total = report.totals
    assert total["SOPs"] == pytest.approx(rows["one"]["SOPs"] + rows["two"]["SOPs"]) and total["images"] == 7 and total["T"] == T
    assert total["theta_spread_max"] == max(rows["one"]["theta_spread"], rows["two"]["theta_spread"])


def _of_the_network(net, total, T):
    """MACs of one pass, counted by hooks, and what follows from them."""
    macs, dense = [], []

    def seen(layer, inputs, y):
        dense.append(y[0].numel() * layer.weight[0].numel())
        macs.append(dense[-1])
        if isinstance(layer, torch.nn.Conv2d):  # products with the zeros of the border give nothing
            inside = torch.nn.functional.conv2d(
                torch.ones_like(inputs[0][:1]), torch.ones_like(layer.weight), None, layer.stride, layer.padding
            )
            macs[-1] = float(inside.sum())

    hooks = [m.register_forward_hook(seen) for m in net.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
    with torch.no_grad():
        net(X)
    for hook in hooks:
        hook.remove()
    assert total["ann_MACs"] == pytest.approx(sum(macs)) and total["ann_energy_pJ"] == pytest.approx(4.6 * sum(macs))
    assert total["energy_ratio"] == pytest.approx(total["energy_pJ"] / (4.6 * sum(macs)))
    found = total["neurobench"]
    assert found["activation_sparsity"] == 1 - total["firing_rate"]
    assert found["synaptic_operations"] == dict(Effective_MACs=total["MACs"], Effective_ACs=total["SOPs"], Dense=T * sum(dense))
    weights = sum(p.nbytes for p in net.parameters())
    assert weights < found["footprint"] < weights + 12 * total["neurons"] + 2000


def test_what_it_costs_is_told_and_drawn(net, tmp_path):
    """Beside the network; a network of ReLUs, which has no levels to be uneven against, has no empty panel."""
    from PIL import Image

    relu = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(256, 3)).double()
    sizes = []
    for name, snn in (("levels", snnfast.convert(net)), ("none", snnfast.convert(relu, calibrate=X))):
        report = snnfast.evaluate(snn, [(X, torch.zeros(7, dtype=torch.long))], T=8, statistics=True)
        told = next(line for line in report.notes() if "E_SNN/E_ANN" in line)
        assert (
            f"E_SNN/E_ANN {report.totals['energy_ratio']:.3g} (the ANN: {report.totals['ann_MACs'] / 1e6:.2f} M MACs, without borders)"
            in told
        )
        assert report.columns()[-1]["energy_ratio"] == pytest.approx(report.totals["energy_ratio"])
        report.save(tmp_path / name)
        sizes.append(Image.open(tmp_path / name / "layers.png").width)
    assert sizes == [1650, 900]
    inside = (3 * 8 - 2) ** 2  # of 3 x 3 places on 8 x 8: without those of the border
    assert report.totals["ann_MACs"] == pytest.approx(8 * inside + 256 * 3)
    assert report.totals["neurobench"]["synaptic_operations"]["Dense"] == 8 * (64 * 4 * 18 + 256 * 3)


def test_sanity_of_the_first_layer(net):
    """A constant current: case 1 is 0 for T <= L, and every error is 0 for T = L."""
    for T in (1, 2, 3, 4):
        row = snnfast.evaluate(snnfast.convert(net), [(X, torch.zeros(7, dtype=torch.long))], T=T, statistics=True).layers[1]
        assert row["layer"] == "one" and row["case1"] == 0
        assert (row["case2"] == row["case3"] == 0) == (T == 4)


def test_constants_chunks_and_csv(net, tmp_path):
    snn = snnfast.convert(net, "stbif")
    found = []
    for chunk in (1, 9):
        collected = Statistics(snn, energy_ac=0.1, energy_mac=3.2)
        snnfast.evaluate(snn, [(X, torch.zeros(7, dtype=torch.long))], T=9, chunk=chunk, statistics=collected)
        found.append(collected.rows())
    assert found[0] == found[1] and found[0][1]["energy_pJ"] == pytest.approx(0.1 * found[0][1]["SOPs"])
    collected.save_csv(tmp_path / "layers.csv")
    with open(tmp_path / "layers.csv") as file:
        read = list(csv.DictReader(file))
    assert (
        tuple(read[0]) == FIELDS and [r["layer"] for r in read] == ["image", "one", "two"] and float(read[2]["SOPs"]) == found[0][2]["SOPs"]
    )
    assert collected.totals()["energy_pJ"] == pytest.approx(sum(r["energy_pJ"] for r in found[0]))


def test_without_levels_and_with_poisson_input():
    body = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten(), torch.nn.Linear(36, 3)
    ).double()
    snn = snnfast.convert(body, calibrate=X, inputs="poisson")
    report = snnfast.evaluate(snn, [(X, torch.zeros(7, dtype=torch.long))], T=5, statistics=True)
    row = report.layers[1]
    assert row["levels"] is None and row["case1"] is None and 0 < row["firing_rate"] < 1 and row["SOPs"] > 0
    image = report.layers[0]
    spikes = snnfast.runtime.inputs.spikes(X, snn.clock.amplitude, 0, 0, 5, 0).count_nonzero().item()
    # A convolution without borders: 6 x 6 outputs of 4 channels from 8 x 8 x 2 inputs, 18 products each.
    assert (
        image["spikes"] == pytest.approx(spikes / 7)
        and image["SOPs"] == pytest.approx(spikes / 7 * (4 * 36 * 18) / 128)
        and image["MACs"] == 0
    )
    assert report.totals["SOPs"] == pytest.approx(image["SOPs"] + row["SOPs"])


class Functional(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.randn(5, 4).double())

    def forward(self, x):
        return torch.nn.functional.linear(x, self.w)


def test_layers_behind_layers_multiply_at_every_step():
    for second in (torch.nn.Linear(4, 5).double(), Functional()):
        net = torch.nn.Sequential(torch.nn.Linear(3, 6), nn.QCFS(4, 0.5), torch.nn.Linear(6, 4)).double().append(second)
        x = torch.randn(8, 3, dtype=torch.float64)
        for T in (1, 6):
            report = snnfast.evaluate(snnfast.convert(net), [(x, torch.zeros(8, dtype=torch.long))], T=T, statistics=True)
            assert report.layers[0]["MACs"] == 18 + T * 20 and report.layers[1]["SOPs"] == pytest.approx(4 * report.layers[1]["spikes"])


def test_nothing_seen(net):
    with pytest.raises(ValueError, match="no image was seen"):
        Statistics(snnfast.convert(net)).rows()
    with pytest.raises(ValueError, match="energy_ac must be > 0"):
        Statistics(snnfast.convert(net), energy_ac=0)


@pytest.mark.parametrize("how", [dict(), dict(method="snm"), dict(method="srp"), dict(method="cos"), dict(poisson=3.0)], ids=str)
@pytest.mark.parametrize("T", [1, 7, 20])
def test_spikes_over_time_do_not_depend_on_the_chunk(net, how, T):
    """Marks inside of a chunk, at its end, and in the second one."""
    how = dict(how)
    if amplitude := how.pop("poisson", None):
        how |= dict(inputs="poisson", amplitude=amplitude)
    snn = snnfast.convert(net, **how)
    T += 4 * (how.get("method") == "cos")  # which wants its first steps whole

    def over_time(chunk):
        counted = Statistics(snn)
        for _ in snn.chunks(X, T, chunk, statistics=counted):
            pass
        return counted.over_time()

    steps = over_time(1)
    assert [row["t"] for row in steps][-1] == T and steps[-1]["spikes"] > 0
    for chunk in (3, 5, 16, T):
        assert over_time(chunk) == steps


def test_marks_of_a_differential_run_that_stops(chunks=(1, 3, 12, 64)):
    """Idle chunks are not run: what was counted stays."""
    torch.manual_seed(0)
    net = snnfast.models.vit_tiny(image_size=8, patch_size=4, width=0.25, activation="qcfs", levels=8, depth=2).double().eval()
    snn, x = snnfast.convert(net), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    found = []
    for chunk in chunks:
        counted = Statistics(snn)
        list(snn.chunks(x, 64, chunk, statistics=counted, stop=True, on_end=lambda *counts: None))
        found.append(counted.over_time())
    assert all(rows == found[0] for rows in found) and found[0][-1]["spikes"] > 0
    assert found[0][-1]["spikes"] == found[0][-2]["spikes"], "it is idle after 32 steps"


@pytest.mark.parametrize("shape", [(3, 2), (3, 2, 5), (2, 3, 4, 5, 6)])
def test_nonzeros(shape):
    from snnfast.runtime.run import nonzeros

    s = torch.randint(-1, 2, shape).float() * 0.37
    assert nonzeros(s) == int(torch.count_nonzero(s))
    assert nonzeros(s.bfloat16()) == nonzeros(s)


class Parts(torch.nn.Module):
    """What stands between a neuron and a product: a part of the channels, poolings, a sum, an upsampling, a strided border."""

    def __init__(self, between, last):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.act, self.between, self.last, self.end = (
            torch.nn.Conv2d(2, 6, 3, padding=1),
            nn.QCFS(4, 1.0),
            between,
            last,
            nn.QCFS(4, 1.0),
        )
        self.fc = torch.nn.LazyLinear(3)

    def forward(self, x):
        return self.fc(self.end(self.last(self.between(self.act(self.a(x))))).flatten(1))


BETWEEN = {
    "nothing, a border": (lambda h: h, torch.nn.Conv2d(6, 4, 3, padding=1)),
    "nothing, strides": (lambda h: h, torch.nn.Conv2d(6, 4, 3, stride=2, padding=1)),
    "nothing, dilation": (lambda h: h, torch.nn.Conv2d(6, 4, 3, dilation=2, padding=2)),
    "half of the channels": (lambda h: h.chunk(2, 1)[1], torch.nn.Conv2d(3, 4, 3, padding=1)),
    "groups": (lambda h: h, torch.nn.Conv2d(6, 6, 3, padding=1, groups=6)),
    "max pooling": (torch.nn.MaxPool2d(2), torch.nn.Conv2d(6, 4, 3, padding=1)),
    "average pooling": (torch.nn.AvgPool2d(2), torch.nn.Conv2d(6, 4, 3, padding=1)),
    "upsampling": (torch.nn.Upsample(scale_factor=2), torch.nn.Conv2d(6, 4, 3, padding=1)),
    "itself, added": (lambda h: h + h.roll(1, 2), torch.nn.Conv2d(6, 4, 3, padding=1)),
    "transposed": (lambda h: h, torch.nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1)),
}


@pytest.mark.parametrize("between", BETWEEN)
def test_what_enters_a_product_is_counted(between):
    """Against the accumulates that the inputs that are not zero cause, one by one. A fan-out is an average over the map, and spikes are not spread
    evenly: the two differ by some percent. Without the border's share, or what the pooling takes, they differ by 40 % and more."""
    what, last = BETWEEN[between]
    net = Parts(what, last)
    net(X.float())
    net = net.double().eval()
    snn, seen = snnfast.convert(net, sample=X), []
    report = snnfast.evaluate(snn, [(X, torch.zeros(7, dtype=torch.long))], T=9, chunk=4, statistics=True)
    layer = snn.gm.get_submodule("last")
    hook = layer.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0].clone()))
    snn.logits(X, 9)
    hook.remove()
    ones = copy.deepcopy(layer).requires_grad_(False)
    ones.weight.fill_(1.0), ones.bias.zero_()
    exact = float(ones((torch.cat(seen) != 0).double()).sum()) / 7
    row = next(row for row in report.layers if row["layer"] == "act")
    assert row["SOPs"] == pytest.approx(exact, rel=0.08)

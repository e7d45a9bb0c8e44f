"""Operations of products of two values (attention), and of products behind functions, against counts by hand: spikes times what each meets."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import snnfast
from snnfast.evaluation.statistics import Statistics

N, D, B, T = 5, 6, 7, 16  # tokens, channels, images, steps


class Attention(nn.Module):
    """(q k^T) v of quantised q, k, v [B, N, D], with a quantised map."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.q, self.k, self.v = (nn.Sequential(nn.Linear(D, D), snnfast.nn.QCFS(8, 1.0)) for _ in range(3))
        self.map, self.head = snnfast.nn.QCFS(8, 1.0), nn.Linear(D, 3)

    def forward(self, x):
        q, k, v = self.q(x), self.k(x), self.v(x)
        if self.how == "fused":
            y = F.scaled_dot_product_attention(q, k, v)
        elif self.how == "einsum":
            y = torch.einsum("bnm,bmd->bnd", self.map(torch.einsum("bnd,bmd->bnm", q, k) / 4), v)
        else:
            y = self.map(q @ k.transpose(1, 2) / 4) @ v
        return self.head(y).mean(1)


def counted(net, mode, T=T, **how):
    torch.manual_seed(0)
    x = torch.randn(B, N, D)
    snn = snnfast.convert(net.eval(), mode=mode, sample=x, **how)
    statistics = Statistics(snn)
    report = snnfast.evaluate(snn, TensorDataset(x, torch.zeros(B, dtype=torch.long)), T=T, batch=4, chunk=3, statistics=statistics)
    rows = {row["layer"]: row for row in statistics.rows()}
    return snn, statistics, rows, report


@pytest.mark.parametrize("how", ["matmul", "einsum"])
def test_a_spike_of_either_factor_meets_the_other(how):
    """In mode "differential": of q_t K_t + Q_(t-1) k_t each spike of q meets N values, and so does each of k; of the map D, of v N."""
    torch.manual_seed(0)
    _, statistics, rows, report = counted(Attention(how), "differential")
    image, meets = rows.pop("image"), {"q.1": N, "k.1": N, "map": D, "v.1": N}
    assert {name: row["SOPs"] for name, row in rows.items()} == pytest.approx(
        {name: rows[name]["spikes"] * many for name, many in meets.items()}
    )
    assert all(row["spikes"] > 0 for row in rows.values())
    own = 3 * N * D * D  # q, k, v of the image, once; the head takes another layer's output, at every step
    assert image["MACs"] == own + T * N * D * 3
    assert report.totals["ann_MACs"] == own + N * N * D + N * N * D + N * D * 3
    assert report.totals["neurobench"]["synaptic_operations"]["Dense"] == T * report.totals["ann_MACs"]
    again = statistics.empty()
    again.add(statistics.state())
    assert again.rows() == statistics.rows() and again.over_time() == statistics.over_time()


def test_step_by_step_the_first_factor_counts():
    torch.manual_seed(0)
    _, _, rows, _ = counted(Attention("matmul"), "per_step")
    meets = {"q.1": N, "k.1": 0, "map": D, "v.1": 0}
    assert {name: rows[name]["SOPs"] for name in meets} == pytest.approx(
        {name: rows[name]["spikes"] * many for name, many in meets.items()}
    )


@pytest.mark.parametrize("mode", ["differential", "per_step"])
def test_a_product_inside_of_a_function_multiplies(mode):
    """torch's fused attention has a softmax between its two products: both are MACs, at every step."""
    torch.manual_seed(0)
    _, _, rows, report = counted(Attention("fused"), mode)
    assert rows["image"]["MACs"] == 3 * N * D * D + T * (2 * N * N * D + N * D * 3)
    assert rows["q.1"]["SOPs"] == rows["k.1"]["SOPs"] == rows["v.1"]["SOPs"] == 0 and report.totals["SOPs"] == 0
    assert report.totals["ann_MACs"] == 3 * N * D * D + 2 * N * N * D + N * D * 3


@pytest.mark.parametrize("between", [nn.LayerNorm(D), nn.GELU(), nn.Softmax(-1), nn.Identity()])
def test_a_product_behind_a_function_multiplies(between):
    """What a layer norm gives are real values, not spikes: MACs at every step. Behind nothing they are SOPs."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(D, D), snnfast.nn.QCFS(8, 1.0), between, nn.Linear(D, 3), nn.Flatten(), nn.Linear(3 * N, 3))
    _, _, rows, _ = counted(net, "differential")
    dense = not isinstance(between, nn.Identity)
    assert rows["image"]["MACs"] == N * D * D + T * (dense * N * D * 3 + 9 * N)
    assert rows["1"]["SOPs"] == pytest.approx(0 if dense else 3 * rows["1"]["spikes"]) and rows["1"]["spikes"] > 0


class Factors(nn.Module):
    """A product of quantised values with something else."""

    def __init__(self, product):
        super().__init__()
        self.product, self.a, self.head = product, nn.Sequential(nn.Linear(D, D), snnfast.nn.QCFS(8, 1.0)), nn.Linear(N, 3)
        self.weight, self.left = nn.Parameter(torch.randn(D, N)), nn.Parameter(torch.randn(N, D))

    def forward(self, x):
        return self.head(self.product(self, self.a(x), x)).mean(1)


@pytest.mark.parametrize("product, meets", [
    (lambda net, a, x: torch.einsum("bnd,bmd->bnm", a, a), 2 * N), (lambda net, a, x: a @ a.transpose(1, 2), 2 * N),
    (lambda net, a, x: a @ net.weight, N), (lambda net, a, x: net.left @ a.transpose(1, 2), N), (lambda net, a, x: a @ x.transpose(1, 2), N),
], ids=["the same twice", "its transpose", "a weight", "a weight first", "the image"])  # fmt: skip
def test_factors_of_other_kinds(product, meets):
    """Values times themselves: each spike counts in both places. A weight, or the image, is a factor that does not come over time."""
    torch.manual_seed(0)
    _, _, rows, report = counted(Factors(product), "differential")
    assert rows["a.1"]["SOPs"] == pytest.approx(meets * rows["a.1"]["spikes"]) and rows["a.1"]["spikes"] > 0
    assert report.totals["ann_MACs"] == N * D * D + N * N * D + N * N * 3


@pytest.mark.parametrize("mode", ["differential", "per_step"])
def test_the_order_of_the_factors_does_not_matter_where_one_is_real(mode):
    """Spikes times another layer's output, and that output times spikes: MACs at every step."""
    real = lambda net, a: (a @ net.weight).mean(2, True).expand(-1, -1, D).transpose(1, 2)  # noqa: E731
    for product in (lambda net, a, x: a @ real(net, a), lambda net, a, x: real(net, a).transpose(1, 2) @ a.transpose(1, 2)):
        torch.manual_seed(0)
        _, _, rows, _ = counted(Factors(product), mode)
        assert rows["image"]["MACs"] == N * D * D + T * (N * N * D + N * N * 3)


@pytest.mark.parametrize("take", [lambda h: h.amax(1), lambda h: h.max(1).values])
def test_a_maximum_is_a_pooling(take):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.head = nn.Sequential(nn.Linear(D, D), snnfast.nn.QCFS(8, 1.0)), nn.Linear(D, 3)

        def forward(self, x):
            return self.head(take(self.a(x)))

    torch.manual_seed(0)
    _, _, rows, report = counted(Net(), "differential")
    assert rows["image"]["MACs"] == N * D * D and rows["a.1"]["SOPs"] > 0 and report.totals["ann_MACs"] == N * D * D + 3 * D


def test_a_gate_is_no_matrix_product():
    """An elementwise product adds up nothing, as in the counts of others; what it gives are real values."""

    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = (nn.Sequential(nn.Linear(D, D), snnfast.nn.QCFS(8, 1.0)) for _ in range(2))
            self.head = nn.Linear(N * D, 3)

        def forward(self, x):
            return self.head((self.a(x) * self.b(x)).flatten(1))

    torch.manual_seed(0)
    _, _, rows, report = counted(Gated(), "differential")
    assert report.totals["ann_MACs"] == 2 * N * D * D + N * D * 3 and rows["image"]["MACs"] == 2 * N * D * D + T * N * D * 3


class Behind(nn.Module):
    """A product behind a function of quantised values."""

    def __init__(self, function):
        super().__init__()
        self.function, self.a, self.b = function, nn.Sequential(nn.Linear(D, D), snnfast.nn.QCFS(8, 1.0)), nn.Linear(D, D)
        self.last, self.head = snnfast.nn.QCFS(8, 1.0), nn.Linear(D, 3)

    def forward(self, x):
        return self.head(self.function(self.a(x), self.last(self.b(x)))).mean(1)


@pytest.mark.parametrize("function", [
    lambda a, b: a.clamp(-0.1, 0.7), lambda a, b: a.abs(), lambda a, b: torch.maximum(a, b), lambda a, b: torch.minimum(a, b), lambda a, b: F.gelu(a),
    lambda a, b: F.leaky_relu(a, 0.1), lambda a, b: F.prelu(a, torch.tensor([0.2])),
], ids=["clamp", "abs", "maximum", "minimum", "gelu", "leaky_relu", "prelu"])  # fmt: skip
def test_step_by_step_a_function_that_keeps_zero_passes_spikes(function):
    """Where no spike goes in, nothing comes out, so that each value that arrives costs what a spike does: SOPs, and no MACs."""
    torch.manual_seed(0)
    _, _, rows, report = counted(Behind(function), "per_step")
    assert rows["image"]["MACs"] == report.totals["ann_MACs"] - N * D * 3 and rows["a.1"]["SOPs"] > 0
    assert report.totals["SOPs"] <= 3 * report.totals["spikes"]


@pytest.mark.parametrize(
    "function", [lambda a, b: a.clamp(0.1, 0.7), lambda a, b: F.softplus(a), lambda a, b: torch.maximum(a, torch.full((D,), 0.1)) + b]
)
def test_step_by_step_a_function_that_does_not_multiplies(function):
    torch.manual_seed(0)
    _, _, rows, report = counted(Behind(function), "per_step")
    assert rows["image"]["MACs"] == report.totals["ann_MACs"] - N * D * 3 + T * N * D * 3 and rows["a.1"]["SOPs"] == 0


@pytest.mark.parametrize("mode", ["differential", "per_step"])
def test_of_three_factors_a_spike_meets_a_product(mode):
    """One einsum over three values is MACs at every step; written as two, the first gives real values, and the second is MACs."""
    torch.manual_seed(0)
    _, _, rows, report = counted(Behind(lambda a, b: torch.einsum("bnd,bmd,bme->bne", a, b, b)), mode)
    ann = report.totals["ann_MACs"] - 2 * N * D * D - N * D * 3
    assert ann > 0 and rows["image"]["MACs"] == 2 * N * D * D + T * (ann + N * D * 3) and report.totals["SOPs"] == 0


class Analog(nn.Module):
    """A layer in front of the first neuron."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.act, self.head = layer, snnfast.nn.QCFS(8, 1.0), nn.Linear(D, 3)

    def forward(self, x):
        y = self.layer(x, x) if isinstance(self.layer, nn.Bilinear) else self.layer(x)[0]
        return self.head(self.act(y)).mean(1)


@pytest.mark.parametrize("layer, many", [
    (lambda: nn.LSTM(D, D, batch_first=True), 8 * D * D),
    (lambda: nn.LSTM(D, D // 2, bidirectional=True, batch_first=True), 8 * (D + D // 2) * D // 2),
    (lambda: nn.GRU(D, D, 2, batch_first=True), 12 * D * D), (lambda: nn.RNN(D, D, batch_first=True), 2 * D * D),
    (lambda: nn.Bilinear(D, D, D), D**3),
], ids=["lstm", "both ways", "gru", "rnn", "bilinear"])  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*stays analog")
def test_recurrent_and_bilinear_layers_count(layer, many):
    """Per token all weights; in front of the first neuron they are computed once."""
    torch.manual_seed(0)
    _, _, rows, report = counted(Analog(layer()), "per_step")
    assert rows["image"]["MACs"] == N * many and report.totals["ann_MACs"] == N * (many + 3 * D)

"""Functions over time: their outputs sum to the function of the summed inputs, and a network's to the quantised network's logits."""

import itertools

import pytest
import torch
from conftest import DEVICE, isas, threads
from torch.nn import functional as F
from transformers import NETS, images, network

import snnfast
from snnfast import nn
from snnfast.engines import backends
from snnfast.nn.over_time import Differential
from snnfast.ops import iaf as op
from snnfast.reports import raster
from snnfast.runtime.execution import Execution

EPS = {torch.float64: 1e-12, torch.float32: 1e-5}
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])

FUNCTIONS = {
    "softmax": (lambda x: x.softmax(-1), [(3, 4, 5)]),
    "layer_norm": (torch.nn.LayerNorm(5, elementwise_affine=False), [(3, 4, 5)]),
    "gelu": (F.gelu, [(3, 4, 5)]),
    "max_pool2d": (lambda x: F.max_pool2d(x, 2), [(3, 2, 4, 4)]),
    "product": (lambda a, b: a @ b.transpose(-2, -1), [(3, 2, 4, 5), (3, 2, 6, 5)]),
}


@DTYPES
@pytest.mark.parametrize("name", FUNCTIONS)
def test_outputs_sum_to_the_function_of_the_sum(name, dtype):
    function, shapes = FUNCTIONS[name]
    x = [torch.randn(9, *shape, dtype=dtype) for shape in shapes]
    module = Differential(function, name, [True] * len(x))
    y, _ = module.over_time(x, None)
    for t in (1, 4, 9):
        expected = function(*(part[:t].sum(0) for part in x))
        assert torch.allclose(y[:t].sum(0), expected, rtol=0, atol=10 * EPS[dtype] * float(expected.abs().max()))
    parts, state, kept = [], None, [part.clone() for part in x]
    for a, b in ((0, 1), (1, 5), (5, 6), (6, 9)):
        part, state = module.over_time([part[a:b] for part in x], state)
        parts.append(part)
    assert torch.equal(torch.cat(parts), y)  # however time is cut
    assert all(torch.equal(a, b) for a, b in zip(x, kept))


def test_a_product_takes_one_matrix_product_per_step():
    a, b = torch.randn(7, 2, 3, 4), torch.randn(7, 2, 5, 4)
    seen = []
    module = Differential(lambda a, b: (seen.append(a.shape), a @ b.transpose(-2, -1))[1], "product", [True, True])
    y, _ = module.over_time([a, b], None)
    A, B = a.cumsum(0), b.cumsum(0)
    cross = a @ B.transpose(-2, -1) + A @ b.transpose(-2, -1) - a @ b.transpose(-2, -1)  # the three products of SpikeZIP's program
    assert torch.allclose(y, cross, atol=1e-5) and seen == [(2, 3, 4)] * 7


THETAS = {"tensor": (1,), "head": (3, 1, 1), "feature": (5,)}


@DTYPES
@pytest.mark.parametrize("theta", THETAS)
@pytest.mark.parametrize("caps", [(0, 8), (-4, 3)], ids=["unsigned", "signed"])
def test_a_drained_neuron_has_the_level_of_the_sum(theta, caps, dtype):
    """ST-BIF after draining equals clamp(floor(sum x/theta + 1/2), n_min, p_max), in whatever order the inputs came."""
    shape = (2, 3, 4, 5)  # [B, heads, tokens, D]
    theta = (torch.rand(THETAS[theta]) + 0.5).to(dtype)
    x = 2 * torch.randn(6, *shape).to(dtype)
    drain = torch.zeros(24, *shape, dtype=dtype)
    expected = torch.floor(x.double().sum(0) / theta.double() + 0.5).clamp(*caps)
    assert len(expected.unique()) == caps[1] - caps[0] + 1  # every level
    for order in itertools.islice(itertools.permutations(range(6)), 0, 720, 97):
        s, state = snnfast.iaf(torch.cat([x[list(order)], drain]), theta, negative="stbif", caps=caps, spikes="int8")
        assert torch.equal(s.sum(0).double(), expected) and torch.equal(state.count.double(), expected)


def columns():
    """(name, the op iaf_fwd of each column that runs here)."""
    yield "reference", op.OPS.reference_fwd
    for isa in isas():

        def native(*args, isa=isa):
            backends._C.use_isa(isa)
            try:
                return op.iaf_fwd(*args)
            finally:
                backends._C.use_isa(isas()[0])

        yield isa, native
    from snnfast.engines.triton import launch

    on_device = lambda args: [a.to(DEVICE) if isinstance(a, torch.Tensor) else a for a in args]  # noqa: E731
    yield "triton", lambda *args: tuple(r.cpu() for r in launch.iaf_fwd(*on_device(args)))


@DTYPES
def test_a_drained_neuron_in_every_column(dtype):
    x = torch.cat([torch.randn(5, 30), torch.zeros(20, 30)]).to(dtype)
    theta = (torch.rand(5) + 0.5).to(dtype)  # a threshold for each 3 neurons, twice
    spread = theta.repeat_interleave(3).repeat(2).double()
    expected = torch.floor(x.double().sum(0) / spread + 0.5).clamp(-4, 3)
    rule = op.rule_of(negative="stbif", caps=(-4, 3))
    for name, fwd in columns():
        *_, count, _ = fwd(x, theta, None, None, None, 25, 3, 0.5, 2, 0, op.OPS.eq.numbers.pack(rule))
        assert torch.equal(count.double(), expected), name


@DTYPES
@pytest.mark.parametrize("inputs", ["analog", "rate"])
@pytest.mark.parametrize("name", NETS)
def test_a_network_converges_to_the_quantised_one(name, inputs, dtype):
    net = network(name, dtype)
    x = images(net, dtype=dtype)
    snn, expected = snnfast.convert(net, inputs=inputs), net(x)
    assert snn.clock.differential and snn.clock.input_steps == (1 if inputs == "analog" else 8)
    y = snn.logits(x, 96, [4, 96])
    assert (y[1] - expected).abs().max() <= EPS[dtype] * expected.abs().max()
    assert (y[0] - expected).abs().max() > 1e-2 * expected.abs().max()  # it took time


@pytest.mark.parametrize("name", NETS)
def test_nothing_depends_on_how_time_and_images_are_cut(name):
    net = network(name)
    x, snn = images(net, 4), None
    snn = snnfast.convert(net, inputs="rate")
    whole = snn.logits(x, 40, range(1, 41))
    for chunk in (1, 3, 40):
        assert torch.equal(snn.logits(x, 40, range(1, 41), chunk=chunk), whole), chunk
    with threads(1):
        parts = torch.cat([snn.logits(part, 40, range(1, 41)) for part in (x[:1], x[1:])], 1)
    # Products of spikes and spikes are a library's, whose order of sums may follow the batch.
    assert (parts - whole).abs().max() <= 1e-5 * whole.abs().max()


def test_an_idle_run_stops_early_and_gives_the_same():
    net = network("vit")
    x, snn, seen = images(net), snnfast.convert(net), []
    stopped = torch.cat([y for y, _ in snn.run(x, 200, chunk=4, stop=True, observe=lambda node, current, s: seen.append(node))])
    calls = len(seen)
    whole = torch.cat([y for y, _ in snn.run(x, 200, chunk=4, stop=False, observe=lambda node, current, s: seen.append(node))])
    assert torch.equal(stopped, whole) and stopped.shape == (200, 3, 5)
    assert calls < (len(seen) - calls) / 2


def test_a_run_that_is_too_short_says_how_many_neurons_are_not_idle():
    net = network("vit")
    x, snn, found = images(net), snnfast.convert(net), []
    with pytest.warns(UserWarning, match=r"T is too small: \d+ of \d+ neurons are not idle yet"):
        snn.logits(x, 3)
    list(snn.chunks(x, 3, on_end=lambda *counts: found.append(counts)))
    states = dict(list(snn.run(x, 3, on_end=lambda *_: None))[-1][1])
    busy = 0
    for name, neuron in snn.neurons():
        state = states[name.replace(".", "_")]
        theta, (low, high) = neuron.theta_for(state.v), neuron.options["caps"]
        busy += int((((state.v >= theta) & (state.count < high)) | ((state.v < 0) & (state.count > low))).sum())
    assert found == [(busy, sum(s.v.numel() for s in states.values()))] and busy > 0
    list(snn.chunks(x, 96, on_end=lambda *counts: found.append(counts)))
    assert found[1][0] == 0


def test_convolutional_networks_converge_too(tiny):
    """A VGG with ReLU-like activations: levels, average pooling and biases, exact after draining."""
    net, x = tiny
    net = net.double()
    try:
        y = snnfast.convert(net, mode="differential").logits(x.double(), 64, [64])[0]
        assert (y - net(x.double())).abs().max() < 1e-12
    finally:
        net.float()


class Constants(torch.nn.Module):
    """What a differential run must add once: numbers, parameters on either side, biases of functions, a constant part of a cat."""

    def __init__(self):
        super().__init__()
        self.first, self.act = torch.nn.Linear(4, 4), nn.QCFS(8, 1.0)
        self.w, self.b, self.c = (torch.nn.Parameter(torch.randn(*shape)) for shape in ((6, 4), (6,), (1, 6)))
        self.bn, self.more, self.last = torch.nn.BatchNorm1d(6), nn.QCFS(8, 1.0), torch.nn.Linear(10, 3)

    def forward(self, x):
        a = self.first(x)
        h = F.linear(self.act(a), self.w, self.b) + 0.5
        h = self.c - self.bn(1 - h) + a.sum(1, keepdim=True)
        return self.last(torch.cat([self.more(h), a], 1))


@pytest.mark.parametrize("inputs", ["analog", "rate"])
def test_constants_come_once(inputs):
    net = Constants()
    net.train()(torch.randn(64, 4))
    net = net.double().eval()
    x = torch.randn(20, 4, dtype=torch.float64)
    snn = snnfast.convert(net, mode="differential", inputs=inputs, **({"input_steps": 5} if inputs == "rate" else {}))
    for chunk in (1, 4, 60):
        assert (snn.logits(x, 60, [60], chunk)[0] - net(x)).abs().max() < 1e-12


def test_max_pooling_and_masks_of_attention_converge():
    layers = [
        torch.nn.Conv2d(1, 4, 3, padding=1),
        nn.QCFS(8, 1.0),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(4, 6, 3),
        torch.nn.GELU(),
        nn.QCFS(8, 1.0),
    ]
    net = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(24, 3)).double().eval()
    x = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    assert (snnfast.convert(net).logits(x, 64, [64])[0] - net(x)).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_products_in_16_bits(dtype):
    """The quantised network's products are fp32, so levels differ by some; the run still ends idle and near."""
    net = network("vit")
    x, snn = images(net), snnfast.convert(net)

    y = snn.logits(x, 96, [96])[0]
    half = torch.cat(list(snn.chunks(x, 96, execution=Execution(snn.gm, dtype=dtype)))).sum(0)
    assert half.dtype == torch.float32 and (half - y).abs().max() < 0.5 * y.abs().max()


def test_statistics_compare_levels_with_counts():
    net = network("swin", torch.float64)
    x, snn = images(net, dtype=torch.float64), snnfast.convert(net)
    statistics = snnfast.evaluation.statistics.Statistics(snn)
    list(snn.chunks(x, 96, statistics=statistics))
    rows = statistics.rows()[1:]
    assert len(rows) == 24 and all(r["case1"] == r["case2"] == r["case3"] == 0 for r in rows)
    assert all(r["right_above"] > 0 for r in rows)
    short = snnfast.evaluation.statistics.Statistics(snn)
    list(snn.chunks(x, 2, statistics=short, on_end=lambda *_: None))
    assert sum(r["case2"] + r["case3"] for r in short.rows()[1:]) > 1


def test_evaluation_reads_sums():
    net = network("vit")
    x = images(net, 12)
    data = torch.utils.data.TensorDataset(x, net(x).argmax(1))
    report = snnfast.evaluate(snnfast.convert(net), data, T=96, ann=net)
    assert (
        report.accuracy[-1] == 100 and report.distance[-1] < 1e-5 and report.not_idle == [0, report.not_idle[1]] and report.not_idle[1] > 0
    )
    assert report.method["mode"] == "differential" and report.method["input"] == "analog"
    report = snnfast.evaluate(snnfast.convert(net), data, T=2, ann=net)
    assert report.not_idle[0] > 0 and any("T is too small" in line for line in report.notes())
    with pytest.raises(ValueError, match="start_stop reads means"):
        snnfast.evaluate(snnfast.convert(net), data, T=4, start_stop=True)


def test_per_step_keeps_an_error_that_differential_has_not():
    """SEMANTICS section 5: the softmax of each step's logits is biased, so the error stays however large T is."""
    net = network("vit", torch.float64, activation="qcfs")
    x = images(net, 8, torch.float64)
    expected = net(x).detach()
    error = lambda y: float((y - expected).norm() / expected.norm())  # noqa: E731
    per_step = snnfast.convert(net, "if", mode="per_step").logits(x, 2048, [512, 1024, 2048])
    floor = [error(y) for y in per_step]
    assert min(floor) > 0.02 and max(floor) < 1.1 * min(floor)
    assert error(snnfast.convert(net).logits(x, 96, [96])[0]) < 1e-12


def test_the_floor_is_that_of_a_mean_of_functions():
    """One softmax behind one neuron: the per-step answer tends to the mean of softmax over the spikes, not to the softmax of their mean."""
    act = nn.QCFS(8, 1.0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), act, torch.nn.Softmax(-1), torch.nn.Linear(4, 4)).double().eval()
    x = torch.randn(50, 4, dtype=torch.float64)
    rate = (net[0](x) + 0).clamp(0, 1)  # of an IF neuron, T large
    # Spikes of the four neurons at a random step are independent: all 16 patterns with their probabilities, near enough.
    found = snnfast.convert(net, "if", mode="per_step").logits(x, 4096, [1024, 4096])
    patterns = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)), dtype=torch.float64)
    weights = (rate[:, None] * patterns + (1 - rate[:, None]) * (1 - patterns)).prod(-1)
    mean_of_softmax = (weights[..., None] * patterns.softmax(-1)).sum(1)
    softmax_of_mean = rate.softmax(-1)
    biased, exact = net[3](mean_of_softmax), net[3](softmax_of_mean)
    for y in found:
        assert (y - biased).norm() < 0.5 * (y - exact).norm()
    assert 0.005 < float((mean_of_softmax - softmax_of_mean).detach().norm() / softmax_of_mean.detach().norm()) < 0.05


@pytest.mark.parametrize("name", ["vit", "swin", "mst"])
def test_cos_runs_on_transformers(name):
    net = network(name, torch.float64)
    x = images(net, 6, torch.float64)
    a, b = (snnfast.convert(net, method, mode="per_step").logits(x, 12, chunk=chunk) for method, chunk in (("cos", 12), ("cos", 5)))
    assert torch.allclose(a, b, rtol=1e-12) and not torch.allclose(a, snnfast.convert(net, "if", mode="per_step").logits(x, 12))


def test_cos_helps_a_transformer_of_batch_norms():
    """Read at t = 2, calibrated on 4 steps. (Behind layer norms of single steps, whose bias is larger, it may not.)"""
    errors = {"if": 0.0, "cos": 0.0}
    for seed in range(3):
        net = network("mst", torch.float64, seed=seed)
        x = images(net, 16, torch.float64)
        expected = net(x).detach()
        for method in errors:
            y = snnfast.convert(net, method, mode="per_step").logits(x, 4, [2])[0]
            errors[method] += float((y - expected).norm() / expected.norm())
    assert errors["cos"] < errors["if"]


BAD = [
    (dict(mode="both"), "mode must be one of 'per_step', 'differential'"),
    (dict(inputs="noise"), "inputs must be one of 'constant', 'poisson', 'analog', 'rate'"),
    (dict(mode="per_step", inputs="rate"), "inputs='rate' is of mode 'differential'; mode 'per_step' takes 'constant' or 'poisson'"),
    (dict(mode="differential", inputs="constant"), "inputs='constant' is of mode 'per_step'"),
    (dict(input_steps=4), "input_steps is of inputs='rate'"),
    (dict(inputs="rate", input_steps=0), "input_steps must be >= 1, got 0"),
    (dict(mode="differential", method="if"), "method 'stbif' or 'quanta', got 'if'"),
    (dict(mode="differential", method="cos"), "method 'stbif' or 'quanta', got 'cos'"),
    (dict(mode="differential", caps=(0, 3)), "the caps of a neuron are the levels of its activation"),
    (dict(method="if"), r"blocks.0.norm1 \(LayerNorm\) has no spiking form that commutes|softmax .*mode='differential'|mode='per_step'"),
]


@pytest.mark.parametrize("options, message", BAD, ids=[m for _, m in BAD])
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        snnfast.convert(network("vit"), **options)


def test_signed_levels_have_a_differential_form_alone():
    with pytest.raises(ValueError, match="patch_embed.act has levels below 0"):
        snnfast.convert(network("vit, every product of spikes"), "if", mode="per_step")


def test_a_padding_that_is_no_zero_is_refused():
    class Pad(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.act = torch.nn.Linear(4, 4), nn.QCFS(4, 1.0)

        def forward(self, x):
            return F.pad(self.act(self.a(x)), (1, 1), value=0.5)

    with pytest.raises(ValueError, match="pads with 0.5"):
        snnfast.convert(Pad(), mode="differential")


class Of(torch.nn.Module):
    """f(self, x) on two layers around an activation."""

    def __init__(self, f):
        super().__init__()
        self.f, self.l, self.a, self.o = f, torch.nn.Linear(4, 6), nn.QCFS(8, 1.0), torch.nn.Linear(6, 3)
        self.c = torch.nn.Parameter(torch.randn(1, 6))

    def forward(self, x):
        return self.f(self, x)


EXACT = {
    "a mask of -inf that follows from the image": lambda s, x: s.o(
        F.softmax(s.a(s.l(x)) + torch.where(s.l(x) > 0.5, float("-inf"), 0.0).clamp(max=0.0), -1)
    ),
    "a number by name": lambda s, x: s.o(torch.add(s.a(s.l(x)), other=0.5)),
    "alpha": lambda s, x: s.o(torch.add(s.c, s.a(s.l(x)), alpha=-0.5)),
}
REFUSED = {
    "is a constant that is made with a size or dtype": lambda s, x: (lambda h: s.o(h + s.c[:, : h.size(1)]))(s.a(s.l(x))),
    "uses a size of values that come over time": lambda s, x: (lambda h: s.o(F.layer_norm(h, h.shape[-1:])))(s.a(s.l(x))),
    "has a bias that follows from the image": lambda s, x: (lambda h: F.linear(h, s.o.weight, s.o(h)))(s.a(s.l(x))),
    "operands by name": lambda s, x: s.o(torch.mul(input=s.a(s.l(x)), other=2)),
    "to .* has no spiking form": lambda s, x: s.o((s.a(s.l(x)) * 3).to(torch.int64).to(torch.float64)),
}


@pytest.mark.parametrize("what", EXACT)
def test_other_graphs(what):
    net = Of(EXACT[what]).double().eval()
    x = torch.randn(5, 4, dtype=torch.float64)
    assert (snnfast.convert(net, mode="differential").logits(x, 100, [100])[0] - net(x)).abs().max() < 1e-12


@pytest.mark.parametrize("what", REFUSED)
def test_graphs_that_are_refused(what):
    with pytest.raises(ValueError, match=what):
        snnfast.convert(Of(REFUSED[what]).double().eval(), mode="differential")


def test_an_image_that_is_not_in_is_told():
    net, found = network("vit"), []
    list(snnfast.convert(net, inputs="rate", input_steps=50).chunks(images(net), 20, on_end=lambda *counts: found.append(counts)))
    assert found[0][0] == found[0][1] > 0


@pytest.mark.parametrize("options, message", [(dict(v0=0.2), "v0 is of mode 'per_step'"), (dict(maxpool="gated"), "takes 'difference'")])
def test_what_would_not_converge_is_refused(options, message):
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), nn.QCFS(4, 1.0), torch.nn.MaxPool2d(2), torch.nn.Flatten(), torch.nn.Linear(18, 2))
    with pytest.raises(ValueError, match=message):
        snnfast.convert(net, mode="differential", **options)


def test_a_trace_holds_every_step():
    net = network("vit")
    found = raster.record(snnfast.convert(net), images(net), 200)
    assert all(layer["s"].shape[0] == 200 for layer in found.values())

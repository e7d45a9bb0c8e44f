"""Spikes that go to exact products as bytes: the same results as with values, to the last bit, and values wherever somebody else reads them."""

import pytest
import torch
from torch import nn

import snnfast
from snnfast.evaluation.memory_plan import Dry
from snnfast.graph.units import Pooling, pooling_of
from snnfast.graph.vocabulary import module_of
from snnfast.runtime import execution as executions
from snnfast.runtime.execution import Execution
from snnfast.runtime.whole_numbers import summed

X = torch.rand(3, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def Q(levels=4, theta=0.8):
    return snnfast.nn.QCFS(levels, theta)


class Shortcut(nn.Module):
    """Two neurons whose values are added, and one that a product alone reads."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 6, 1)
        self.a, self.b, self.c = Q(), Q(), Q()
        self.fc = nn.Linear(6 * 144, 10)

    def forward(self, x):
        x = self.a(self.one(x))
        return self.fc(self.c(self.three(x + self.b(self.two(x)))).flatten(1))


def plain(pool=None, C=8, size=6):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, C, 3, padding=1), Q(), nn.Conv2d(C, C, 3, padding=1), Q(), nn.Dropout(0.5), pool or nn.AvgPool2d(2),
        nn.Conv2d(C, 5, 3, padding=1), Q(), nn.Identity(), nn.Flatten(), nn.Linear(5 * size**2, 16), Q(), nn.Linear(16, 10),
    ).eval()  # fmt: skip


NETS = {
    "pool": plain,
    "pool with a stride": lambda: plain(nn.AvgPool2d(3, 2), size=5),
    "pool with a border": lambda: plain(nn.AvgPool2d(2, 2, 1), size=7),
    "pool of one place": lambda: plain(nn.AvgPool2d(1), size=12),
    "max pool": lambda: plain(nn.MaxPool2d(2)),
    "adaptive": lambda: plain(nn.AdaptiveAvgPool2d(6)),
    "shortcut": lambda: (torch.manual_seed(0), Shortcut().eval())[1],
}


def runs(snn, monkeypatch, chunk=4, T=9, x=X):
    """(outputs, the nodes that hand over bytes) with bytes, outputs with values alone."""
    found, execution = [], Execution(snn.gm, products="exact")
    for whole in (True, False):
        with monkeypatch.context() as m:
            if not whole:
                m.setattr(executions, "handed_over", lambda execution: set())
            found.append(torch.cat([y.clone() for y in snn.chunks(x, T, chunk, execution=execution)]))
    return found[0], execution.whole(), found[1]


def neurons_of(whole, snn):
    return sum(n in snn.plan().firing for n in whole)


@pytest.mark.parametrize("method", ["if", "stbif", "snm", "srp", "cos", "quanta", "group", "power"])
@pytest.mark.parametrize("name", NETS)
def test_bytes_and_values_give_the_same_bits(name, method, monkeypatch):
    snn = snnfast.convert(NETS[name](), method)
    found, whole, expected = runs(snn, monkeypatch)
    assert torch.equal(found, expected) and found.abs().sum() > 0
    neurons = neurons_of(whole, snn)
    # Values go to a pooling that exact products do not know beforehand, to one whose sums of 32 quanta exceed a byte, and to a sum of two layers.
    all_but = {"max pool": 3, "adaptive": 3, "shortcut": 1}.get(name, 4)
    assert neurons == (all_but if method not in ("quanta", "group", "power") or name == "pool of one place" else min(all_but, 3))


@pytest.mark.parametrize("chunk", [1, 3, 9])
def test_any_chunk(chunk, monkeypatch):
    found, _, expected = runs(snnfast.convert(plain()), monkeypatch, chunk)
    assert torch.equal(found, expected)


def test_a_run_in_differences(monkeypatch):
    snn = snnfast.convert(plain(), "stbif", mode="differential")
    found, whole, expected = runs(snn, monkeypatch, T=16)
    assert torch.equal(found, expected) and whole


def test_thresholds_of_channels(monkeypatch):
    torch.manual_seed(0)
    net = snnfast.models.vgg11(width=0.125, activation="cs-qcfs").eval()
    found, whole, expected = runs(snnfast.convert(net), monkeypatch, x=torch.rand(2, 3, 32, 32))
    assert torch.equal(found, expected) and len(whole) >= 8


def test_sums_beyond_a_byte_are_values(monkeypatch):
    snn = snnfast.convert(plain(nn.AvgPool2d(12), size=1))  # 144 spikes
    found, whole, expected = runs(snn, monkeypatch)
    assert torch.equal(found, expected) and neurons_of(whole, snn) == 3


@pytest.mark.parametrize("layer", [nn.Conv2d, nn.Linear, nn.AvgPool2d, nn.Identity, nn.Flatten])
def test_hooks_see_values(layer):
    """Also those that come after an evaluation was planned."""
    snn, seen = snnfast.convert(plain()), []
    execution = Execution(snn.gm, products="exact")
    before, expected = len(execution.whole()), torch.cat([y.clone() for y in snn.chunks(X, 4, execution=execution)])
    layers = [m for m in snn.gm.modules() if type(m) is layer]
    handles = [m.register_forward_pre_hook(lambda module, args: seen.append(args[0])) for m in layers]
    assert torch.equal(torch.cat([y.clone() for y in snn.chunks(X, 4, execution=execution)]), expected)
    assert seen and all(x.dtype == torch.float32 for x in seen) and len(execution.whole()) < before
    for handle in handles:
        handle.remove()
    assert len(execution.whole()) == before


class Rows(nn.Module):
    """A pooling of values with three dimensions."""

    def __init__(self):
        super().__init__()
        self.a, self.q, self.flat, self.pool = nn.Conv2d(3, 4, 3, padding=1), Q(), nn.Flatten(1, 2), nn.AvgPool2d(2)
        self.b, self.r, self.c = nn.Linear(6, 6), Q(), nn.Linear(6 * 24, 5)

    def forward(self, x):
        return self.c(self.r(self.b(self.pool(self.flat(self.q(self.a(x)))))).flatten(1))


class Functional(nn.Module):
    def __init__(self, *pool):
        super().__init__()
        self.a, self.q, self.b, self.r, self.c = nn.Conv2d(3, 4, 3, padding=1), Q(), nn.Conv2d(4, 5, 1), Q(), nn.LazyLinear(5)
        self.pool = pool

    def forward(self, x):
        return self.c(self.r(self.b(nn.functional.avg_pool2d(self.q(self.a(x)), *self.pool))).flatten(1))


def made(net):
    torch.manual_seed(0)
    net = net().eval()
    net(X)
    return net


def late_stride():
    pool = nn.AvgPool2d(2)
    pool.stride = None
    return plain(pool)


FORMS = {
    "list": lambda: plain(nn.AvgPool2d([2, 2])),
    "list of strides": lambda: plain(nn.AvgPool2d(2, [2, 2])),
    "one in a tuple": lambda: plain(nn.AvgPool2d((2,))),
    "one stride": lambda: plain(nn.AvgPool2d(2, (2,))),
    "list of borders": lambda: plain(nn.AvgPool2d(3, 2, [1, 1]), size=6),
    "no stride": late_stride,
    "three dimensions": lambda: made(Rows),
    "function": lambda: made(lambda: Functional(2)),
    "function with a border": lambda: made(lambda: Functional((3, 2), 2, 1)),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_a_pooling(name, monkeypatch):
    snn = snnfast.convert(FORMS[name](), "stbif")
    found, whole, expected = runs(snn, monkeypatch)
    assert torch.equal(found, expected) and sum(pooling_of(n, module_of(snn.gm, n)) is not None for n in whole) == 1


def test_pools_of_a_network_that_torch_export_captures(monkeypatch):
    snn = snnfast.convert(plain(), sample=X)
    found, whole, expected = runs(snn, monkeypatch)
    assert torch.equal(found, expected) and neurons_of(whole, snn) == 4


def test_a_pooling_larger_than_its_input_is_told_as_torch_tells_it():
    snn = snnfast.convert(plain(nn.AvgPool2d(5), size=2))
    with pytest.raises(ValueError, match="[Oo]utput size is too small"):
        list(snn.chunks(torch.rand(1, 3, 4, 4), 2, execution=Execution(snn.gm, products="exact")))


def test_who_observes_a_run_sees_values():
    snn, seen = snnfast.convert(plain()), []
    execution = Execution(snn.gm, products="exact")
    y = torch.cat([y.clone() for y in snn.chunks(X, 4, execution=execution)])
    observe = lambda node, current, s: seen.append((s.dtype, sorted({round(v, 4) for v in s.unique().tolist()})))  # noqa: E731
    z = torch.cat([y.clone() for y in snn.chunks(X, 4, execution=execution, observe=observe)])
    assert torch.equal(y, z) and {dtype for dtype, _ in seen} == {torch.float32}
    assert all(set(values) <= {0.0, 0.8} for _, values in seen)


def test_a_report_is_that_of_values(monkeypatch):
    snn, data = snnfast.convert(plain(), "stbif"), [(X, torch.arange(3))]
    reports = []
    for whole in (True, False):
        with monkeypatch.context() as m:
            if not whole:
                m.setattr(executions, "handed_over", lambda execution: set())
            reports.append(snnfast.evaluate(snn, data, T=16, products="exact", statistics=True, ann=plain()))
    one, two = reports
    assert one.loss == two.loss and one.accuracy == two.accuracy
    drop = lambda layers: [{k: v for k, v in row.items() if "seconds" not in k} for row in layers]  # noqa: E731
    assert drop(one.layers) == drop(two.layers) and drop(one.layers)


def test_the_plan_counts_bytes():
    snn = snnfast.convert(plain(C=32))
    sizes = {p: Dry(snn, (3, 12, 12), Execution(snn.gm, products=p), "cpu") for p in ("exact", "sparse")}
    for node in snn.plan().firing:
        exact, sparse = (sizes[p].size[node] for p in ("exact", "sparse"))
        assert sparse == 4 * exact and sizes["exact"].values[node] == sparse
    assert sizes["exact"].chunk(4, 8)[0] < sizes["sparse"].chunk(4, 8)[0]
    assert sizes["exact"].one_pass(sizes["exact"].nodes, 4, library=True) == sizes["sparse"].one_pass(
        sizes["sparse"].nodes, 4, library=True
    )


class Unflattened(nn.Module):
    """A convolution whose input lies in another order than its product reads."""

    def __init__(self):
        super().__init__()
        self.fc, self.q, self.conv, self.out = nn.Linear(12, 64), Q(), nn.Conv2d(16, 8, 1), nn.Linear(32, 5)

    def forward(self, x):
        return self.out(self.conv(self.q(self.fc(x)).unflatten(1, (16, 2, 2))).flatten(1))


def test_the_plan_counts_what_a_pass_of_values_copies():
    """The quantised network is computed with values, of which products copy four bytes each."""
    snn = snnfast.convert(Unflattened().eval())
    dry = Dry(snn, (12,), Execution(snn.gm, products="exact"), "cpu")
    conv = next(n for n in dry.sparse if n.target == "conv")
    assert dry.sparse[conv] == 64 and dry.passing[conv] == 256


@pytest.mark.parametrize(
    "pool", [(2,), (3, 2), (3, 1, 1), ((2, 3), (1, 2), (1, 0)), (1,), (4, 4), (5, 3, 2), ((3, 2), (5, 1), (1, 1)), (8, 1, 4)]
)
def test_sums_are_those_of_the_average(pool):
    x = torch.randint(-3, 4, (2, 5, 8, 9), dtype=torch.int8).contiguous(memory_format=torch.channels_last)
    pair = lambda n: n if isinstance(n, tuple) else (n, n)  # noqa: E731
    layer = nn.AvgPool2d(*pool)
    pooling = Pooling(pair(layer.kernel_size), pair(layer.stride), pair(layer.padding))
    found = summed(x, pooling, lambda numel, dtype: torch.full((numel,), 99, dtype=dtype))
    assert found.dtype == torch.int8 and torch.equal(found.double(), (layer(x.double()) * pooling.window).round())

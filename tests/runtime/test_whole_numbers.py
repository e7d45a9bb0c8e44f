"""Spikes that go to exact products as bytes: the same results as with values, to the last bit, and values wherever somebody else reads them."""

import pytest
import torch
from torch import nn

import snnfast
from snnfast.evaluation.memory_plan import Dry
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
    """(outputs, the whole nodes) with bytes, outputs with values alone."""
    given = Execution(snn.gm, products="exact")
    with monkeypatch.context() as m:
        m.setattr(executions, "handed_over", lambda execution: set())
        values = Execution(snn.gm, products="exact")
    found = [torch.cat([y.clone() for y in snn.chunks(x, T, chunk, execution=each)]) for each in (given, values)]
    return found[0], given, found[1]


@pytest.mark.parametrize("method", ["if", "stbif", "snm", "srp", "cos", "quanta", "group", "power"])
@pytest.mark.parametrize("name", NETS)
def test_bytes_and_values_give_the_same_bits(name, method, monkeypatch):
    snn = snnfast.convert(NETS[name](), method)
    found, execution, expected = runs(snn, monkeypatch)
    assert torch.equal(found, expected) and found.abs().sum() > 0
    neurons = sum(n in snn.plan().firing for n in execution.whole)
    # Values go to a pooling that exact products do not know beforehand, to one whose sums of 32 quanta exceed a byte, and to a sum of two layers.
    all_but = {"max pool": 3, "adaptive": 3, "shortcut": 1}.get(name, 4)
    assert neurons == (all_but if method not in ("quanta", "group", "power") or name == "pool of one place" else min(all_but, 3))


@pytest.mark.parametrize("chunk", [1, 3, 9])
def test_any_chunk(chunk, monkeypatch):
    found, _, expected = runs(snnfast.convert(plain()), monkeypatch, chunk)
    assert torch.equal(found, expected)


def test_a_run_in_differences(monkeypatch):
    snn = snnfast.convert(plain(), "stbif", mode="differential")
    found, execution, expected = runs(snn, monkeypatch, T=16)
    assert torch.equal(found, expected) and execution.whole


def test_thresholds_of_channels(monkeypatch):
    torch.manual_seed(0)
    net = snnfast.models.vgg11(width=0.125, activation="cs-qcfs").eval()
    found, execution, expected = runs(snnfast.convert(net), monkeypatch, x=torch.rand(2, 3, 32, 32))
    assert torch.equal(found, expected) and len(execution.whole) >= 8


def test_sums_beyond_a_byte_are_values(monkeypatch):
    snn = snnfast.convert(plain(nn.AvgPool2d(12), size=1))  # 144 spikes
    found, execution, expected = runs(snn, monkeypatch)
    assert torch.equal(found, expected) and len([n for n in execution.whole if n in snn.plan().firing]) == 3


def test_hooks_see_values():
    snn, seen = snnfast.convert(plain()), []
    layer = snn.gm.get_submodule("6")
    handle = layer.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    execution = Execution(snn.gm, products="exact")
    list(snn.chunks(X, 4, execution=execution))
    assert seen and all(x.dtype == torch.float32 for x in seen)
    handle.remove()
    assert len(Execution(snn.gm, products="exact").whole) > len(execution.whole)


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


@pytest.mark.parametrize("pool", [(2,), (3, 2), (3, 1, 1), ((2, 3), (1, 2), (1, 0)), (1,), (4, 4)])
def test_sums_are_those_of_the_average(pool):
    x = torch.randint(-3, 4, (2, 5, 8, 9), dtype=torch.int8).contiguous(memory_format=torch.channels_last)
    layer = nn.AvgPool2d(*pool)
    kernel = layer.kernel_size if isinstance(layer.kernel_size, tuple) else (layer.kernel_size,) * 2
    found = summed(x, layer, lambda numel, dtype: torch.full((numel,), 99, dtype=dtype))
    assert found.dtype == torch.int8 and torch.equal(found.double(), (layer(x.double()) * (kernel[0] * kernel[1])).round())

"""Exact products in whole networks: the same results in any batch, chunk and number of threads, on every processor; what is told of them."""

import math

import pytest
import torch
from conftest import isas, threads

import snnfast
from snnfast.runtime.execution import Execution


def network(norm=True):
    torch.manual_seed(0)
    q = lambda theta: snnfast.nn.QCFS(4, theta)  # noqa: E731
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 24, 3, padding=1), torch.nn.BatchNorm2d(24) if norm else torch.nn.Identity(), q(0.7), torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(24, 33, 3, padding=1, stride=1), q(0.4), torch.nn.AvgPool2d(2), torch.nn.Conv2d(33, 20, 1, bias=False), q(0.3),
        torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Dropout(), torch.nn.Linear(80, 16), q(0.2), torch.nn.Linear(16, 5),
    ).eval()  # fmt: skip


def images(many=5):
    return torch.randn(many, 3, 16, 16, generator=torch.Generator().manual_seed(3))


def run(snn, x, T=40, chunk=8, products="exact"):
    execution = Execution(snn.gm, x.device, products=products)
    return torch.cat(list(snn.chunks(x, T, chunk, execution=execution))), execution


@pytest.mark.parametrize("method", ["if", "stbif", "srp", "cos"])
def test_a_network_does_not_depend_on_batch_chunk_or_threads(method):
    snn, x = snnfast.convert(network(), method), images()
    whole, execution = run(snn, x)
    assert execution.exact() == ["4", "7", "12", "14"]
    one = torch.cat([run(snn, x[i : i + 1], chunk=13)[0] for i in range(len(x))], 1)
    with threads(1):
        alone, _ = run(snn, x, chunk=40)
    assert torch.equal(whole, one) and torch.equal(whole, alone) and whole.any()
    sparse, _ = run(snn, x, products="sparse")
    assert (whole.mean(0) - sparse.mean(0)).abs().max() < 0.1 * sparse.mean(0).abs().max()  # spikes near the threshold move


def drawn(*shape, seed, scale):
    """Numbers that every processor draws alike: whole ones from -64 to 63, times a power of two."""
    return torch.randint(-64, 64, shape, generator=torch.Generator().manual_seed(seed)) * scale


# Spikes of each layer, and the sum of the outputs, of runs recorded on an x86 processor with AVX-512.
RECORDED = {
    "if": ([400815, 150940, 10688, 1500], "0x1.6796697000000p+4"),
    "stbif": ([400815, 162606, 10888, 1523], "0x1.69a99cd200000p+4"),
}


@pytest.mark.parametrize("isa", isas(), indirect=True)
@pytest.mark.parametrize("method", RECORDED)
def test_a_recorded_run(isa, method):
    """Every processor gets these numbers: no sum depends on it."""
    net = network(False)
    with torch.no_grad():
        for i, (key, p) in enumerate(net.named_parameters()):
            p.copy_(p if key.endswith("thresh") else drawn(*p.shape, seed=i, scale=2.0**-8))
    snn, counts = snnfast.convert(net, method), {}

    def observe(node, current, s):
        counts[node.target] = counts.get(node.target, 0) + int((s != 0).sum())

    execution = Execution(snn.gm, products="exact")
    x = drawn(5, 3, 16, 16, seed=99, scale=2.0**-5)
    y = torch.cat(list(snn.chunks(x, 40, 8, execution=execution, observe=observe)))
    assert (list(counts.values()), math.fsum(y.flatten().tolist()).hex()) == RECORDED[method]


def in_groups(channelwise):
    """Depthwise convolutions, one with two outputs of each channel, and four groups."""
    torch.manual_seed(0)
    q = lambda theta: snnfast.nn.QCFS(4, theta)  # noqa: E731
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 20, 3, padding=1), q(0.7), torch.nn.Conv2d(20, 20, 3, 2, 1, groups=20), q(0.3),
        torch.nn.Conv2d(20, 40, 5, 1, 2, groups=20), torch.nn.BatchNorm2d(40), q(0.3), torch.nn.AvgPool2d(2),
        torch.nn.Conv2d(40, 24, 3, padding=1, groups=4, bias=False), q(0.2),
        torch.nn.Conv2d(24, 24, 1, groups=24), torch.nn.Conv2d(24, 32, 1), q(0.1), torch.nn.Flatten(), torch.nn.Linear(512, 5),
    ).eval()  # fmt: skip
    return snnfast.to_channelwise(net, sample=images()) if channelwise else net


@pytest.mark.parametrize("channelwise", [False, True])
@pytest.mark.parametrize("method", ["if", "stbif"])
def test_convolutions_in_groups(method, channelwise):
    """Exact ones behind spikes and sparse ones elsewhere: neither depends on batch, chunk or threads, and both agree with torch's."""
    snn, x = snnfast.convert(in_groups(channelwise), method), images()
    for products, served in (("exact", ["2", "4", "8", "10"] if channelwise else ["2", "4", "8", "10", "14"]), ("sparse", [])):
        whole, execution = run(snn, x, products=products)
        assert execution.exact() == served
        one = torch.cat([run(snn, x[i : i + 1], chunk=13, products=products)[0] for i in range(len(x))], 1)
        with threads(1):
            alone, _ = run(snn, x, chunk=40, products=products)
        assert torch.equal(whole, one) and torch.equal(whole, alone) and whole.any()
        dense, _ = run(snn, x, products="dense")
        assert (whole.mean(0) - dense.mean(0)).abs().max() < 0.1 * dense.mean(0).abs().max()  # spikes near the threshold move


def test_thresholds_per_channel_and_changed_weights():
    net, x = network(False), images()
    net = snnfast.to_channelwise(net, sample=x)
    snn = snnfast.convert(net)
    found, execution = run(snn, x)
    assert execution.exact() == ["4", "7"]  # behind a flattening a threshold per channel has no one unit
    with torch.no_grad():
        snn.gm.get_submodule("4").weight.mul_(0.5)
        again = torch.cat(list(snn.chunks(x, 40, 8, execution=execution)))
    assert not torch.equal(found, again) and torch.equal(again, run(snn, x)[0])


def test_what_is_not_of_one_unit_stays():
    class Sum(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (torch.nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
            self.q, self.r, self.head = snnfast.nn.QCFS(4, 1.0), snnfast.nn.QCFS(4, 0.3), torch.nn.Linear(3 * 256, 4)

        def forward(self, x):
            h = self.q(self.a(x))
            return self.head((h + self.r(self.b(h))).flatten(1)) + self.c(h).flatten(1)[:, :4]

    torch.manual_seed(1)
    snn = snnfast.convert(Sum().eval())
    assert run(snn, images())[1].exact() == ["b", "c"]


def test_a_pooling_of_more_than_a_byte_is_served_by_the_sparse_product():
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1),
        snnfast.nn.QCFS(4, 1.0),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 4),
    ).eval()
    snn = snnfast.convert(net)
    found, execution = run(snn, images())
    assert execution.exact() == [] and torch.equal(found, run(snn, images(), products="sparse")[0])


def test_evaluation_says_which_layers_are_exact():
    x = images(20)
    data = torch.utils.data.TensorDataset(x, torch.arange(20) % 5)
    report = snnfast.evaluate(snnfast.convert(network()), data, T=16, products="exact", batch=7)
    other = snnfast.evaluate(snnfast.convert(network()), data, T=16, products="exact", batch=20, chunk=3)
    assert report.loss == other.loss and report.settings["products"] == "exact"
    assert report.settings["exact_layers"] == ["4", "7", "12", "14"]
    with pytest.raises(ValueError, match="products 'exact' are in the format of the network"):
        snnfast.evaluate(snnfast.convert(network()), data, T=16, products="exact", dtype="bf16")


def test_statistics_with_exact_products():
    """The levels of the quantised network, which are parts of a threshold, are those of any products; a few spikes move."""
    data = torch.utils.data.TensorDataset(images(20), torch.arange(20) % 5)
    snn = snnfast.convert(network())
    exact, sparse = (snnfast.evaluate(snn, data, T=32, products=products, statistics=True).layers for products in ("exact", "sparse"))
    for a, b in zip(exact[1:], sparse[1:], strict=True):  # the first is the image
        for name in ("right_zero", "right_above", "case1", "case2", "case3", "within_half_level"):
            assert abs(a[name] - b[name]) < 1, (a["layer"], name, a[name], b[name])


def test_weights_that_are_too_large_are_refused_by_layer():
    net = network(False)
    net[4].weight.data.fill_(3e38)
    with pytest.raises(ValueError, match=r"4: weights of output 0 sum to .*; products='sparse' or 'dense' take it"):
        run(snnfast.convert(net), images())

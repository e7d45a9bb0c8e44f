"""Networks with plain ReLUs: thresholds from data, spiking max pooling, Poisson input, other people's networks; what cannot be converted is named."""

import importlib.util

import pytest
import torch
from shares import every
from torch.nn import functional as F

import snnfast
from snnfast import nn
from snnfast.conversion import relu_thresholds
from snnfast.graph.trace import prepared
from snnfast.runtime import inputs


def small(*tail, pool=True):
    torch.manual_seed(1)
    layers = [torch.nn.Conv2d(2, 6, 3, padding=1), torch.nn.BatchNorm2d(6), torch.nn.ReLU(inplace=True)]
    layers += [torch.nn.MaxPool2d(2)] if pool else []
    layers += [
        torch.nn.Conv2d(6, 8, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(8 * (16 if pool else 64), 5),
        *tail,
    ]
    net = torch.nn.Sequential(*layers)
    net.train()(torch.randn(32, 2, 8, 8))
    return net.eval().double()


X = torch.randn(24, 2, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


class Residual(torch.nn.Module):
    """One ReLU module called three times, functional ones, a shortcut with a convolution, += in place."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = torch.nn.Conv2d(2, 4, 3, padding=1), torch.nn.Conv2d(4, 4, 3, padding=1), torch.nn.Conv2d(2, 4, 1)
        self.relu, self.fc = torch.nn.ReLU(inplace=True), torch.nn.Linear(4, 5)

    def forward(self, x):
        h = self.relu(self.a(x))
        y = self.b(h)
        y += self.c(x)
        y = self.relu(y)
        y = F.max_pool2d(y, 2) + F.relu(self.b(y))[:, :, ::2, ::2]
        return self.fc(torch.relu(self.b(self.relu(y))).mean((2, 3)))


def error(net, x, T, **options):
    snn = snnfast.convert(net, calibrate=x, **{"percentile": 100, **options})
    with torch.no_grad():
        return float((snn(x, T=T) - net(x)).abs().max()), snn


@pytest.mark.parametrize("per_channel", [False, True])
def test_approaches_the_network(per_channel):
    """With the maximum as threshold nothing saturates: the error falls as 1/T, through max pooling, shared and functional ReLUs and shortcuts."""
    torch.manual_seed(4)
    for net in (small(), Residual().double()):
        (few, _), (many, snn) = (error(net, X, T, per_channel=per_channel) for T in (8, 512))
        assert many < 0.02 < few, (few, many)
    assert len(snn.neurons()) == 5 and len({n for n, _ in snn.neurons()}) == 5
    assert all(m.theta.numel() == (4 if per_channel else 1) for _, m in snn.neurons())


def test_thresholds_are_percentiles_of_the_non_zero_activations():
    net = small()
    gm = prepared(net)
    nodes = relu_thresholds.relu_nodes(gm)
    values = {}
    relu_thresholds.activations(gm, nodes, [X], lambda node, v: values.__setitem__(node, v))
    for per_channel in (False, True):
        for p in (50.0, 99.0, 100.0):
            found, _ = relu_thresholds.thresholds(gm, nodes, [X[:10], X[10:]], p, "channel" if per_channel else "layer")
            for node in nodes:
                rows = values[node].transpose(0, 1).flatten(1) if per_channel else values[node].reshape(1, -1)
                for row, theta in zip(rows, found[node], strict=True):
                    if not (row > 0).any():
                        assert theta == found[node].max()
                        continue
                    exact = torch.quantile(row[row > 0], p / 100)
                    # A bin is 0.41 % wide; quantile interpolates between neighbours, few of which there are in a channel.
                    close = torch.sort(row[row > 0]).values
                    i = int((close <= exact).sum())
                    lower, upper = close[max(0, i - 2)], close[min(len(close) - 1, i + 1)]
                    assert 0.9959 * lower <= theta <= 1.0041 * upper and (p < 100 or theta == row.max())


def test_thresholds_per_neuron():
    """One per neuron, its own maximum; SNM with them and a spiking output is the network its authors convert."""
    net, seen = small(), {}
    gm = prepared(net)
    relu_thresholds.activations(gm, relu_thresholds.relu_nodes(gm), [X], lambda node, v: seen.__setitem__(node, v))
    snn = snnfast.convert(net, "snm", calibrate=X, percentile=100, per_channel="neuron", output="spikes")
    thetas = [n.theta for _, n in snn.neurons()]
    assert [tuple(t.shape) for t in thetas] == [(6, 8, 8), (8, 4, 4), (5,)]
    largest = list(seen.values())[0].amax(0)
    assert torch.equal(thetas[0][largest > 0], largest[largest > 0])
    with torch.no_grad():
        assert (snn(X, T=1024) - net(X).relu()).abs().max() < 0.02
    assert torch.equal(snn(X, T=9, chunk=2), snn(X, T=9, chunk=9))
    report = snnfast.evaluate(snn, [(X, torch.zeros(24, dtype=torch.long))], T=4, statistics=True)
    assert report.layers[1]["theta_max"] == float(thetas[0].max())
    with pytest.raises(ValueError, match="thresholds per neuron are maxima: give percentile=100"):
        snnfast.convert(net, calibrate=X, per_channel="neuron")
    with pytest.raises(ValueError, match="per_channel must be one of"):
        snnfast.convert(net, calibrate=X, per_channel="pixel")


def test_an_outlier_does_not_make_a_percentile_coarse():
    counts = torch.rand(1, 100_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    counts[0, 0] = 1e5
    net = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Flatten()).double()
    gm = prepared(net)
    theta = relu_thresholds.thresholds(gm, relu_thresholds.relu_nodes(gm), [counts], 99.9)[0][relu_thresholds.relu_nodes(gm)[0]]
    assert float(theta) == pytest.approx(float(torch.quantile(counts, 0.999)), rel=0.0042)


def test_functional_dropout_is_dropped():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = torch.nn.Linear(4, 6), torch.nn.Linear(6, 3)

        def forward(self, x):
            return self.b(F.dropout(F.relu(self.a(x)), 0.2, training=self.training))

    net = Net().eval()
    x = torch.randn(20, 4)
    assert error(net, x, 256)[0] < 0.02


class Deep(torch.nn.Module):
    def forward(self, x):
        return x * float(x.mean())


def test_a_module_that_cannot_be_traced_is_named():
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Sequential(torch.nn.ReLU(), Deep()))
    with pytest.raises(ValueError, match=r"in 1.1 \(Deep\)"):
        snnfast.convert(net, calibrate=torch.randn(8, 4))


def test_channels_and_layers_that_are_never_active():
    net = small()
    with torch.no_grad():
        net[0].weight[2] = 0
        net[0].bias[2], net[1].bias[2] = -1, -1
    theta = snnfast.convert(net, calibrate=X, per_channel=True).neurons()[0][1].theta
    assert theta[2] == theta[[0, 1, 3, 4, 5]].max()
    with torch.no_grad():
        net[1].bias.fill_(-100)
    with pytest.raises(ValueError, match=r"2 \(ReLU\) is never active on the calibration data"):
        snnfast.convert(net, calibrate=X)


def pooled(x, form):
    """The definitions of pooling.py, written out for one pooling of 2 x 2 over [T, B, C, H, W]."""
    S, last, out = torch.zeros_like(x[0]), 0.0, []
    for xt in x:
        S = S + xt
        if form == "difference":
            now = F.max_pool2d(S, 2)
            out.append(now - last)
            last = now
        else:
            windows, values = (t.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4) for t in (S, xt))
            out.append(values.gather(4, windows.argmax(4, keepdim=True)).squeeze(4))
    return torch.stack(out)


@pytest.mark.parametrize("form", ["difference", "gated"])
def test_max_pooling(form):
    pool = snnfast.conversion.max_pooling.Pool(2, form, 2, None, 0, 1, False)
    x = torch.randint(-1, 3, (13, 2, 3, 6, 6)) * 0.75
    whole, _ = pool.over_time([x], None)
    assert torch.equal(whole, pooled(x, form))
    a, state = pool.over_time([x[:5]], None)
    b, _ = pool.over_time([x[5:]], state)
    assert torch.equal(torch.cat([a, b]), whole)
    if form == "difference":
        assert torch.equal(whole.sum(0), F.max_pool2d(x.sum(0), 2))


def test_forms_of_max_pooling_in_a_network():
    net = small()
    found = {form: error(net, X, 256, maxpool=form) for form in ("difference", "gated", "average")}
    assert found["difference"][0] < 0.05 and found["gated"][0] < found["average"][0] and found["average"][0] > 0.1
    for _, snn in found.values():
        assert torch.equal(snn(X, T=9, chunk=2), snn(X, T=9, chunk=9))


def test_chunks_and_methods():
    net = small()
    for method in ("if", "stbif", "srp", "cos"):
        snn = snnfast.convert(net, method, calibrate=X)
        a, b = (snn.logits(X, 12, at=[5, 12], chunk=c) for c in (12, 5))
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)  # a matrix product may sum in another order


def test_softmax_is_taken_of_the_mean():
    for tail in (torch.nn.Softmax(1), torch.nn.LogSoftmax(-1)):
        plain, net = small(), small(tail)
        snn, bare = snnfast.convert(net, calibrate=X), snnfast.convert(plain, calibrate=X)
        assert torch.equal(snn(X, T=16), tail(bare(X, T=16))) and torch.equal(snn.logits(X, 6), bare.logits(X, 6))


def test_poisson():
    x = torch.rand(5, 3, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    whole = inputs.spikes(x, 0.8, 7, 0, 4000, 2)
    assert set(whole.unique().tolist()) == {float(torch.tensor(v)) for v in (-0.8, 0.0, 0.8)}
    mean = whole.mean(0)
    # The deviation of a mean of 4,000 draws is at most 0.8/2/sqrt(4000) = 0.0063; 60 pixels stay within five of them.
    assert (mean - x.clamp(-0.8, 0.8)).abs().max() < 0.032
    parts = torch.cat([inputs.spikes(x, 0.8, 7, 0, 30, 2), inputs.spikes(x, 0.8, 7, 30, 70, 2)])
    assert torch.equal(parts, whole[:100])
    assert torch.equal(inputs.spikes(x[3:], 0.8, 7, 0, 50, 5), whole[:50, 3:]), "an image's spikes depend on its number, not on its batch"
    assert not torch.equal(inputs.spikes(x, 0.8, 8, 0, 50, 2), whole[:50])
    u = inputs.uniform((64, 1000), 3, 5, 0, "cpu")
    assert abs(float(u.mean()) - 0.5) < 0.006 and abs(float(u.var()) - 1 / 12) < 0.002 and float(u.max()) < 1
    assert abs(float(torch.corrcoef(torch.stack([u[:, :-1].flatten(), u[:, 1:].flatten()]))[0, 1])) < 0.02


def test_poisson_network():
    net = small()
    snn = snnfast.convert(net, calibrate=X, inputs="poisson", seed=4)
    assert snn.clock.amplitude == float(X.abs().max())
    whole = snn.logits(X, 10, chunk=10)
    # The spikes are the same; a matrix product of another size may sum in another order.
    assert torch.allclose(snn.logits(X, 10, chunk=3), whole, rtol=1e-9, atol=1e-12)
    assert torch.allclose(torch.cat(list(snn.chunks(X[8:], 10, first=8)), 0), whole[:, 8:], rtol=1e-9, atol=1e-12)
    with torch.no_grad():
        assert (snn(X, T=3000) - net(X)).abs().max() < 0.12 < (snn(X, T=4) - net(X)).abs().max()


def test_quantised_activations_and_relus_mix():
    net = torch.nn.Sequential(
        torch.nn.Linear(4, 6), nn.QCFS(4, 1.0), torch.nn.Linear(6, 6), torch.nn.ReLU6(), torch.nn.Linear(6, 3)
    ).double()
    snn = snnfast.convert(net, calibrate=torch.randn(50, 4).double())
    assert snn.levels == {"1": 4, "3": None} and [n for n, _ in snn.neurons()] == ["1", "3"]
    x, values = torch.randn(50, 4, generator=torch.Generator().manual_seed(2)).double(), []
    net[3].register_forward_hook(lambda m, a, y: values.append(y))
    with torch.no_grad():
        net(x)
    net[3]._forward_hooks.clear()
    theta = snnfast.convert(net, calibrate=x, percentile=100).neurons()[1][1].theta
    assert theta.item() == float(values[0].max()), "the ReLU's threshold is that of the network, quantised activations included"


def test_spiking_output():
    """SNM's last layer spikes too: the output is that of the network where it is above 0, and 0 below."""
    net = small()
    for method in ("if", "snm"):
        snn = snnfast.convert(net, method, calibrate=X, percentile=100, output="spikes")
        steps = snn.logits(X, 40)
        theta = snn.neurons()[-1][1].theta
        assert len(snn.neurons()) == 3 and torch.equal((steps / theta).round() * theta, steps)
        with torch.no_grad():
            assert (snn(X, T=1024) - net(X).relu()).abs().max() < 0.02
    with pytest.raises(ValueError, match="output='spikes' needs calibrate="):
        snnfast.convert(torch.nn.Sequential(nn.QCFS()), output="spikes")


class Branch(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.fc = torch.nn.Conv2d(2, 4, 3), torch.nn.ReLU(), torch.nn.Linear(4, 3)

    def forward(self, x):
        y = self.relu(self.conv(x))
        if y.shape[-1] < 4:
            y = y * 2
        return self.fc(y.mean((2, 3)))


def test_a_branch_on_a_size_is_decided_by_the_calibration_images():
    net = Branch().double()
    for size in (5, 8):
        x = torch.randn(6, 2, size, size, dtype=torch.float64)
        assert error(net, x, 512)[0] < 0.02
    with pytest.raises(ValueError, match="torch.fx cannot trace Branch.forward"):
        snnfast.convert(net)


REFUSED = [
    (torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.GELU()), r"2 \(GELU\) has no spiking form"),
    (torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.LayerNorm(4)), r"2 \(LayerNorm\) has no spiking form"),
    (torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Softmax(0)), r"2 \(Softmax\) works along the images of a batch"),
]


@pytest.mark.parametrize("net, message", REFUSED, ids=[m for _, m in REFUSED])
def test_what_cannot_be_converted_is_named(net, message):
    with pytest.raises(ValueError, match=message):
        snnfast.convert(net, "if", calibrate=torch.randn(8, 4))


def test_bad_arguments():
    net = small()
    for given, message in (
        ({}, "for its ReLUs give calibrate="),
        (dict(calibrate=X, percentile=0), r"percentile must be in \(0, 100\], got 0"),
        (dict(calibrate=X, percentile=101), r"percentile must be in \(0, 100\]"),
        (dict(calibrate=[]), "calibrate gave no images"),
        (dict(calibrate=X, maxpool="minimum"), "maxpool must be one of 'difference', 'gated', 'average'"),
        (dict(calibrate=X, inputs="noise"), "inputs must be one of 'constant', 'poisson', 'analog', 'rate'"),
        (dict(calibrate=X, amplitude=1.0), "amplitude is of inputs='poisson'"),
        (dict(calibrate=X * float("nan")), "not finite|never active"),
    ):
        with pytest.raises(ValueError, match=message):
            snnfast.convert(net, **given)
    with pytest.raises(TypeError, match="calibrate must be images .* got int"):
        snnfast.convert(net, calibrate=3)
    assert len(snnfast.convert(net, calibrate=[X[:0], X]).neurons()) == 2
    with pytest.raises(ValueError, match="percentile must be in"):
        snnfast.convert(torch.nn.Sequential(nn.QCFS()), percentile=-5)
    with pytest.raises(TypeError, match="calibrate must be a torch.Tensor, got str"):
        snnfast.convert(net, calibrate=["image.png"])
    with pytest.raises(ValueError, match=r"2 \(MaxPool2d\) returns the indices"):
        body = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2, return_indices=True))
        snnfast.convert(body, calibrate=X.float())


def others():
    """(name, network) of torchvision and timm, where they are installed, narrow only where they allow it."""
    if importlib.util.find_spec("torchvision"):
        import torchvision.models as tv

        yield from (("torchvision vgg11_bn", tv.vgg11_bn), ("torchvision resnet18", tv.resnet18), ("torchvision resnet50", tv.resnet50))
    if importlib.util.find_spec("timm"):
        import timm

        for name in ("resnet18", "resnet50d", "vgg11"):
            yield f"timm {name}", lambda num_classes, name=name: timm.create_model(name, num_classes=num_classes)


@pytest.mark.parametrize("which", every(2, range(6)))
def test_networks_of_others_convert_without_edits(which):
    found = list(others())
    if which >= len(found):
        pytest.skip("torchvision or timm is not installed")
    name, make = found[which]
    torch.manual_seed(0)
    net, x = make(num_classes=5).eval().requires_grad_(False), torch.randn(2, 3, 32, 32)
    keys = list(net.state_dict())
    snn = snnfast.convert(net, calibrate=x, percentile=100)
    few, many = (float((snn(x, T=T) - net(x)).abs().max()) for T in (4, 128))
    assert many < 0.7 * few, (name, few, many)
    assert (
        list(net.state_dict()) == keys
        and len(snn.neurons())
        == {"vgg": 10, "resnet1": 17, "resnet5": 49 if "50d" not in name else 51}[
            next(k for k in ("vgg", "resnet1", "resnet5") if k in name)
        ]
    )

"""Networks in NIR: written, read back and run in another simulator, spike for spike; what NIR cannot say is refused."""

import importlib.util

import nir
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import snnfast
from snnfast import models
from snnfast.data import declare_operators
from snnfast.models.direct import DirectNetwork, EachLayer, LearntSpikes, Spikes, over_time

T, B = 6, 2


def images(channels=3, size=32):
    torch.manual_seed(1)
    return torch.randn(B, channels, size, size)


def alive(net, x):
    """Batch norms with some shape, and thresholds that the values of x reach, so that neurons fire in every layer."""
    torch.manual_seed(2)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.weight.data.uniform_(1.0, 2.0)
            m.bias.data.uniform_(-0.5, 1.5)

    def fit(m, given):
        top = torch.quantile(given[0].relu().flatten()[:100_000], 0.98).clamp(min=0.01)
        m.thresh.data.copy_(top * torch.empty_like(m.thresh).uniform_(0.8, 1.2))

    hooks = [m.register_forward_pre_hook(fit) for m in net.modules() if isinstance(m, snnfast.nn.QCFS)]
    with torch.no_grad():
        net.eval()(x)
    for hook in hooks:
        hook.remove()
    return net


class Averaged(DirectNetwork):
    """Two convolutions and average poolings, with neurons of any kind."""

    def __init__(self, neuron):
        super().__init__("averaged", T, 10, 3)
        self.body = EachLayer(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), neuron(), nn.AvgPool2d(2), nn.Conv2d(8, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16), neuron(), nn.AvgPool2d(2), nn.Flatten(),
        )  # fmt: skip
        self.fc = nn.Linear(16 * 64, 10)

    def features(self, x, T):
        return self.body(over_time(x, T))


def grouped():
    """Convolutions in groups, with thresholds of channels in front."""
    act = lambda C: snnfast.nn.CQCFS(C, 8, 1.0)  # noqa: E731
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), act(8), nn.Conv2d(8, 8, 3, groups=8), act(8), nn.Conv2d(8, 12, 1, groups=2), act(12), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(12, 10),
    )  # fmt: skip


class Joined(nn.Module):
    """Two halves of the channels."""

    def __init__(self):
        super().__init__()
        self.a, self.b = (nn.Sequential(nn.Conv2d(3, 4, 3), snnfast.nn.QCFS(8, 1.0)) for _ in range(2))
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(torch.cat([self.a(x), self.b(x)], 1).mean((2, 3)))


class Line(nn.Module):
    """One dimension."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(3, 8, 5, 2, 2), snnfast.nn.QCFS(8, 1.0), nn.Conv1d(8, 8, 3, padding="same", groups=4), snnfast.nn.QCFS(8, 1.0), nn.Flatten(),
            nn.Linear(8 * 16, 4),
        )  # fmt: skip

    def forward(self, x):
        return self.body(x)


class Twice(nn.Module):
    """A value that is added to itself, sums of sums, and a batch norm that no convolution stands in front of."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 if i == 0 else 6, 6, 3, padding=1) for i in range(4))
        self.acts = nn.ModuleList(snnfast.nn.QCFS(8, 1.0) for _ in range(4))
        self.norm, self.fc = nn.BatchNorm2d(6), nn.Linear(6, 5)

    def forward(self, x):
        a = self.acts[0](self.convs[0](x))
        b = self.acts[1](self.convs[1](a + a))
        c = self.acts[2](self.norm((self.convs[2](b) + a) + (b + a) * 0.5))
        d = self.acts[3](self.convs[3](a + b + c))
        return self.fc(d.mean((2, 3)))


def torchvision_net(name, **more):
    declare_operators()
    import torchvision

    torch.manual_seed(0)
    net = getattr(torchvision.models, name)(num_classes=10, **more).eval()
    if hasattr(net, "maxpool"):
        net.maxpool = nn.AvgPool2d(2)
    return snnfast.convert(net, calibrate=images())


def converted(make, x=None):
    torch.manual_seed(0)
    return snnfast.convert(alive(make(), images() if x is None else x))


NETWORKS = {
    "vgg": lambda: converted(lambda: models.vgg11(num_classes=10, activation="qcfs", width=0.125)),
    "vgg per channel": lambda: converted(lambda: models.vgg11(num_classes=10, activation="c-qcfs", width=0.125)),
    "resnet": lambda: converted(lambda: models.resnet20(num_classes=10, activation="qcfs")),
    "torchvision resnet": lambda: torchvision_net("resnet18"),
    "groups": lambda: converted(grouped),
    "sums": lambda: converted(Twice),
    "hard": lambda: alive(Averaged(lambda: Spikes(1.0, reset="hard")), images()),
    "v_reset": lambda: alive(Averaged(lambda: Spikes(1.0, reset="hard", v_reset=-0.25, strict=True)), images()),
    "lif": lambda: alive(Averaged(lambda: Spikes(0.5, tau=2.0, reset="hard")), images()),
    "lif, whole input": lambda: alive(Averaged(lambda: Spikes(1.0, tau=1.7, decay_input=False)), images()),
    "plif": lambda: alive(Averaged(lambda: LearntSpikes(2.7, (1,), reset="hard")), images()),
    "sew": lambda: alive(models.sew_resnet18(T=T, num_classes=10), images()),
    "vanilla": lambda: alive(models.spiking_resnet18(T=T, num_classes=10), images()),
    "csnn": lambda: alive(models.csnn_cifar10(T=T), images()),
}  # fmt: skip


def counted(snn, x):
    statistics = snnfast.evaluation.Statistics(snn)
    snnfast.evaluate(snn, TensorDataset(x, torch.zeros(len(x), dtype=torch.long)), T=T, statistics=statistics)
    return sorted(row["spikes"] for row in statistics.rows()[1:])  # the layers may come in another order


def per_step(snn, x, T=T):
    with torch.no_grad():
        return torch.cat(list(snn.chunks(x, T, 3)))


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.thorough] if n in ("csnn", "vanilla") else []) for n in NETWORKS])
def test_read_back_it_is_the_same_network(name, tmp_path):
    """Bit for bit at each step, and the spikes of each layer. Batch norms of directly trained networks are folded, so these are compared in fp64,
    where rounding moves no spike."""
    torch.manual_seed(0)
    net, x = NETWORKS[name](), images()
    snn = net if isinstance(net, snnfast.SpikingNetwork) else snnfast.convert(net)
    if snn is not net:
        snn, x = snn.double(), x.double()
    before = {key: t.clone() for key, t in snn.state_dict().items()}
    snnfast.export_nir(snn, x, tmp_path / "net.nir")
    again = snnfast.import_nir(tmp_path / "net.nir")
    one, other = per_step(snn, x), per_step(again, x)
    assert torch.equal(one, other) if x.dtype == torch.float32 else torch.allclose(one, other, rtol=0, atol=1e-9)
    spikes = counted(snn, x)
    assert all(many > 0 for many in spikes) and counted(again, x) == spikes
    assert [p.name for p in tmp_path.iterdir()] == ["net.nir"]
    assert all(torch.equal(t, before[key]) for key, t in snn.state_dict().items())


def test_one_dimension():
    torch.manual_seed(0)
    snn, x = snnfast.convert(Line().eval()), torch.randn(B, 3, 32)
    graph = snnfast.export_nir(snn, x)
    assert torch.equal(per_step(snn, x), per_step(snnfast.import_nir(graph), x))
    assert [type(n).__name__ for n in graph.nodes.values()] == ["Input", "Conv1d", "IF", "Conv1d", "IF", "Flatten", "Affine", "Output"]


def test_what_the_graph_holds(tmp_path):
    """NIR's own reader takes the file with its types checked; thresholds, resistances and start voltages stand where they belong."""
    snn = NETWORKS["vgg"]()
    snnfast.export_nir(snn, images(), tmp_path / "net.nir", dt=0.5)
    graph = nir.read(tmp_path / "net.nir")
    layers = {name.replace(".", "_"): layer for name, layer in snn.neurons()}
    neurons = {name: node for name, node in graph.nodes.items() if isinstance(node, nir.IF)}
    assert sorted(neurons) == sorted(layers) and len(layers) == 10
    for name, layer in layers.items():
        node = neurons[name]
        assert (
            np.all(node.v_threshold == layer.theta.numpy()) and np.all(node.r == 2.0) and node.metadata["snnfast"].count('"v0": 0.5') == 1
        )
        assert np.array_equal(graph.nodes[f"{name}_theta"].scale, node.v_threshold) and (name, f"{name}_theta") in graph.edges
    again = snnfast.import_nir(graph)
    assert again.method.name == "if" and again.levels == {name.replace(".", "_"): L for name, L in snn.levels.items()}


@pytest.mark.parametrize("name", ["vgg", "vgg per channel", "resnet", "groups"])
def test_thresholds_in_the_weights(name):
    """No Scale is left where only weights read the spikes; in fp64 the outputs are those of the network, but for the rounding of the new
    weights."""
    snn, x = NETWORKS[name]().double(), images().double()
    graph = snnfast.export_nir(snn, x, unit_spikes=True)
    scales = sum(isinstance(node, nir.Scale) for node in graph.nodes.values())
    assert scales == 0 if name.startswith("vgg") else scales < len(snn.neurons())
    again = snnfast.import_nir(graph)
    assert torch.allclose(per_step(snn, x), per_step(again, x), rtol=0, atol=1e-9) and counted(snn, x) == counted(again, x)


def test_a_softmax_at_the_end_is_the_readout():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), snnfast.nn.QCFS(8, 1.0), nn.Linear(8, 3), nn.Softmax(-1)).eval()
    snn, x = snnfast.convert(net), torch.randn(B, 4)
    assert torch.equal(snn(x, 16), snnfast.import_nir(snnfast.export_nir(snn, x))(x, 16)) and snn.clock.readout


def spikingjelly(graph, x, start=0.0, soft=False):
    """Outputs of each step of SpikingJelly's own reader of NIR."""
    from spikingjelly.activation_based import neuron
    from spikingjelly.activation_based.nir_exchange import import_from_nir

    net, state, found = import_from_nir(graph), None, []
    for m in net.modules():
        if isinstance(m, neuron.IFNode) and soft:
            m.v_reset, m.v = None, m.v_threshold * start
    with torch.no_grad():
        for _ in range(T):
            y, state = net(x, state)
            found.append(y)
    return torch.stack(found)


@pytest.mark.parametrize("name", ["hard", "lif", "plif"])
def test_spikingjelly_runs_it(name):
    """It has the same spikes; torch's layers round otherwise on another number of images at once, which the last linear layer shows."""
    torch.manual_seed(0)
    net, x = NETWORKS[name](), images()
    if name == "lif":  # SpikingJelly knows no spikes of 1/2: theta = 1
        net = alive(Averaged(lambda: Spikes(1.0, tau=2.0, reset="hard")), x)
    own = per_step(snnfast.convert(net), x)
    assert torch.allclose(spikingjelly(snnfast.export_nir(net, x), x), own, rtol=0, atol=2e-6) and own.abs().max() > 0.1


def test_spikingjelly_runs_a_converted_network():
    """With the reset by subtraction and the start voltage set by hand, as NIR has no place for them."""
    snn, x = NETWORKS["vgg"](), images()
    graph = snnfast.export_nir(snn, x, unit_spikes=True)
    own = per_step(snnfast.import_nir(graph), x)
    assert torch.allclose(spikingjelly(graph, x, start=0.5, soft=True), own, rtol=0, atol=2e-6) and own.std(0).max() > 1e-3


def vit():
    torch.manual_seed(0)
    return snnfast.convert(models.vit_tiny(num_classes=10, depth=1, image_size=32, patch_size=16).eval(), mode="per_step")


REFUSED = {
    "srp": (lambda: snnfast.convert(models.vgg11(num_classes=10), "srp", tau=2), "method srp"),
    "quanta": (lambda: snnfast.convert(models.vgg11(num_classes=10), "group", m=2), "method group"),
    "differential": (lambda: snnfast.convert(models.vgg11(num_classes=10), mode="differential"), "method stbif"),
    "poisson": (lambda: snnfast.convert(models.vgg11(num_classes=10), inputs="poisson"), "Poisson input"),
    "maximum": (lambda: snnfast.convert(nn.Sequential(nn.Conv2d(3, 4, 3), snnfast.nn.QCFS(8, 1.0), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(900, 2))),
                r"\(Pool\) has no counterpart in NIR"),
    "concatenation": (lambda: converted(Joined), "cat.*has no counterpart in NIR"),
    "attention": (vit, "has no counterpart in NIR"),
    "a product": (lambda: alive(models.sew_resnet18(T=T, num_classes=10, connect="IAND"), images()), "has no counterpart in NIR"),
    "no network": (lambda: nn.Linear(3, 3), "snn must be a SpikingNetwork"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_nir_cannot_say_is_refused(name, tmp_path):
    make, message = REFUSED[name]
    with pytest.raises((ValueError, TypeError), match=message) as error:
        snnfast.export_nir(make(), images(), tmp_path / "net.nir")
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_without_the_package(monkeypatch, tmp_path):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "nir" else real(name, *more))
    for call in (lambda: snnfast.export_nir(NETWORKS["hard"](), images()), lambda: snnfast.import_nir(tmp_path / "net.nir")):
        with pytest.raises(ValueError, match=r"pip install nir, or snnfast\[nir\]"):
            call()

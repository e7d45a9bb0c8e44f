"""Networks trained directly, run chunk by chunk: the same spikes as the network over all steps, memory flat in T, evaluated as converted ones are."""

import copy
import functools

import golden_weights
import numpy as np
import pytest
import torch

import snnfast
from snnfast import nn
from snnfast.models import spikingresformer_net
from snnfast.models.direct import BY_NAME, DirectNetwork, LearntSpikes, Spikes, each_step, over_time
from snnfast.runtime.execution import Execution

SMALL = {
    "csnn_cifar10": dict(channels=(16, 16, 16), hidden=32),
    "sew_resnet18": {}, "spiking_resnet18": {}, "ms_resnet18": {}, "plif_mnist": {}, "spikformer": dict(depth=1, dim=64),
    "spikformer_cifar": dict(depth=1, dim=64, heads=8), "spikingformer": dict(depth=1, dim=64), "spikingformer_cifar": dict(depth=1, dim=64, heads=4),
    "sdt": dict(depth=1, dim=64), "sdt_cifar": dict(depth=1, dim=64, spike_mode="plif"), "spikingresformer_ti": dict(img_size=32),
    "sdt_v2": dict(dims=(16, 32, 64, 64), depths=(1, 1), kd=True),
}  # fmt: skip


@functools.cache
def trained(name, dtype=torch.float32):
    """A network whose neurons fire in all layers."""
    net = BY_NAME[name](num_classes=10, **SMALL[name])
    shapes = {key: tuple(t.shape) for key, t in net.state_dict().items()}
    gain, scale, shift = {"ms_resnet18": (4.0, 0.5, 0.1), "plif_mnist": (8.0, 1.2, 0.5), "spikingformer": (8.0, 1.5, 0.8)}.get(
        name, (4.0, 1.0, 0.3)
    )
    state = golden_weights.state(shapes, gain, scale, shift)
    net.load_state_dict({key: torch.from_numpy(np.asarray(t)) for key, t in state.items()})
    return net.to(dtype).eval()


def images(name, dtype):
    shape = (3, 1, 28, 28) if name == "plif_mnist" else (3, 3, 32, 32)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize(("name", "dtype"), [*((name, torch.float32) for name in SMALL), ("spikingresformer_ti", torch.float64)])
def test_every_spike_is_the_networks(name, dtype):
    net, x, T = trained(name, dtype), images(name, dtype), 5
    net.T, theirs, ours = T, {}, {}
    hooks = [
        m.register_forward_hook(lambda m, x, s, name=name: theirs.__setitem__(name, s))
        for name, m in net.named_modules()
        if isinstance(m, (Spikes, LearntSpikes))
    ]
    with torch.no_grad():
        expected = net.logits(x)
    for hook in hooks:
        hook.remove()
    snn = snnfast.convert(net)

    def observe(node, current, s):
        ours.setdefault(node.target, []).append(s.clone())

    execution = Execution(snn.gm, x.device, products="dense")  # torch's own products, as in the network
    found = torch.cat(list(snn.chunks(x, T, 2, execution=execution, observe=observe)))
    # Products of matrices of another height, in SpikingResformer, and the last layer, sum in another order.
    assert torch.allclose(found, expected, rtol=0, atol=1e-12 if dtype == torch.float64 else 1e-5)
    assert set(ours) == {n for n in theirs if "attn.attn_lif" not in n or "sdt" not in name or name == "sdt_v2"} and len(ours) == len(
        snn.neurons()
    )
    rates = [float(s.mean()) for s in theirs.values()]
    assert min(rates) > 0 and max(rates) <= 1
    for layer, parts in ours.items():
        assert torch.equal(torch.cat(parts), theirs[layer]), layer


@pytest.mark.parametrize("name", ["sew_resnet18", "spikformer_cifar", "spikingresformer_ti"])
def test_an_evaluation_answers_as_the_network(name, tmp_path):
    """At every t, what the network answers with T = t; resumed, the same numbers."""
    net, x = trained(name), images(name, torch.float32)
    y = torch.tensor([1, 2, 3])
    data = torch.utils.data.TensorDataset(x, y)
    snn = snnfast.convert(net)
    how = dict(T=6, at=[1, 2, 3, 6], products="dense", statistics=True, batch=1, chunk=2)
    report = snnfast.evaluate(snn, data, progress=tmp_path, **how)
    for t, loss in zip(report.at, report.loss):
        net.T = t
        with torch.no_grad():
            assert loss == pytest.approx(float(torch.nn.functional.cross_entropy(net(x).double(), y)), rel=1e-5)
    assert report.method["method"] == "direct"
    again = snnfast.evaluate(snn, data, progress=tmp_path, resume=True, **how)
    assert again.loss == report.loss and again.layers == report.layers


def test_memory_does_not_grow_with_T():
    net, x = trained("sew_resnet18"), images("sew_resnet18", torch.float32)
    snn = snnfast.convert(net)
    held = []
    for T in (8, 64):
        seen = [y.shape for y in snn.chunks(x, T, 4)]
        assert len(seen) == T // 4 and set(seen) == {(4, 3, 10)}
        *_, (_, states) = snn.run(x, T, 4)
        held.append(sum(s.v.nbytes for s in states.values()))
    assert held[0] == held[1]


class Own(DirectNetwork):
    """Of one's own; kind: what it does that no run can do step by step."""

    def __init__(self, kind=None):
        super().__init__("own", 4, 3, 2)
        self.conv, self.fire, self.fc, self.kind = torch.nn.Conv2d(2, 8, 3), Spikes(1.0, 2.0, reset="hard"), torch.nn.Linear(8, 3), kind

    def features(self, x, T):
        s = self.fire(each_step(self.conv, over_time(x, T)) * 3 + 1)
        if self.kind == "mean":
            s = s - s.mean(0, keepdim=True)
        return (s * T if self.kind == "many" else s).mean((-2, -1))

    def answer(self, features):
        return self.last(features).max(0).values if self.kind == "max" else super().answer(features)

    def forward(self, x):
        return super().forward(x * 0.5 if self.kind == "outside" else x)


def test_networks_are_compared_with_their_own_steps():
    """Whatever else was done to them: classes of one's own, and ours with other layers in them."""
    torch.manual_seed(0)
    net = Own()
    snn, x = snnfast.convert(net), torch.randn(2, 2, 9, 9)
    assert torch.allclose(snn(x, T=4), net.eval()(x), atol=1e-6)
    for kind, told in (
        ("mean", "images, and with them time steps, would be mixed"), ("many", "step by step it gives other outputs"),
        ("max", r"net\(x\) is not the mean of net.logits\(x\)"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"net cannot be run step by step: .*{told}"):
            snnfast.convert(Own(kind))
    net = copy.deepcopy(trained("spikformer_cifar"))
    net.patch_embed.proj_lif1.register_forward_hook(lambda m, x, s: s * 0.3)
    with pytest.raises(ValueError, match="net cannot be run step by step: step by step it gives other outputs"):
        snnfast.convert(net)
    net = torch.nn.DataParallel(trained("spikformer_cifar"))
    assert snnfast.convert(net).method.name == "direct"


class OneStep(torch.nn.Module):
    """No network of ours, though it has a method of that name."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(4, 8), nn.QCFS(levels=4), torch.nn.Linear(8, 2))

    def forward(self, x):
        return self.net(x)

    def one_step(self, x):
        return x


def test_a_method_of_that_name_is_no_sign():
    assert snnfast.convert(OneStep()).method.name == "if"


@pytest.mark.parametrize("name", ["csnn_cifar10", "spikformer_cifar", "ms_resnet18", "sdt_cifar"])
def test_gradients_through_it_are_the_networks(name):
    net, x, y = copy.deepcopy(trained(name, torch.float64)), images(name, torch.float64), torch.tensor([1, 2, 3])
    net.T = 3
    snn = snnfast.convert(net).requires_grad_()
    torch.nn.functional.cross_entropy(snn(x, T=3), y).backward()
    torch.nn.functional.cross_entropy(net(x), y).backward()
    found, theirs = dict(snn.gm.named_parameters()), dict(net.named_parameters())
    with_one = {key for key, p in theirs.items() if p.grad is not None}
    assert with_one == {key for key, p in found.items() if p.grad is not None} and len(with_one) > 20
    assert any(float(theirs[key].grad.abs().max()) > 0 for key in with_one if "0.conv" in key or "conv1" in key or "proj_conv" in key)
    for key in with_one:
        assert torch.allclose(found[key].grad, theirs[key].grad, rtol=1e-6, atol=1e-9), key


@pytest.mark.parametrize("name", ["sdt_cifar", "sdt_v2", "spikingresformer_ti", "csnn_cifar10"])
def test_statistics_count_as_operations_do(name):
    """SOPs and MACs of layers with weights, borders told apart; `operations` counts by hooks on the network itself."""
    net, x = trained(name), images(name, torch.float32)
    net.T = 4
    report = snnfast.evaluate(snnfast.convert(net), [(x, torch.zeros(3, dtype=torch.long))], T=4, statistics=True, products="dense")
    layers = {k: v for k, v in snnfast.operations(net, [(x, None)]).layers.items() if not k.endswith((".products", ".mask"))}
    acs = sum(acs for acs, _ in layers.values())
    # Statistics count the last layer at every step, of spikes; `operations` of the mean of the features, as the network has it.
    if name in ("sdt_cifar", "csnn_cifar10"):
        macs_of_real_spikes = sum(macs for key, (_, macs) in layers.items() if key in ("head", "fc.3"))
        stem = next(iter(layers.values()))[1]
        assert report.totals["MACs"] == stem and macs_of_real_spikes > 0
        assert report.totals["SOPs"] == pytest.approx(acs, rel=0.03)  # by the mean fan-out of a layer, not by each place's
    else:
        assert report.totals["MACs"] > 0 and report.totals["SOPs"] > 0


def test_neurons_become_layers():
    snn = snnfast.convert(trained("plif_mnist"))
    assert all(type(layer) is nn.PLIF and layer.w.shape == () for _, layer in snn.neurons())
    assert {type(layer) for _, layer in snnfast.convert(trained("sew_resnet18")).neurons()} == {nn.IF}
    lif = snnfast.convert(trained("spikformer")).neurons()
    assert {(type(layer), float(layer.theta)) for _, layer in lif} == {(nn.LIF, 1.0), (nn.LIF, 0.5)}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: snnfast.convert(trained("sew_resnet18"), "srp"),
            "net was trained as a spiking network, whose neurons stay: method= is for",
        ),
        (lambda: snnfast.convert(trained("sew_resnet18"), T=8), "whose neurons stay: T= is for"),
        (lambda: snnfast.convert(trained("sew_resnet18"), maxpool="gated"), "whose neurons stay: maxpool= is for"),
        (lambda: snnfast.convert(trained("sew_resnet18"), v0=0.5), "whose neurons stay: v0= is for"),
        (
            lambda: snnfast.evaluate(
                snnfast.convert(trained("plif_mnist")),
                [(images("plif_mnist", torch.float32), torch.zeros(3).long())],
                T=2,
                ann=trained("plif_mnist"),
            ),
            "ann gives sums over the steps",
        ),
        (lambda: snnfast.diagnose(snnfast.convert(trained("sdt")), torch.zeros(1, 3, 32, 32), 2), "snn was trained as a spiking network"),
        (
            lambda: snnfast.convert(snnfast.models.sew_dvs_gesture())(torch.zeros(1, 2, 128, 128), T=2),
            r"x must be frames \[B, T, 2, H, W\]",
        ),
        (
            lambda: snnfast.convert(trained("spikingresformer_ti"))(torch.zeros(1, 3, 64, 64), T=2),
            r"x must be a batch of images \[B, 3, 32, 32\]",
        ),
        (lambda: snnfast.convert(trained("sew_resnet18"))(torch.zeros(1, 1, 32, 32), T=2), r"x must be a batch of images \[B, 3, H, W\]"),
    ],
)
def test_wrong_calls(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_file_of_it_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="its own network, with save_checkpoint"):
        snnfast.save_checkpoint(tmp_path / "snn.pt", snnfast.convert(trained("sew_resnet18")))
    assert not list(tmp_path.iterdir())


def test_the_resformer_is_made_for_a_size():
    assert spikingresformer_net.SpikingResformer("x", (64, 64, 64), True, 16, 2, 10, 1).image_shape == (1, 16, 16)


def test_a_trace_tells_the_potential_before_a_hard_reset(monkeypatch):
    """u = v + (x - v) / 2 of the step before, in volts; where a neuron fired, v is 0 behind it, and u is not theta."""
    from snnfast.reports import raster

    net, x = trained("spikformer_cifar"), images("spikformer_cifar", torch.float32)
    snn = snnfast.convert(net)
    for name, layer in raster.record(snn, x, T=4, neurons=64).items():
        if float(layer["theta"][0]) != 1:
            continue
        v = np.zeros_like(layer["v"][0])
        for t in range(4):
            u = v + (layer["x"][t] - v) / 2
            assert np.allclose(layer["u"][t], u, atol=1e-6), name
            assert np.array_equal(layer["s"][t], u >= 1) and np.array_equal(layer["v"][t], np.where(u >= 1, 0, layer["u"][t]))
            v = layer["v"][t]
    monkeypatch.setattr("snnfast.system.memory.free", lambda device: 1000)
    with pytest.raises(ValueError, match="neurons: 64 of them at 12 steps of all images take about .*, and 1000 B are free"):
        raster.record(snn, x, T=4, neurons=64)


def test_steps_where_none_are_asked():
    """Those that the network was trained with; of event data all frames; of a converted network 64."""
    x = torch.randn(2, 1, 16, 16)
    net = snnfast.models.sdt_cifar(1, 32, 4, T=3, num_classes=10, in_channels=1)
    for m in net.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.running_var.fill_(0.05)  # so that neurons fire
    snn, data = snnfast.convert(net.eval()), torch.utils.data.TensorDataset(torch.randn(6, 1, 32, 32), torch.arange(6))
    images = data.tensors[0][:2]
    assert torch.equal(snn(images), snn(images, T=3)) and not torch.equal(snn(images), snn(images, T=64))
    assert snnfast.evaluate(snn, data).at[-1] == 3
    converted = snnfast.convert(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 8), snnfast.nn.QCFS(4), torch.nn.Linear(8, 2)))
    assert torch.equal(converted(x), converted(x, T=64))
    events = snnfast.convert(snnfast.models.sdt_dvs(depth=1, dim=32, heads=4, num_classes=3, pooling="1111").eval())
    frames = torch.poisson(torch.full((1, 5, 2, 64, 64), 0.3))
    assert torch.equal(events(frames), events(frames, T=5))

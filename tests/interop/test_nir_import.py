"""Graphs of NIR from elsewhere, against NIR's equations by hand; what has no counterpart is refused by name."""

import nir
import numpy as np
import pytest
import torch
from torch import nn

import snnfast

DT, T = 1e-4, 12
F32 = np.float32


def euler(node, x):
    """Spikes [T, N] of currents x [T, N] by NIR's equations in steps of DT, and a reset to v_reset at v >= v_threshold."""
    v, found = np.zeros(x.shape[1:]), []
    for current in x:
        if isinstance(node, nir.IF):
            v = v + DT * node.r * current
        else:
            v = v + DT / node.tau * ((node.v_leak - v) + node.r * current)
        s = v >= node.v_threshold
        v = np.where(s, node.v_reset, v)
        found.append(s)
    return np.array(found, float)


def spikes(graph, image, **how):
    with torch.no_grad():
        return torch.cat(list(snnfast.import_nir(graph, **how).chunks(image, T, 5)))[:, 0].numpy()


N = 5
full = lambda value: np.full(N, value)  # noqa: E731
NEURONS = {
    "if": nir.IF(r=full(1 / DT), v_threshold=full(1.0)),
    "if, another resistance": nir.IF(r=full(0.3 / DT), v_threshold=np.linspace(0.5, 2, N), v_reset=full(-0.2)),
    "lif": nir.LIF(tau=full(2 * DT), r=full(1.0), v_leak=full(0.0), v_threshold=full(0.4)),
    "lif, whole input": nir.LIF(tau=full(2.5 * DT), r=full(2.5), v_leak=full(0.0), v_threshold=full(0.9)),
    "lif, another resistance": nir.LIF(tau=full(4 * DT), r=full(1.7), v_leak=full(0.1), v_threshold=full(0.8), v_reset=full(0.1)),
    "lif, a tau for each": nir.LIF(tau=np.linspace(1.5, 6, N) * DT, r=full(1.0), v_leak=full(0.0), v_threshold=full(0.3)),
}  # fmt: skip


@pytest.mark.parametrize("name", NEURONS)
def test_neurons_follow_the_equations(name, tmp_path):
    node = NEURONS[name]
    image = torch.linspace(0.05, 1.9, N, dtype=torch.float64)[None]
    graph = nir.NIRGraph.from_list(nir.Scale(np.ones(N)), node)
    nir.write(tmp_path / "other.nir", graph)
    expected = euler(node, np.repeat(image.numpy(), T, 0))
    assert np.array_equal(spikes(graph, image), expected) and 0 < expected.mean() < 1
    assert np.array_equal(spikes(tmp_path / "other.nir", image), expected)


def test_a_reset_by_subtraction():
    """As sinabs and snnTorch mean their files: the mean of the spikes is the current."""
    node, image = nir.IF(r=full(1 / DT), v_threshold=full(1.0)), torch.tensor([[0.0, 0.25, 0.5, 0.75, 1.0]])
    graph = nir.NIRGraph.from_list(nir.Linear(np.eye(N, dtype=F32)), node)
    assert np.array_equal(spikes(graph, image, reset="subtract").mean(0), image[0].numpy())
    assert spikes(graph, image).mean(0)[3] == 0.5


def test_another_step():
    """Twice the step is twice the current of an integrator."""
    node, image = nir.IF(r=full(1 / DT), v_threshold=full(1.0)), torch.tensor([[0.0, 0.25, 0.5, 0.75, 1.0]])
    graph = nir.NIRGraph.from_list(nir.Linear(np.eye(N, dtype=F32)), node)
    assert np.array_equal(spikes(graph, image, dt=2 * DT), spikes(graph, 2 * image))


def test_layers_pools_sums_and_graphs_inside():
    """Each primitive against torch's function on one step, behind neurons that always fire; a graph inside of the graph is taken apart."""
    torch.manual_seed(0)
    conv, fc = nn.Conv2d(2, 4, 3, 2, 1, 2), nn.Linear(4, 3)
    w, b = conv.weight.detach().numpy(), conv.bias.detach().numpy()
    start = nir.IF(r=np.full((2, 9, 9), 1 / DT), v_threshold=np.full((2, 9, 9), 0.5, F32))
    inner = nir.NIRGraph(
        {
            "in": nir.Input({"input": np.array([2, 9, 9])}), "conv": nir.Conv2d((9, 9), w, 2, 1, 2, 1, b),
            "out": nir.Output({"output": np.array([4, 4, 4])}),
        },
        [("in", "conv"), ("conv", "out")], type_check=False,
    )  # fmt: skip
    window = np.array([2, 2]), np.array([2, 2]), np.array([0, 0])
    nodes = {
        "input": nir.Input({"input": np.array([2, 9, 9])}), "n": start, "block": inner, "sum": nir.SumPool2d(*window),
        "avg": nir.AvgPool2d(*window), "over": nir.Threshold(np.full((4, 2, 2), 0.1, F32)),
        "half": nir.Scale(np.full((4, 2, 2), 0.5, F32)), "last": nir.AvgPool2d(*window),
        "flat": nir.Flatten({"input": np.array([4, 1, 1])}, 0, -1), "fc": nir.Affine(fc.weight.detach().numpy(), fc.bias.detach().numpy()),
        "output": nir.Output({"output": np.array([3])}),
    }  # fmt: skip
    edges = [("input", "n"), ("n", "block"), ("block", "sum"), ("block", "avg"), ("sum", "half"), ("avg", "over"), ("half", "last"), ("over", "last"),
             ("last", "flat"), ("flat", "fc"), ("fc", "output")]  # fmt: skip
    graph = nir.NIRGraph(nodes, edges, type_check=False)
    image = torch.rand(1, 2, 9, 9)
    fired = (image >= 0.5).float()
    y = conv(fired)
    total = nn.functional.avg_pool2d(y, 2) * 4 * 0.5 + (nn.functional.avg_pool2d(y, 2) > 0.1)
    expected = fc(nn.functional.avg_pool2d(total, 2).flatten(1))
    with torch.no_grad():
        found = torch.cat(list(snnfast.import_nir(graph).chunks(image, 1, 1)))[0]
    assert torch.allclose(found, expected, rtol=0, atol=1e-6)  # a convolution of another number of images at once rounds otherwise


@pytest.mark.parametrize("reset", [None, 0.0])
@pytest.mark.parametrize("tau", [None, 2.0, 3.3])
def test_networks_of_spikingjelly(tau, reset):
    """A file that SpikingJelly writes runs as the network that it wrote, spike for spike."""
    from spikingjelly.activation_based import functional, layer, neuron
    from spikingjelly.activation_based.nir_exchange import export_to_nir

    torch.manual_seed(0)
    make = lambda: neuron.IFNode(v_reset=0.0) if tau is None else neuron.LIFNode(tau, decay_input=reset is None, v_reset=0.0)  # noqa: E731
    net = nn.Sequential(layer.Conv2d(2, 6, 3, padding=1), make(), layer.AvgPool2d(2), layer.Flatten(), layer.Linear(6 * 16, 5), make())
    for m in net.modules():
        if hasattr(m, "weight"):
            m.weight.data *= 3
    image = 4 * torch.rand(1, 2, 8, 8)
    graph = export_to_nir(net, image)
    found, expected = spikes(graph, image), []
    functional.reset_net(net)
    with torch.no_grad():
        for _ in range(T):
            expected.append(net(image)[0].numpy())
    assert np.array_equal(found, np.array(expected)) and 0 < found.mean() < 1


def chain(*nodes):
    return nir.NIRGraph.from_list(nir.Linear(np.eye(N, dtype=F32)), *nodes, type_check=False)


IF, SHAPE = NEURONS["if"], np.array([N])


def noted(text, r=1 / DT):
    return chain(nir.IF(full(r), full(1.0), metadata={"snnfast": text}))


def ends(inner, edges, outputs="o"):
    inner["i"] = nir.Input({"input": SHAPE})
    return nir.NIRGraph(inner | {name: nir.Output({"output": SHAPE}) for name in outputs}, edges, type_check=False)


REFUSED = {
    "li": (lambda: chain(nir.LI(full(DT), full(1.0), full(0.0))), "node li: LI of NIR has no counterpart"),
    "cubalif": (lambda: chain(nir.CubaLIF(*(full(1.0) for _ in range(5)))), "node cubalif: CubaLIF of NIR has no counterpart"),
    "delay": (lambda: chain(nir.Delay(full(1.0)), IF), "node delay: Delay of NIR has no counterpart"),
    "tau": (lambda: chain(nir.LIF(full(DT), full(1.0), full(0.0), full(1.0))), "node lif: tau must be > dt = 0.0001"),
    "leak": (lambda: chain(nir.LIF(full(2 * DT), full(1.0), full(0.3), full(1.0))), "node lif: v_leak must be the potential after a spike"),
    "threshold": (lambda: chain(nir.IF(full(1 / DT), full(-1.0))), "node if: theta must be > 0"),
    "reset": (lambda: chain(nir.IF(full(1 / DT), full(1.0), np.arange(5.0))), "node if: v_reset must be the same for all neurons of a layer"),
    "recurrent": (
        lambda: ends({"a": IF, "b": nir.Linear(np.eye(N))}, [("i", "a"), ("a", "b"), ("b", "a"), ("a", "o")]), "the graph is recurrent, by "
    ),
    "no neuron": (lambda: chain(), "does not depend on any quantised activation"),
    "two outputs": (lambda: ends({"a": IF}, [("i", "a"), ("a", "o"), ("a", "p")], "op"), "one input and one output, got 1 and 2"),
    "no graph": (lambda: IF, "source must be a nir.NIRGraph or the path"),
    "note": (lambda: noted('{"neuron": "IF", "evil": 1}'), "node if: the note of a neuron .* with evil"),
    "broken note": (lambda: noted("{"), "is no JSON"),
    "other number": (lambda: noted('{"neuron": "IF"}', 3 / DT), "contradicts its r"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_counterpart_is_refused(name):
    make, message = REFUSED[name]
    with pytest.raises((ValueError, TypeError), match=message) as error:
        snnfast.import_nir(make())
    assert "\n" not in str(error.value)


def test_files_that_are_none(tmp_path):
    (tmp_path / "text.nir").write_text("no graph")
    with pytest.raises(ValueError, match="text.nir cannot be read as a NIR graph"):
        snnfast.import_nir(tmp_path / "text.nir")
    with pytest.raises(FileNotFoundError, match="away.nir is no file"):
        snnfast.import_nir(tmp_path / "away.nir")
    with pytest.raises(ValueError, match="reset must be one of"):
        snnfast.import_nir(tmp_path / "away.nir", reset="soft")
    with pytest.raises(ValueError, match="dt must be"):
        snnfast.import_nir(chain(IF), dt=-1.0)

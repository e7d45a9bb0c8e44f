"""Files of NIR at the edges: other steps, several edges, changed numbers, layers between neurons that NIR cannot say."""

import json

import nir
import numpy as np
import pytest
import torch
from torch import nn

import snnfast

F32, DT, T = np.float32, 1e-4, 12
X = torch.randn(3, 3, 10, 10, generator=torch.Generator().manual_seed(0))


def per_step(snn, x, T=T):
    with torch.no_grad():
        return torch.cat(list(snn.chunks(x, T, 5)))


def quantised():
    return snnfast.nn.QCFS(8, 1.0)


def test_a_file_whose_step_is_1_asks_for_it():
    """sinabs writes R = 1 for a step of 1: with the usual 1e-4 no neuron would ever fire."""
    image = torch.tensor([[0.0, 0.25, 0.5, 0.75, 1.0]])
    for node in (nir.IF(np.ones(5), np.ones(5)), nir.LIF(np.full(5, 2.0), np.full(5, 2.0), np.zeros(5), np.ones(5))):
        graph = nir.NIRGraph.from_list(nir.Linear(np.eye(5, dtype=F32)), node)
        with pytest.raises(ValueError, match=r"node \w+: .* leaves next to nothing of a current in a step of dt = 0.0001: say dt= \(1 for"):
            snnfast.import_nir(graph)
        assert per_step(snnfast.import_nir(graph, dt=1.0), image).any() and not per_step(snnfast.import_nir(graph, dt=DT), image).any()
    one = nir.NIRGraph.from_list(nir.Linear(np.eye(5, dtype=F32)), nir.IF(np.ones(5), np.ones(5)))
    assert torch.equal(per_step(snnfast.import_nir(one, dt=1.0, reset="subtract"), image).mean(0), image)


def test_a_scale_that_others_enter_too_stays():
    two = np.array([2])
    nodes = {
        "input": nir.Input({"input": two}), "n": nir.IF(np.full(2, 1 / DT), np.full(2, 0.5, F32)), "b": nir.Linear(np.eye(2, dtype=F32)),
        "s": nir.Scale(np.full(2, 0.5, F32)), "output": nir.Output({"output": two}),
    }  # fmt: skip
    graph = nir.NIRGraph(nodes, [("input", "n"), ("n", "s"), ("input", "b"), ("b", "s"), ("s", "output")])
    assert torch.equal(snnfast.import_nir(graph)(torch.ones(1, 2), 4), torch.ones(1, 2))  # (1 + 1) / 2


class Adds(nn.Module):
    """A value and something else, between two neurons; no biases, so that an image of zeros hides it."""

    def __init__(self, other):
        super().__init__()
        torch.manual_seed(0)
        self.other, self.q, self.q2, self.p = other, quantised(), quantised(), nn.Parameter(torch.rand(4, 1, 1))
        self.c, self.d, self.f = nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(4, 4, 3, bias=False), nn.Linear(4, 5, bias=False)

    def forward(self, x):
        return self.f(self.q2(self.d(self.other(self, self.q(self.c(x))))).mean((2, 3)))


OTHERS = {
    "halves": lambda net, h: h + torch.cat(h.chunk(2, 1)[::-1], 1),
    "a half twice": lambda net, h: h.chunk(2, 1)[0].repeat(1, 2, 1, 1),
    "a parameter": lambda net, h: h + net.p,
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("zeros", [False, True])
def test_what_is_added_is_refused_by_name(name, zeros):
    snn = snnfast.convert(Adds(OTHERS[name]).eval(), sample=X)
    with pytest.raises(ValueError, match=r"(chunk|split|slice|add|getitem|cat|repeat).* has no counterpart in NIR") as error:
        snnfast.export_nir(snn, torch.zeros_like(X) if zeros else X)
    assert "\n" not in str(error.value)


def plain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), quantised(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5)).eval()


def test_every_neuron_says_how_it_starts_and_resets():
    graph = snnfast.export_nir(snnfast.convert(plain()), X)
    (note,) = [json.loads(n.metadata["snnfast"]) for n in graph.nodes.values() if isinstance(n, nir.IF)]
    assert (note["v0"], note["reset"], note["unit"]) == (0.5, "soft", "volts")


@pytest.mark.parametrize("v0", [torch.tensor(0.3), 0.3, {"1": torch.rand(4, 8, 8)}], ids=["a tensor", "a number", "for each neuron"])
def test_start_voltages_are_in_the_file(v0, tmp_path):
    snn = snnfast.convert(plain(), v0=v0)
    snnfast.export_nir(snn, X, tmp_path / "net.nir")
    assert torch.equal(per_step(snnfast.import_nir(tmp_path / "net.nir"), X), per_step(snn, X))


def test_batch_norms_behind_neurons():
    """Folded, so to the rounding of fp64, which moves no spike."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3), quantised(), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3), quantised(), nn.BatchNorm2d(4, affine=False),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 5),
    ).eval()  # fmt: skip
    for m in net:
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.uniform_(-0.3, 0.3)
            m.running_var.uniform_(0.5, 2)
    snn = snnfast.convert(net.double())
    again = snnfast.import_nir(snnfast.export_nir(snn, X.double()))
    assert torch.allclose(per_step(snn, X.double()), per_step(again, X.double()), rtol=0, atol=1e-9)
    snnfast.export_nir(snnfast.convert(net.float()), X)


def test_kernels_that_the_package_misreads_are_told(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, (1, 3)), quantised(), nn.Conv2d(4, 4, (3, 1), groups=2), nn.Flatten(), nn.Linear(256, 5)).eval()
    snn = snnfast.convert(net)
    with pytest.warns(UserWarning, match=r"read the file with nir.read\(path, type_check=False\)"):
        snnfast.export_nir(snn, X, tmp_path / "net.nir")
    assert torch.equal(per_step(snnfast.import_nir(tmp_path / "net.nir"), X), per_step(snn, X))


def changed(edit):
    graph = snnfast.export_nir(snnfast.convert(plain()), X)
    edit(graph)
    return graph


def pool(graph):
    return next(n for n in graph.nodes.values() if isinstance(n, nir.AvgPool2d))


def affine(graph):
    return next(n for n in graph.nodes.values() if isinstance(n, nir.Affine))


CHANGED = {
    "a kernel": (lambda g: setattr(pool(g), "kernel_size", np.array([3, 3])), "node 2: its note of snnfast contradicts its kernel"),
    "a pool's note": (lambda g: pool(g).metadata.update(snnfast='{"adaptive": 5, "kernel": [4, 4]}'), "node 2: "),
    "whole weights": (lambda g: setattr(affine(g), "weight", np.ones((5, 16), int)), "node 4: weight must be floating numbers, got int64"),
    "a bias": (lambda g: setattr(affine(g), "bias", np.ones(3, F32)), r"node 4: bias must have the shape \(5,\), got \(3,\)"),
    "a deep note": (lambda g: g.metadata.update(snnfast="[" * 100_000), "is no JSON"),
    "a step": (lambda g: g.metadata.update(snnfast='{"dt": true}'), "the note of snnfast in the graph's metadata is damaged"),
    "a readout": (lambda g: g.metadata.update(snnfast='{"dt": 1e-4, "readout": ["exec", 1]}'), "metadata is damaged"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_file_that_was_changed_is_refused_by_name(name):
    edit, message = CHANGED[name]
    with pytest.raises(ValueError, match=message.replace("node 2", r"node \w+").replace("node 4", r"node \w+")) as error:
        snnfast.import_nir(changed(edit))
    assert "\n" not in str(error.value)

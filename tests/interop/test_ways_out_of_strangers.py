"""Networks as strangers bring them, on their way out: batch norms of 1-d signals, one of several outputs, as many images as channels."""

import nir
import numpy as np
import pytest
import torch
from torch import nn

import snnfast

X = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.l = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, x):
        h = torch.relu(self.a(x))
        return {"map": h, "y": self.l(h.mean((2, 3)))}


class Regroups(nn.Module):
    """A view makes other channels of those that have thresholds."""

    def __init__(self):
        super().__init__()
        self.c, self.q = nn.Conv2d(3, 4, 3, padding=1), snnfast.nn.CQCFS(4, 8, theta=0.7)
        self.q.thresh.data = torch.rand(4) + 0.3
        self.d, self.l = nn.Conv2d(8, 4, 3), nn.Linear(48, 5)

    def forward(self, x):
        return self.l(self.d(self.q(self.c(x)).view(x.size(0), 8, 4, 8)).flatten(1))


def per_channel():
    """Eight channels with thresholds of their own, and eight images."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), snnfast.nn.CQCFS(8, 4, theta=1.0), nn.Flatten(), nn.Linear(512, 5))
    net[1].thresh.data = torch.rand(8) + 0.5
    return net.eval()


@pytest.mark.parametrize("unit_spikes", [False, True])
def test_a_batch_norm_of_a_signal_behind_a_neuron(unit_spikes):
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(8)
    norm.running_mean.uniform_(-0.3, 0.3)
    norm.running_var.uniform_(0.5, 2)
    net = nn.Sequential(nn.Conv1d(3, 8, 3), nn.ReLU(), norm, nn.Flatten(), nn.Linear(8 * 38, 5)).eval()
    x = torch.randn(5, 3, 40)
    snn = snnfast.convert(net, calibrate=x)
    again = snnfast.import_nir(snnfast.export_nir(snn, x[:1], unit_spikes=unit_spikes))
    assert torch.allclose(again.logits(x, T=7), snn.logits(x, T=7), atol=1e-5)


def test_products_and_comparisons_with_tensors():
    """Nodes of another simulator's file, which are written again."""
    torch.manual_seed(0)
    f32 = lambda *shape: torch.rand(*shape).numpy()  # noqa: E731
    graph = nir.NIRGraph.from_list(nir.Linear(f32(6, 4)), nir.Scale(f32(6)), nir.Threshold(f32(6)), nir.Scale(f32(6)),
                                   nir.IF(r=np.full(6, 1e4), v_threshold=np.ones(6, "float32")))  # fmt: skip
    snn, x = snnfast.import_nir(graph), torch.rand(5, 4)
    again = snnfast.export_nir(snn, x[:1])
    assert [type(node).__name__ for node in again.nodes.values()] == [type(node).__name__ for node in graph.nodes.values()]
    assert torch.equal(snnfast.import_nir(again).logits(x, T=9), snn.logits(x, T=9)) and 0 < snn(x, T=9).mean() < 1


class Gains(nn.Module):
    """A learnt factor for each channel, before and behind a value, as a tensor that is divided by a power of two."""

    def __init__(self):
        super().__init__()
        self.c, self.l = nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, 5)
        self.gain = nn.Parameter(torch.rand(4, 1, 1))
        self.register_buffer("two", torch.tensor([2.0, 4.0, 0.5, 1.0]).view(1, 4, 1, 1))

    def forward(self, x):
        return self.l(torch.relu(self.gain * self.c(x) * self.gain / self.two).flatten(1))


def test_a_factor_for_each_channel():
    torch.manual_seed(0)
    snn = snnfast.convert(Gains().eval(), calibrate=X)
    graph = snnfast.export_nir(snn, X[:1])
    assert sum(isinstance(node, nir.Scale) for node in graph.nodes.values()) == 4  # three, and that of the threshold
    assert torch.equal(snnfast.import_nir(graph).logits(X, T=9), snn.logits(X, T=9))


class Gates(Gains):
    """Truth values by a factor for each channel, which is no truth value."""

    def forward(self, x):
        return self.l(torch.relu((self.c(x) > 0.1) * self.gain).flatten(1))


def test_truth_values_by_a_number():
    """The sample has none above: the comparison at the end would not see a wrong factor."""
    torch.manual_seed(0)
    snn = snnfast.convert(Gates().eval(), calibrate=X)
    graph = snnfast.export_nir(snn, X[:1] * 0 - 9)
    assert torch.equal(snnfast.import_nir(graph).logits(X, T=9), snn.logits(X, T=9)) and snn(X, T=9).std() > 0.01


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda x, y: y / x, "no counterpart in NIR: it is no product"),
        (lambda x, y: x / 3, "no counterpart in NIR: it divides by a number that is no power of two"),
        (lambda x, y: torch.div(64 * x, 2.0, rounding_mode="floor"), "no counterpart in NIR: it is no product"),
        (lambda x, y: x * (0.5 * y > x), "no counterpart in NIR: it is no comparison"),
        (lambda x, y: (x > 0.5 * y).float(), "does not run in float64"),
        (lambda x, y: x.mean((2, 3), True) * torch.ones(4, 6, 6), "another shape"),
    ],
)
def test_other_products_are_refused(change, told):
    class Odd(Gains):
        def forward(self, x):
            return self.l(torch.relu(change(self.c(x), self.gain)).flatten(1))

    snn = snnfast.convert(Odd().eval(), calibrate=X)
    with pytest.raises(ValueError, match=told):
        snnfast.export_nir(snn, X)


def test_one_of_several_outputs():
    torch.manual_seed(0)
    snn = snnfast.convert(Two().eval(), calibrate=X, read="y")
    again = snnfast.import_nir(snnfast.export_nir(snn, X[:1]))
    assert torch.equal(again(X, T=4), snn(X, T=4)) and snn(X, T=4).any()
    with pytest.raises(ValueError, match="several outputs: convert it with read="):
        snnfast.export_nir(snnfast.convert(Two().eval(), calibrate=X), X[:1])


def test_thresholds_whose_channels_are_regrouped_stay():
    torch.manual_seed(0)
    snn = snnfast.convert(Regroups().eval(), sample=X)
    with pytest.raises(ValueError, match="has no counterpart in NIR"):  # the view, with or without
        snnfast.export_nir(snn, X[:1], unit_spikes=True)


def test_wrong_calls_name_what_is_wrong(tmp_path):
    snn = snnfast.convert(per_channel(), sample=X)
    for error, message, call in (
        (ValueError, "is a folder, not a file", lambda: snnfast.export_nir(snn, X[:1], tmp_path)),
        (TypeError, "path must be a str or a path, got int", lambda: snnfast.export_nir(snn, X[:1], 3)),
        (ValueError, "sample must be finite", lambda: snnfast.export_nir(snn, X[:1] / 0)),
        (ValueError, "weights in bfloat16", lambda: snnfast.export_nir(snnfast.convert(per_channel().bfloat16()), X[:1].bfloat16())),
    ):
        with pytest.raises(error, match=message):
            call()
    graph = nir.NIRGraph(
        {"input": nir.Input({"input": np.array([4])}), "n": nir.LIF(*(np.full(4, v) for v in (1e-3, 1.0, 0.0, 1.0))),
         "output": nir.Output({"output": np.array([4])})}, [("input", "n"), ("n", "output")],
    )  # fmt: skip
    with pytest.raises(ValueError, match="was read from NIR, .* keep the file of NIR"):
        snnfast.save_checkpoint(tmp_path / "a.pt", snnfast.import_nir(graph))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("many", [8, 1, 5])
def test_a_step_for_any_number_of_images(many):
    """As many images as channels: neither number is taken for the other."""
    steps = snnfast.Steps(snnfast.convert(per_channel(), sample=X))
    shapes = ({0: torch.export.Dim("batch", min=1, max=4096)},)
    with torch.no_grad():
        program = torch.export.export(steps, (torch.cat([X, X])[: max(many, 2)],), dynamic_shapes=shapes).module()
        for B in (1, 3, 8):
            assert all(map(torch.equal, program(X[:B]), steps(X[:B])))


@pytest.mark.parametrize("what", ["network", "run", "steps"])
def test_onnx_for_any_number_of_images(what, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    net = per_channel()
    if what == "network":
        files, expected = snnfast.export_onnx(net, X, tmp_path / "n.onnx"), net
    else:
        snn = snnfast.convert(net, sample=X)
        files = snnfast.export_onnx(snn, X, tmp_path / "n.onnx", T=2 if what == "run" else None)
        expected = lambda x: snn(x, 2 if what == "run" else 1)
    session = runtime.InferenceSession(files[0])
    with torch.no_grad():
        for B in (1, 3, 8):
            assert np.allclose(session.run(["y"], {"x": X[:B].numpy()})[0], expected(X[:B]).numpy(), atol=1e-5)


class CountsImages(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))

    def forward(self, x):
        return self.net(x) * 2 if x.shape[0] > 3 else self.net(x)


def test_onnx_of_some_numbers_of_images_is_refused(tmp_path):
    pytest.importorskip("onnxscript")
    fixed = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), snnfast.nn.QCFS(4, 1.0), nn.Flatten(0), nn.Linear(1280, 5))
    for net, message in ((CountsImages(), "what it computes holds for 4 to 65536 of them"), (fixed, "fixed to that of sample, 5")):
        with pytest.raises(ValueError, match=f"net cannot become ONNX for any number of images: .*{message}"):
            snnfast.export_onnx(net.eval(), X[:5], tmp_path / "n.onnx")
    assert not list(tmp_path.iterdir())

"""Tensors that are not dense (sparse, nested, of a library's own layout) are refused by name, in every argument of every op."""

import pytest
import torch

import snnfast

X = torch.rand(3, 4)
CALLS = {
    "iaf x": lambda t: snnfast.iaf(t, 1.0), "iaf theta": lambda t: snnfast.iaf(X, t), "iaf v0": lambda t: snnfast.iaf(X, 1.0, t),
    "iaf mask": lambda t: snnfast.iaf(X, 1.0, mask=t), "iaf out": lambda t: snnfast.iaf(X, 1.0, out=t),
    "iaf state.v": lambda t: snnfast.iaf(X, 1.0, state=snnfast.IAFState(t, t)), "lif x": lambda t: snnfast.lif(t, 1.0, 2.0),
    "plif x": lambda t: snnfast.plif(t, 1.0, 0.0), "plif w": lambda t: snnfast.plif(X, 1.0, t), "qcfs x": lambda t: snnfast.qcfs(t, 1.0, 4),
    "norm_neuron x": lambda t: snnfast.norm_neuron(t, training=True), "max_pool2d x": lambda t: snnfast.max_pool2d(t, 1),
    "norm_neuron weight": lambda t: snnfast.norm_neuron(X[None], t, training=True),
    "norm_neuron w": lambda t: snnfast.norm_neuron(X[None], training=True, w=t),
    "qcfs theta": lambda t: snnfast.qcfs(X, t, 4), "cs_qcfs x": lambda t: snnfast.cs_qcfs(t, torch.ones(4), 4),
    "quanta x": lambda t: snnfast.quanta(t, 1.0, m=4), "softmax_over_time x": snnfast.softmax_over_time,
    "layer_norm_over_time x": snnfast.layer_norm_over_time, "cos_start x": lambda t: snnfast.cos_start(t, 1.0),
    "spike_linear x": lambda t: snnfast.spike_linear(t, torch.rand(5, 4)), "spike_linear weight": lambda t: snnfast.spike_linear(X, t),
    "spike_linear bias": lambda t: snnfast.spike_linear(X, torch.rand(5, 4), t),
    "spike_conv2d x": lambda t: snnfast.spike_conv2d(t, torch.rand(2, 4, 1, 1)), "exact_weights weight": snnfast.exact_weights,
}  # fmt: skip


def made(kind, dtype):
    x = torch.rand(3, 4) > 0.5 if dtype == torch.bool else torch.rand(3, 4)
    return {
        "sparse_coo": x.to_sparse, "sparse_csr": x.to_sparse_csr, "mkldnn": x.to_mkldnn,
        "nested": lambda: torch.nested.nested_tensor([x[0, :3], x[0]]),
        "jagged": lambda: torch.nested.nested_tensor([x[0, :3], x[0]], layout=torch.jagged),
    }[kind]()  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # torch's own, of layouts that may still change
@pytest.mark.parametrize("kind", ["sparse_coo", "sparse_csr", "mkldnn", "nested", "jagged"])
@pytest.mark.parametrize("name", CALLS)
def test_it_is_refused_by_name(name, kind):
    mask = name.endswith("mask")
    if mask and kind == "mkldnn":
        pytest.skip("torch has no such tensor of booleans")
    t = made(kind, torch.bool if mask else torch.float32)
    with pytest.raises(TypeError, match=f"{name.split()[-1]} must be a dense tensor, got a {kind.replace('jagged', 'nested')} one"):
        CALLS[name](t)


@pytest.mark.parametrize("x", [
    torch.arange(40.0).unfold(0, 20, 1)[:5] / 40, (torch.arange(300.0) / 300).as_strided((4, 3, 8), (1, 8, 1)), torch.rand(1, 6).t(),
    torch.rand(5).expand(4, 5), torch.rand(8, 6)[::2],
], ids=["sliding windows", "overlapping", "transposed", "expanded", "every other step"])  # fmt: skip
def test_small_calls_take_any_strides(x):
    with torch.no_grad():
        for run in (lambda x: snnfast.iaf(x, 0.5), lambda x: snnfast.lif(x, 0.5, 2.0), lambda x: snnfast.plif(x, 0.5, 0.0)):
            (s, state), (other, end) = run(x), run(x.contiguous().clone())
            assert torch.equal(s, other) and torch.equal(state.v, end.v) and torch.equal(state.count, end.count)

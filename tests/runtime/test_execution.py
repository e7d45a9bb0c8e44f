"""How nodes are computed: fixed shapes, 16-bit products, the clock, memory that layers share."""

import pytest
import torch
from torch.nn import functional as F

import snnfast
from snnfast.evaluation.statistics import QuantisedPass, Statistics
from snnfast.runtime.arena import Arena, choose
from snnfast.runtime.cuda_graphs import Graphs
from snnfast.runtime.execution import Execution
from snnfast.runtime.fixed_shapes import FixedShapes
from snnfast.runtime.number_formats import formats


def trained_looking(arch):
    torch.manual_seed(1)
    net = snnfast.models.BY_NAME[arch](width=0.125, theta=1.0)
    net.train()(torch.randn(8, 3, 32, 32))
    return net.eval()


def outputs(snn, x, T, chunk, execution):
    return torch.cat(list(snn.chunks(x, T, chunk, execution=execution)))


@pytest.mark.parametrize("arch", ["vgg11", "resnet18", "resnet50"])
def test_fixed_shapes_give_the_same_bits_in_any_batch(arch):
    snn, x = snnfast.convert(trained_looking(arch)), torch.randn(11, 3, 32, 32)
    run = lambda x, chunk: outputs(snn, x, 6, chunk, Execution(snn.gm, deterministic=True, products="dense"))
    whole = run(x, 6)
    assert torch.equal(torch.cat([run(x[:1], 4), run(x[1:4], 1), run(x[4:], 2)], 1), whole)
    # Against the ordinary call: the same sums in another order. Spikes may move by a step where a potential ends near its threshold.
    ordinary = outputs(snn, x, 6, 6, Execution(snn.gm, products="dense"))
    assert (whole.mean(0) - ordinary.mean(0)).abs().max() <= 0.05 * ordinary.mean(0).abs().max()


def test_layers_whose_rows_depend_on_their_place_are_called_row_by_row():
    fixed = FixedShapes(torch.nn.Module(), torch.device("cpu"))
    x = torch.randn(20, 6)
    weights = torch.arange(32.0)[:, None] * 1e-3

    def by_place(t):  # a library whose result depends on where a row lies
        return t.sum(1, keepdim=True) + (weights[: len(t)] if len(t) > 1 else 0)

    assert fixed._row_independent(by_place, [x], 8) == 1
    assert fixed._row_independent(lambda t: t * 2, [x], 8) == 8
    assert torch.equal(fixed.apply("place", by_place, [x], 20), x.sum(1, keepdim=True))
    assert fixed.known == {("place", ((6,), torch.float32, False)): 1}


def test_fixed_shapes_keep_layout_and_calls_are_of_one_shape():
    fixed, seen = FixedShapes(torch.nn.Module(), torch.device("cpu")), set()
    x = torch.randn(13, 4, 5, 5).contiguous(memory_format=torch.channels_last)
    w = torch.randn(6, 4, 3, 3)

    def conv(t):
        seen.add(tuple(t.shape))
        assert torch.get_num_threads() == 1 and not torch.is_grad_enabled()
        return F.conv2d(t, w)

    y = fixed.apply("conv", conv, [x], 13)
    assert seen <= {(8, 4, 5, 5), (1, 4, 5, 5)}
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, F.conv2d(x, w))  # default tolerance of fp32: other shapes, other order of sums
    assert torch.get_num_threads() >= 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_products_round_factors_and_results_and_nothing_else(dtype):
    """By hand: products in 16 bits, neurons in fp32 on their results, sums in fp32."""
    torch.manual_seed(0)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = torch.nn.Linear(7, 16), torch.nn.Linear(16, 16), torch.nn.Linear(16, 5)
            self.f, self.g = snnfast.nn.QCFS(4, 1.3), snnfast.nn.QCFS(4, 0.7)

        def forward(self, x):
            x = self.f(self.a(x))
            return self.c(self.g(self.b(x) + x))

    net = Net().eval()
    snn, x = snnfast.convert(net), torch.randn(9, 7)
    name = {torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
    found = outputs(snn, x, 5, 2, Execution(snn.gm, dtype=name))

    def product(layer, t):
        return F.linear(t.to(dtype), layer.weight.to(dtype), layer.bias.to(dtype))

    with torch.no_grad():
        s, _ = snnfast.iaf(product(net.a, x).expand(5, 9, 16).contiguous(), 1.3)
        s = s.flatten(0, 1)
        u = (product(net.b, s).float() + s.float()).unflatten(0, (5, 9))
        r, _ = snnfast.iaf(u, 0.7)
        expected = product(net.c, r.flatten(0, 1)).float().unflatten(0, (5, 9))
    assert torch.equal(found, expected) and found.dtype == torch.float32
    whole = outputs(snn, x, 5, 5, Execution(snn.gm, dtype=name))
    assert torch.equal(found, whole)


def test_formats_are_put_back():
    before = torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision
    for dtype, inside in (("fp32", "ieee"), ("tf32", "tf32"), ("bf16", "ieee"), ("author", before[0])):
        with pytest.raises(KeyError), formats(dtype):
            assert torch.backends.cuda.matmul.fp32_precision == inside
            raise KeyError
        assert (torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision) == before


def test_tf32_is_refused_on_a_cpu(tiny):
    snn = snnfast.convert(tiny[0])
    with pytest.raises(ValueError, match="dtype 'tf32' is a format of GPUs, and the device is cpu; allowed there: fp32, bf16"):
        snnfast.evaluate(snn, [(tiny[1], torch.zeros(6, dtype=torch.long))], T=2, dtype="tf32")
    with pytest.raises(ValueError, match="dtype must be one of 'fp32', 'tf32'"):
        snnfast.evaluate(snn, [(tiny[1], torch.zeros(6, dtype=torch.long))], T=2, dtype="int8")


def test_the_clock_knows_every_node_once(tiny):
    snn = snnfast.convert(tiny[0])
    report = snnfast.evaluate(snn, [(tiny[1], torch.zeros(6, dtype=torch.long))], T=4, statistics=True)
    names = [row["layer"] for row in report.profile]
    assert len(set(names)) == len(names) and {name for name, _ in snn.neurons()} <= set(names)
    assert all(row["seconds"] >= 0 and row["bytes"] >= 0 for row in report.profile)
    assert sum(row["share"] for row in report.profile) == pytest.approx(1.0)
    assert {row["kind"] for row in report.profile} == {"product", "neuron", "other"}


def test_the_quantised_pass_is_the_network(tiny):
    """Up to the rounding of folded batch norms, where no level changes by it."""
    net, x = tiny
    snn = snnfast.convert(net.double())
    found = QuantisedPass(snn.gm, snn.plan(), snn.levels, x.double(), Execution(snn.gm))
    with torch.no_grad():
        torch.testing.assert_close(found.logits, net(x.double()))
    net.float()


def test_arena_takes_the_smallest_that_fits_and_shares():
    assert choose([], 5) == (None, False) and choose([3, 9, 6], 5) == (2, True) and choose([3, 4], 5) == (1, False)
    arena = Arena(torch.device("cpu"))
    a = arena.take(10, torch.float32)
    b = arena.take(4, torch.float32)
    assert arena.holds(a) and a.data_ptr() != b.data_ptr()
    view = a[2:].view(2, 4)
    arena.give_back([view, (b,)])
    assert not arena.free
    arena.give_back([view])
    c = arena.take(3, torch.float32)
    assert c.data_ptr() == b.data_ptr() and not arena.holds(torch.ones(3))
    arena.give_back([])
    assert len(arena.free) == 2 and not arena.used
    d = arena.take(11, torch.float32)  # none fits: the largest is given up
    assert len(arena.free) == 1 and d.numel() == 11


def test_an_execution_is_reused_by_every_run(tiny):
    net, x = tiny
    snn = snnfast.convert(net)
    execution = Execution(snn.gm, dtype="bf16", deterministic=True)
    first = outputs(snn, x, 3, 2, execution)
    assert torch.equal(outputs(snn, x, 3, 3, execution), first)
    assert len(execution.half.copies) == sum(isinstance(m, (torch.nn.Conv2d, torch.nn.Linear)) for m in snn.gm.modules())


def replayed_on_the_host(function):
    """Stands for a CUDA graph: runs the function again, and leaves what it returns where the captured call left it."""
    result = Left()

    def replay():
        result.y = function().clone()

    return replay, result


class Left:
    def clone(self):
        return self.y.clone()


@pytest.mark.parametrize("method", ["if", "srp", "cos", "stbif"])
def test_batches_share_the_memory_that_a_graph_replays_in(tiny, method):
    """The bookkeeping of CUDA graphs, on the host: three batches, of which the second and third go on in the first one's memory."""
    net, x = tiny
    snn, graphs = snnfast.convert(net, method), Graphs(replayed_on_the_host)
    execution = Execution(snn.gm, graphs=graphs)
    for images in (x, x.flip(0) * 1.5, x[:4], x.roll(3, -1), x[2:]):
        found = torch.cat([y.clone() for y in snn.chunks(images, 23, 4, execution=execution)])
        assert torch.equal(found, torch.cat(list(snn.chunks(images, 23, 4))))
    assert len(graphs.graphs) == 2 and graphs.refused is None
    counted, plain = Statistics(snn), Statistics(snn)
    for s, how in ((counted, dict(execution=execution)), (plain, {})):
        for _ in snn.chunks(x, 16, 4, statistics=s, **how):
            pass
    assert counted.rows() == plain.rows()


def test_graphs_say_why_not(tiny):
    net, x = tiny
    graphs = Graphs(replayed_on_the_host)
    snn = snnfast.convert(net, inputs="poisson", amplitude=3.0)
    found = outputs(snn, x, 9, 2, Execution(snn.gm, graphs=graphs))
    assert torch.equal(found, torch.cat(list(snn.chunks(x, 9, 2)))) and graphs.refused.startswith("Poisson input") and not graphs.graphs
    with pytest.raises(ValueError, match="graphs are of CUDA devices, and the device is cpu"):
        snnfast.evaluate(snn, [(x, torch.arange(6))], T=2, graphs=True)


@pytest.mark.parametrize("features", [7, 24, 25])
@pytest.mark.parametrize("outputs", [5, 16])
def test_where_a_step_begins_in_memory_changes_nothing(features, outputs):
    """Libraries sum in another order where memory begins at no round place: steps of 3 images of 25 features begin there."""
    torch.manual_seed(0)
    layers = torch.nn.Linear(features, features), snnfast.nn.QCFS(8, 1.0), torch.nn.LayerNorm(features), torch.nn.Linear(features, outputs)
    snn, x = snnfast.convert(torch.nn.Sequential(*layers), mode="differential"), 3 * torch.randn(3, features)
    whole = snn.logits(x, 12, chunk=12)
    for chunk in (1, 2, 5):
        assert torch.equal(snn.logits(x, 12, chunk=chunk), whole), chunk

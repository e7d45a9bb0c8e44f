"""What only a GPU can show: the CUDA column on the device, streams, graphs, no waiting, 64-bit indices, memory. `make gpu` runs it too.

Uninitialised memory is full of NaN here as everywhere (tests/conftest.py).
"""

import cases
import pytest
import test_exact_networks as exact
import torch
from conftest import HAS_CUDA
from test_backends import QCFS, check_cos, check_qcfs, check_row, check_whole_quotients
from test_channels import CHANNELS, check_channels
from test_conv import check_conv
from test_pool import POOLS, check_pool
from test_rows import ROWS as LENGTHS
from test_rows import check_rows

import snnfast
from snnfast.engines import backends
from snnfast.engines.form import EVERY
from snnfast.ops import channels, conv, cos, info, norm_neuron, plif, pool, quanta
from snnfast.ops import iaf as op
from snnfast.ops import qcfs as qop
from snnfast.ops import rows as rop
from snnfast.runtime.cuda_graphs import Graphs
from snnfast.runtime.execution import Execution

pytestmark = pytest.mark.skipif(not HAS_CUDA, reason="no GPU on this machine")
ROWS = cases.sample(250, seed=4, sizes=[*cases.SIZES, (5, 2048), (19, 270336), (40, 4096)])


def test_the_provider():
    """`make gpu` builds the CUDA library; then it is the one that is measured."""
    assert backends.provider == "cuda", info.info()["cuda"]


@pytest.mark.parametrize("row", ROWS, ids=cases.name)
def test_iaf(row):
    check_row(row, op.iaf_fwd, op.iaf_out, op.iaf_bwd, "cuda", EVERY)


FEW = cases.sample(
    40, seed=9, sizes=[(64, 64), (97, 128), (130, 4096), (1000, 4104), (70, 16896), (66, 9000)],
    knobs=cases.KNOBS | dict(unit=["volts"], reset=["soft"], strict=[False], constant=[False], surrogate=["zif"], detach=[False], memory=[False],
                             offset=[0.0], leak=[None]),
)  # fmt: skip


@pytest.mark.parametrize("row", FEW, ids=cases.name)
def test_iaf_of_few_neurons(row):
    check_row(row, op.iaf_fwd, op.iaf_out, op.iaf_bwd, "cuda", EVERY)


@pytest.mark.parametrize("row", ROWS[::10], ids=cases.name)
def test_iaf_that_kept_nothing(row):
    check_row(row, op.iaf_fwd, op.iaf_out, op.iaf_bwd, "cuda", 0)


@pytest.mark.parametrize(
    "row", cases.sample(60, seed=6, sizes=[*cases.SIZES, (5, 2048), (19, 270336)], knobs=cases.PLIF_KNOBS), ids=cases.name
)
def test_plif(row):
    check_row(row, plif.OPS.fwd, plif.OPS.out, plif.OPS.bwd, "cuda", EVERY, make=cases.PlifCase)


@pytest.mark.parametrize(
    "row", cases.sample(60, seed=21, sizes=[*cases.SIZES, (5, 2048), (19, 270336)], knobs=cases.NORM_KNOBS), ids=cases.name
)
def test_norm_neuron(row):
    check_row(row, norm_neuron.OPS.fwd, norm_neuron.OPS.out, norm_neuron.OPS.bwd, "cuda", EVERY, make=cases.NormCase)


@pytest.mark.parametrize("row", CHANNELS, ids=str)
def test_channels(row):
    check_channels(row, channels.channel_sums, channels.channel_add, "cuda")


@pytest.mark.parametrize("row", POOLS, ids=str)
def test_pool(row):
    check_pool(row, pool.pool_fwd, pool.pool_bwd, "cuda")


@pytest.mark.parametrize(
    "row", cases.sample(60, seed=9, sizes=[*cases.SIZES, (5, 2048), (19, 270336)], knobs=cases.QUANTA_KNOBS), ids=cases.name
)
def test_quanta(row):
    check_row(row, quanta.OPS.fwd, quanta.OPS.out, quanta.OPS.bwd, "cuda", EVERY, make=cases.QuantaCase)


@pytest.mark.parametrize("row", cases.COS, ids=lambda r: "-".join(map(str, r)))
def test_cos(row):
    check_cos(row, cos.cos_fwd, "cuda")


@pytest.mark.parametrize("row", cases.CONV, ids=lambda r: "-".join(map(str, r)))
def test_conv(row):
    check_conv(row, conv.conv_fwd, conv.conv_out, "cuda")


@pytest.mark.parametrize("row", LENGTHS, ids=lambda r: "-".join(map(str, r)))
def test_rows(row):
    check_rows(row, rop.softmax_out, rop.layer_norm_out, "cuda")


@pytest.mark.parametrize("row", QCFS, ids=lambda r: "-".join(map(str, r)))
def test_qcfs(row):
    check_qcfs(*row, qop.qcfs_fwd, qop.qcfs_bwd, "cuda")


def test_whole_quotients():
    check_whole_quotients(qop.qcfs_fwd, "cuda")


def both(device, seed=0):
    """Results and gradients of the public functions on a device."""
    g = torch.Generator().manual_seed(seed)
    x, th = (torch.randn(21, 4, 6, 8, 8, generator=g) + 0.3).to(device), (torch.rand(6, 1, 1, generator=g) + 0.5).to(device)
    dy = torch.randn(21, 4, 6, 8, 8, generator=g).to(device)
    x, th = x.requires_grad_(), th.requires_grad_()
    s, state = snnfast.iaf(x, th, 0.3)
    (s * dy).sum().backward()
    first = [s, *state, x.grad, th.grad]
    x.grad = th.grad = None
    y = snnfast.qcfs(x, th, 4)
    (y * dy).sum().backward()
    return [t.detach().cpu() for t in (*first, y, x.grad, th.grad)]


def test_public_functions():
    for i, (a, b) in enumerate(zip(both("cuda"), both("cpu"), strict=True)):
        if i in (4, 7):  # dtheta is a sum of 5,376 terms, in another order
            assert torch.allclose(a, b, rtol=1e-4, atol=1e-3)
        else:
            assert cases.same(a, b), i


def test_two_runs_give_the_same_bits():
    for a, b in zip(both("cuda"), both("cuda"), strict=True):
        assert cases.same(a, b)


def test_no_waiting():
    x, th = torch.randn(20, 300, device="cuda", requires_grad=True), torch.rand(300, device="cuda") + 0.5
    snnfast.iaf(x, th)[0].sum().backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        snnfast.iaf(x, th)[0].sum().backward()
        snnfast.qcfs(x, th, 4).sum().backward()
        snnfast.iaf(x.detach(), 0.7, spikes="bits")
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_current_stream():
    """The kernels run behind what their stream does, not beside it."""
    x, stream = torch.zeros(8, 1 << 20, device="cuda"), torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        x.fill_(1.0)
        s, _ = snnfast.iaf(x, 0.75)
    stream.synchronize()
    assert torch.equal(s.cpu(), snnfast.iaf(torch.ones(8, 1 << 20), 0.75)[0])


def test_cuda_graph():
    x, th, dy = torch.randn(20, 4096, device="cuda"), torch.rand(4096, device="cuda") + 0.5, torch.randn(20, 4096, device="cuda")
    rule = op.OPS.eq.numbers.pack(op.rule_of())

    def step():
        s, v, n, kept = op.iaf_fwd(x, th, None, None, None, 20, 1, 0.5, 0, EVERY, rule)
        return (
            s,
            v,
            n,
            *op.iaf_bwd(dy, None, x, th, None, None, None, kept, 20, 1, 0.5, rule),
            *qop.qcfs_bwd(dy[0], x[0], th, 1, [4.0, 0.0]),
        )

    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step()
    for seed in (1, 2):
        x.copy_(torch.randn(20, 4096, generator=torch.Generator().manual_seed(seed)))
        graph.replay()
        for a, b in zip(results, step(), strict=True):
            assert cases.same(a, b)


def test_64_bit_indices():
    T, N = 33, 1 << 26  # 2.2e9 elements
    if torch.cuda.mem_get_info()[0] < 20 << 30:
        pytest.skip("needs 20 GiB of free GPU memory")
    x = torch.zeros(T, N, dtype=torch.bfloat16, device="cuda")
    x[:, -3:] = 0.5
    s, state = snnfast.iaf(x, 1.0, spikes="int8")
    torch.cuda.synchronize()
    assert int(s[:, -3:].sum()) == 3 * 17 and int(s[-1, :-3].sum()) == 0 and int(state.count.sum()) == 3 * 17


def test_another_device():
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    x = torch.randn(9, 300)
    assert torch.equal(snnfast.iaf(x.to("cuda:1"), 0.7)[0].cpu(), snnfast.iaf(x, 0.7)[0])


def test_network_runs_in_flat_memory(tiny):
    net, x = tiny
    snn, x, peak = snnfast.convert(net).cuda(), x.cuda(), {}
    for T in (64, 1024):
        torch.cuda.reset_peak_memory_stats()
        snn.logits(x, T, at=[T], chunk=32)
        peak[T] = torch.cuda.max_memory_allocated()
    assert peak[1024] <= 1.05 * peak[64], peak
    # cuDNN's convolutions add in another order than the CPU's: near a threshold a spike may fall on the other side.
    a, b = snn.logits(x, 64, at=[64])[0].cpu(), snnfast.convert(net).logits(x.cpu(), 64, at=[64])[0]
    assert (a.argmax(1) == b.argmax(1)).float().mean() >= 0.8


def test_a_network_of_batch_norms_on_the_gpu_is_captured():
    """cuDNN's batch norm serves 65,535 images at most, which the capture must not find too few."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        torch.nn.Linear(8, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 4),
    ).eval()  # fmt: skip
    x = torch.randn(16, 3, 8, 8, device="cuda")
    snn = snnfast.convert(net.cuda(), calibrate=x, percentile=100)
    with torch.no_grad():
        assert (snn(x, T=256) - net(x)).norm() < 0.02 * net(x).norm()


def test_sparse_products_give_the_bits_of_the_cpu():
    """A network without poolings: convolutions, neurons and linear layers are the same arithmetic on both."""
    torch.manual_seed(0)
    Q = snnfast.nn.QCFS
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 40, 3, padding=1), Q(4, 0.7), torch.nn.Conv2d(40, 33, 3, stride=2), Q(4, 0.3),
        torch.nn.Flatten(), torch.nn.Linear(33 * 9, 10),
    ).eval()  # fmt: skip
    x, found = torch.randn(5, 3, 8, 8), []
    for device in ("cpu", "cuda"):
        snn = snnfast.convert(net).to(device)
        execution = Execution(snn.gm, device, products="sparse")
        found.append(torch.cat(list(snn.chunks(x.to(device), 9, 4, execution=execution))).cpu())
    assert torch.equal(*found) and (found[0] != 0).any()


def test_exact_products_give_the_bits_of_the_cpu():
    """A whole network, with max and average pooling: integers have no order of sums."""
    snn, x = snnfast.convert(exact.network()), exact.images()
    expected, _ = exact.run(snn, x)
    found, execution = exact.run(snn.to("cuda"), x.cuda(), chunk=13)
    assert execution.exact() == ["4", "7", "12", "14"] and torch.equal(found.cpu(), expected)


@pytest.mark.parametrize("method", ["if", "srp", "cos"])
def test_chunks_replayed_from_a_graph(tiny, method):
    """The same bits as without: the same kernels on the same memory; four batches, of which one is smaller."""
    net, x = tiny
    snn, x = snnfast.convert(net, method).cuda(), x.cuda()
    execution = Execution(snn.gm, "cuda", graphs=Graphs())
    for images in (x, x.flip(0), x[:4], x.roll(3, -1)):
        found = torch.cat([y.clone() for y in snn.chunks(images, 23, 4, execution=execution)])
        assert torch.equal(found, torch.cat(list(snn.chunks(images, 23, 4))))
    assert execution.graphs.graphs and execution.graphs.refused is None


def test_evaluation_within_a_budget(tiny):
    net, x = tiny
    data = torch.utils.data.TensorDataset(x.repeat(20, 1, 1, 1), torch.arange(120) % 10)
    snn, reports = snnfast.convert(net), {}
    for name in ("plain", "graphs", "budget"):
        # What is in use counts too, and after the run with graphs that is more than before.
        how = {"plain": {}, "graphs": dict(graphs=True), "budget": dict(memory=torch.cuda.memory_reserved() + (300 << 20))}[name]
        reports[name] = snnfast.evaluate(snn, data, T=64, ann=net.cuda(), device="cuda", deterministic=True, **how)
    assert reports["plain"].loss == reports["graphs"].loss == reports["budget"].loss
    found = reports["budget"].memory
    assert found["peak"] <= found["budget"] and found["estimate"] <= found["budget"]
    net.cpu()


def test_what_libraries_work_in_stays_within_the_budget():
    """cuDNN takes whole gigabytes for these convolutions where it may: 2.9 GiB of a budget of 1.7 without a limit, on an H200."""
    torch.manual_seed(0)
    snn = snnfast.convert(snnfast.models.vgg11(num_classes=10, width=0.25).eval())
    data, losses = [(torch.rand(256, 3, 32, 32), torch.arange(256) % 10)], []
    torch.cuda.empty_cache()
    before = torch.cuda.get_per_process_memory_fraction()
    for graphs in (False, True):
        budget = torch.cuda.memory_reserved() + (1200 << 20)
        report = snnfast.evaluate(snn, data, T=64, device="cuda", memory=budget, graphs=graphs)
        assert report.memory["peak"] <= budget and torch.cuda.get_per_process_memory_fraction() == before
        losses.append(report.loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)  # cuDNN's sums follow the algorithm
    snn.to("cpu")


@pytest.mark.parametrize("method", ["if", "stbif"])
def test_spikes_as_bytes_give_the_bits_of_the_cpu(method):
    """What goes from layer to layer as whole numbers, with poolings in between."""
    torch.manual_seed(0)
    net = snnfast.models.vgg11(num_classes=10, width=0.125).eval()
    snn, x, found = snnfast.convert(net, method), torch.rand(5, 3, 32, 32), []
    for device in ("cpu", "cuda"):
        snn = snn.to(device)
        execution = Execution(snn.gm, device, products="exact")
        assert len(execution.whole()) >= 8
        found.append(torch.cat([y.cpu() for y in snn.chunks(x.to(device), 11, 4, execution=execution)]))
    assert torch.equal(*found)  # the first layer's sums, of the image, have one order on both


def test_images_of_early_exit_come_from_the_cpu(tiny):
    net, x = tiny
    snn, x = snnfast.convert(net), x.cpu()
    rules = [snnfast.calibrate_exit(snn.to(device), x, T=16) for device in ("cpu", "cuda")]
    reports = [snnfast.evaluate_early(snn.to(device), [(x, torch.arange(len(x)))], rules[0]) for device in ("cpu", "cuda")]
    assert rules[0].at == rules[1].at and reports[0].images == reports[1].images == len(x)
    snn.to("cpu")


@pytest.mark.parametrize("dtype", ["tf32", "bf16", "fp16", "author"])
def test_formats_run(tiny, dtype):
    net, x = tiny
    report = snnfast.evaluate(
        snnfast.convert(net), [(x, torch.arange(6))], T=16, ann=net.cuda(), device="cuda", dtype=dtype, statistics=True
    )
    assert report.settings["dtype"] == dtype and len(report.profile) > 20 and all(torch.isfinite(torch.tensor(report.loss)))
    net.cpu()

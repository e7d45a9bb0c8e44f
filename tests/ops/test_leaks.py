"""No call keeps memory: what the C library's heap holds is the same after thousands of calls of every op."""

import ctypes
import gc
import os
import random

import pytest
import torch
from shares import every

import snnfast


class Heap(ctypes.Structure):
    """struct mallinfo2 of the GNU C library."""

    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]


def held():
    """Bytes that the heap has given out."""
    gc.collect()
    library = ctypes.CDLL(None)
    library.mallinfo2.restype = Heap
    heap = library.mallinfo2()
    return heap.uordblks + heap.hblkhd


def calls():
    x, theta, image, weight = torch.randn(4, 64), torch.ones(64), torch.randn(1, 2, 4, 4), torch.randn(3, 2, 3, 3)
    state, out, grown = snnfast.iaf(x, theta)[1], torch.empty(4, 64), torch.randn(4, 64, requires_grad=True)
    total, last = torch.zeros(1, 64), torch.zeros(1, 64)

    def backward(call):
        grown.grad = None
        call().sum().backward()

    return {
        "iaf_fwd": lambda: snnfast.iaf(x, theta, negative="stbif", surrogate="atan"),
        "iaf_out": lambda: snnfast.iaf(x, theta, state=state, out=out, state_out=state),
        "iaf_bwd": lambda: backward(lambda: snnfast.lif(grown, theta, 2.0)[0]),
        "plif_bwd": lambda: backward(lambda: snnfast.plif(grown, theta, theta)[0]),
        "quanta_bwd": lambda: backward(lambda: snnfast.quanta(grown, theta, m=4, negative="stbif")[0]),
        "norm_neuron_bwd": lambda: backward(lambda: snnfast.norm_neuron(grown.view(4, 2, 8, 4), theta[:8], theta[:8], training=True)[0]),
        "pool_bwd": lambda: backward(lambda: snnfast.max_pool2d(grown.view(4, 1, 8, 8), 2)),
        "cos_fwd": lambda: snnfast.cos_start(x, theta, unit="normalised"),
        "qcfs_fwd": lambda: snnfast.qcfs(x, theta, 4, "paper"),
        "qcfs_bwd": lambda: backward(lambda: snnfast.qcfs(grown, theta, 4, "srp")),
        "conv_fwd": lambda: snnfast.spike_conv2d(image, weight),
        "softmax_out": lambda: snnfast.softmax_over_time(x[:, None], snnfast.RowState(total, last)),
        "layer_norm_out": lambda: snnfast.layer_norm_over_time(x[:, None]),
    }


@pytest.mark.parametrize("op", every(2, calls()))
def test_calls_keep_nothing(op, request):
    call, many = calls()[op], 20_000 if request.config.getoption("--thorough") else 4_000
    for _ in range(1000):
        call()
    before = held()
    for _ in range(many):
        call()
    assert held() - before < many  # less than a byte a call; a text argument kept 48


def test_batches_of_a_run_keep_nothing(request):
    """A network over hundreds of batches of 4 steps, in chunks of one step."""
    many = 2000 if request.config.getoption("--thorough") else 600
    net = torch.nn.Sequential(
        torch.nn.Linear(8, 16), snnfast.nn.QCFS(4, 1.0), torch.nn.Linear(16, 4), snnfast.nn.QCFS(4, 1.0), torch.nn.Linear(4, 3)
    )
    snn, x = snnfast.convert(net), torch.randn(2, 8)
    snn.logits(x, 400, [400], chunk=1)
    before = held()
    for _ in range(many):
        snn.logits(x, 4, [4], chunk=1)
    assert held() - before < 100 * many  # 100 bytes a batch: caches of Python's


def resident():
    """Bytes of this process that lie in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_changing_shapes_keep_nothing():
    """Thousands of calls, hardly two of them of one shape: nothing is kept for a shape. Both what the heap has given out and what it holds on to.

    The process may take pages once and late (a thread's own heap, huge pages that the kernel joins): what a call keeps grows in every round."""
    rng = random.Random(0)

    def call():
        T, B, C, H = rng.randint(1, 12), rng.randint(1, 4), rng.randint(1, 24), rng.randint(1, 6)
        x = torch.randn(T, B, C, H, requires_grad=rng.random() < 0.5)
        theta = torch.rand(rng.choice(((), (C, 1), (C, H), (H,)))) + 0.5
        kind = rng.choice(("scaled", "unit")) if x.requires_grad else rng.choice(("scaled", "unit", "int8", "bits", "count"))
        s, state = rng.choice((snnfast.iaf, snnfast.lif, snnfast.plif))(x, theta, spikes=kind)
        y = snnfast.qcfs(x, theta, rng.randint(1, 32))
        snnfast.spike_conv2d(x.detach().flatten(0, 1)[..., None], torch.randn(rng.randint(1, 8), C, 1, 1))
        snnfast.softmax_over_time(x.detach())
        if x.requires_grad:
            (s.sum() + y.sum() + state.v.sum()).backward()

    for _ in range(1000):
        call()
    rounds = []
    while len(rounds) < 5 and not (rounds and rounds[-1][0] < 100_000 and rounds[-1][1] < 1 << 20):
        before = held(), resident()
        for _ in range(3000):
            call()
        rounds.append((held() - before[0], resident() - before[1]))
    assert rounds[-1][0] < 100_000 and rounds[-1][1] < 1 << 20, rounds

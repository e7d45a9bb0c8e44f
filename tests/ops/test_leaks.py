"""No call keeps memory: what the C library's heap holds is the same after 20,000 calls of every op."""

import ctypes
import gc

import pytest
import torch

import snnfast

CALLS = 20_000


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
        "cos_fwd": lambda: snnfast.cos_start(x, theta, unit="normalised"),
        "qcfs_fwd": lambda: snnfast.qcfs(x, theta, 4, "paper"),
        "qcfs_bwd": lambda: backward(lambda: snnfast.qcfs(grown, theta, 4, "srp")),
        "conv_fwd": lambda: snnfast.spike_conv2d(image, weight),
        "softmax_out": lambda: snnfast.softmax_over_time(x[:, None], snnfast.RowState(total, last)),
        "layer_norm_out": lambda: snnfast.layer_norm_over_time(x[:, None]),
    }


@pytest.mark.parametrize("op", list(calls()))
def test_calls_keep_nothing(op):
    call = calls()[op]
    for _ in range(1000):
        call()
    before = held()
    for _ in range(CALLS):
        call()
    assert held() - before < CALLS  # less than a byte a call; a text argument kept 48


def test_batches_of_a_run_keep_nothing():
    """A network over 2,000 batches of 4 steps, in chunks of one step: as many calls as a long evaluation makes."""
    net = torch.nn.Sequential(
        torch.nn.Linear(8, 16), snnfast.nn.QCFS(4, 1.0), torch.nn.Linear(16, 4), snnfast.nn.QCFS(4, 1.0), torch.nn.Linear(4, 3)
    )
    snn, x = snnfast.convert(net), torch.randn(2, 8)
    snn.logits(x, 400, [400], chunk=1)
    before = held()
    for _ in range(2000):
        snn.logits(x, 4, [4], chunk=1)
    assert held() - before < 200_000  # 100 bytes a batch: caches of Python's

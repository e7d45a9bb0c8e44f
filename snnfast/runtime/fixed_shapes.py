"""Layers called with shapes that do not depend on the batch, so that the results do not depend on the batch.

Libraries choose the order in which a convolution or a matrix product adds up by the shape they are called with, and by the number of
threads. Here each is called with a fixed number of rows (images times steps; the last call is filled up with zeros) on one thread,
several calls side by side: a row's result then depends on the row alone. MKL is not always row-independent (some small products
depend on the row's place in the call): each layer is probed once, and called row by row if it is not.
Products that skip zeros (`sparse_products.py`) depend on their row alone and need none of this.
"""

import concurrent.futures
import threading

import torch

from snnfast.nn.masking import SpikeMask

# Rows of one call. A call reads the weights once for all its rows, so one row at a time would be slow.
ROWS = {"cpu": {"linear": 32, "other": 8}, "cuda": {"linear": 64, "other": 64}}
# Functions that compute every element by itself, or only move elements: their results depend on no shape. All others are called in fixed shapes.
_EXACT = {
    "add", "sub", "iadd", "isub", "mul", "imul", "truediv", "itruediv", "div", "neg", "relu", "relu_", "clamp", "abs", "flatten", "view", "reshape",
    "permute", "transpose", "contiguous", "size", "dim", "getitem", "getattr", "clone", "detach", "unflatten", "unsqueeze", "squeeze", "cat", "chunk",
    "split", "unbind", "stack", "pad", "dropout",
}  # fmt: skip
_EXACT_MODULES = (torch.nn.Identity, torch.nn.Flatten, torch.nn.Unflatten, torch.nn.ReLU, torch.nn.Dropout, torch.nn.ZeroPad2d,
                  torch.nn.PixelShuffle, torch.nn.ChannelShuffle, SpikeMask)  # fmt: skip


def is_sensitive(node, gm):
    """Whether a library may order the sums of this node by its shape."""
    if node.op == "call_module":
        return not isinstance(gm.get_submodule(node.target), _EXACT_MODULES)
    if node.meta.get("kind") in ("view", "size", "rows", "activation"):
        return False
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return node.op in ("call_function", "call_method") and name not in _EXACT


def _is_linear(node, gm):
    if node.op == "call_module":
        return isinstance(gm.get_submodule(node.target), torch.nn.Linear)
    return getattr(node.target, "__name__", "") == "linear"


class FixedShapes:
    """Calls a node's function on rows, a fixed number at a time."""

    def __init__(self, gm, device):
        self.gm, self.rows, self.known = gm, ROWS["cuda" if device.type == "cuda" else "cpu"], {}
        self.workers = _workers() if device.type == "cpu" else None

    def call(self, node, function, per_row, rows):
        """function(*slices of per_row) for all rows. per_row: tensors [rows, ...]."""
        return self.apply(node, function, per_row, rows, self.rows["linear" if _is_linear(node, self.gm) else "other"])

    def apply(self, key, function, per_row, rows, many=None):
        """function(*slices of per_row), `many` rows at a time. key: identifies the function; the result of its probe is stored under the key."""
        key = (key, *((t.shape[1:], t.dtype, _is_channels_last(t)) for t in per_row))
        if key not in self.known:
            self.known[key] = self._row_independent(function, per_row, many or self.rows["other"])
        many = self.known[key]
        starts = range(0, rows, many)

        def one(start):
            with torch.no_grad():  # grad mode is per thread
                return function(*(_filled(t[start : start + many], many) for t in per_row))

        first = self._alone(one, 0)
        like = first[:1].expand(rows, *first.shape[1:])
        out = torch.empty_like(like, memory_format=_format(first))

        def put(start, value):
            out[start : start + many] = value[: min(many, rows - start)]

        put(0, first)
        if self.workers is None:
            for start in starts[1:]:
                put(start, one(start))
        else:
            list(self.workers.map(lambda start: put(start, one(start)), starts[1:]))
        return out

    def _alone(self, function, *args):
        call = torch.no_grad()(function)
        return call(*args) if self.workers is None else self.workers.submit(call, *args).result()

    def _row_independent(self, function, per_row, many):
        """`many`, if the result of random rows is the same in every place of a call, else 1."""
        generator = torch.Generator().manual_seed(0)
        rows = []
        for t in per_row:
            like = t[:1].expand(many, *t.shape[1:]).clone(memory_format=_format(t))
            rows.append(like.copy_(torch.randn(like.shape, generator=generator)))
        first = self._alone(function, *rows)
        for shift in range(1, many):
            moved = self._alone(function, *(t.roll(shift, 0) for t in rows))
            if not torch.equal(moved.roll(-shift, 0), first):
                return 1
        return many


def _is_channels_last(t):
    return t.dim() == 4 and t.is_contiguous(memory_format=torch.channels_last) and not t.is_contiguous()


def _format(t):
    return torch.channels_last if _is_channels_last(t) else torch.contiguous_format


def _filled(t, many):
    """t padded with rows of zeros to `many` rows, in new memory: a slice's address depends on its place, and results may depend on the address. The
    memory order is the same whether rows are missing or not."""
    filled = torch.empty((many, *t.shape[1:]), dtype=t.dtype, device=t.device, memory_format=_format(t))
    filled[: t.size(0)], filled[t.size(0) :] = t, 0
    return filled


_pool, _lock = None, threading.Lock()


def _workers():
    """Threads that each run torch single-threaded; as many as torch had threads at the first call. Kept for the life of the process."""
    global _pool
    with _lock:
        if _pool is None:
            many = torch.get_num_threads()
            ready = threading.Barrier(many + 1)

            def single():
                torch.set_num_threads(1)
                torch.get_num_threads()  # this call fixes the thread's number of torch threads for good
                ready.wait()

            _pool = concurrent.futures.ThreadPoolExecutor(many, "snnfast", single)
            for _ in range(many):
                _pool.submit(int)  # each call starts a new thread, because no thread is idle until all have started
            ready.wait()
            torch.set_num_threads(many)
        return _pool

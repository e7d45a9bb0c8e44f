"""What `ops.py` times: for each op a builder, input -> (f, bytes of results and state, whether f's result is the definition's).

The input counts once more among the bytes of a row; weights of products are read once. Results are proved on the first `CHECKED` neurons, or images.
"""

import functools

import torch
from others import cos_loop, lif_loop, loop, qcfs_eager, quanta_loop, snm_loop, stbif_loop, trained_lif_loop, trained_loop
from torch.nn import functional as F

import snnfast
from snnfast.ops.conv import relaid

THETA, CHECKED = 0.75, 2048
LEVELS = 15  # of ST-BIF
DENSITY = 0.2  # of the inputs of products: the share that is not zero
CHANNELS = 64  # of images; features of what goes over time row by row


def wide(x):
    """What the state is computed in."""
    return x if x.dtype == torch.float64 else x.float()


def packed(s):
    """Spikes [T, N] -> bits [T, N/32] int32."""
    words = (s.view(len(s), -1, 32).long() << torch.arange(32)).sum(-1)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).int()


def _result(kind, T, N, x):
    """A tensor for the result."""
    shape, dtype = {
        "scaled": ((T, N), x.dtype), "unit": ((T, N), x.dtype), "int8": ((T, N), torch.int8), "bits": ((T, N // 32), torch.int32),
        "count": ((N,), torch.int32),
    }[kind]  # fmt: skip
    return torch.zeros(shape, dtype=dtype)


def _proved(kind, got, spikes, dtype):
    """Whether the first neurons of a result are these spikes."""
    expected = {
        "scaled": lambda: (spikes * THETA).to(dtype), "unit": lambda: spikes.to(dtype), "int8": lambda: spikes.to(torch.int8),
        "bits": lambda: packed(spikes), "count": lambda: spikes.sum(0).int(),
    }[kind]()  # fmt: skip
    part = {"count": slice(CHECKED), "bits": (slice(None), slice(CHECKED // 32))}.get(kind, (slice(None), slice(CHECKED)))
    return torch.equal(got[part], expected)


def _neuron(op, reference, kind, more=0):
    """op(x, **keywords of the result); reference: the loop, x -> s theta. more: other bytes per neuron than v and count."""

    def make(x):
        out = _result(kind, *x.shape, x)
        f = lambda: op(x, spikes=kind, out=out)[0]  # noqa: E731
        spikes = torch.round(reference(wide(x[:, :CHECKED])) / THETA)
        return f, out.nbytes + (8 + more) * x.size(1), _proved(kind, f(), spikes, x.dtype)

    return make


def iaf(kind):
    return _neuron(lambda x, **how: snnfast.iaf(x, THETA, **how), lambda x: loop(x, THETA), kind)


def lif(kind):
    return _neuron(lambda x, **how: snnfast.lif(x, THETA, 2.0, **how), lambda x: lif_loop(x, THETA), kind)


def snm(kind):
    return _neuron(lambda x, **how: snnfast.iaf(x, THETA, negative="snm", **how), lambda x: snm_loop(x, THETA), kind)


def stbif(kind):
    op = lambda x, **how: snnfast.iaf(x, THETA, negative="stbif", caps=(0, LEVELS), unit="normalised", **how)  # noqa: E731
    return _neuron(op, lambda x: stbif_loop(x, THETA, LEVELS), kind)


def quanta(kind, signed):
    how = dict(negative="stbif") if signed else {}
    return _neuron(lambda x, **kw: snnfast.quanta(x, THETA, m=8, **how, **kw), lambda x: quanta_loop(x, THETA, 8, signed), kind)


def masked(kind):
    """The second half of SRP: some neurons emit nothing."""

    def make(x):
        mask = torch.arange(x.size(1)) % 3 > 0
        op = lambda x, **how: snnfast.iaf(x, THETA, mask=mask, **how)  # noqa: E731
        return _neuron(op, lambda x: loop(x, THETA) * mask[: x.size(1)], kind, more=1)(x)

    return make


def constant(x):
    T, N = x.shape
    out = torch.zeros(N, dtype=torch.int32)
    f = lambda: snnfast.iaf(x[0], THETA, T=T, spikes="count", out=out)[0]  # noqa: E731
    expected = (loop(wide(x[:1, :CHECKED]).expand(T, -1), THETA) / THETA).round().sum(0).int()
    return f, out.nbytes + 8 * N + x[0].nbytes - x.nbytes, torch.equal(f()[:CHECKED], expected)


def cos(x):
    """The start voltages from all T inputs; proved by the spikes that follow."""
    f = lambda: snnfast.cos_start(x, THETA, unit="normalised")  # noqa: E731
    part = x[:, :CHECKED]
    got = snnfast.iaf(part, THETA, v0=f()[:CHECKED], unit="normalised")[0]
    return f, wide(x[0]).nbytes, torch.equal(got, cos_loop(wide(part), THETA, len(x)).to(x.dtype))


def over_time(op, function):
    def make(x):
        rows = x.view(len(x), -1, CHANNELS)
        out = torch.zeros_like(rows)
        zeros = torch.zeros_like(rows[0])
        state = op(rows[:1], out=out[:1])[1]

        def f():
            for t in state:
                t.copy_(zeros)  # which is part of what is timed: 2 of the 2 T + 4 steps that move
            return op(rows, state=state, out=out)[0]

        got, total = f()[:, :32].double(), rows[:, :32].double().cumsum(0)
        expected = torch.diff(function(total), dim=0, prepend=torch.zeros_like(total[:1]))
        # fp64 sums against sums in x's dtype.
        return f, out.nbytes + 4 * zeros.nbytes, torch.allclose(got, expected, atol=1e-4)

    return make


softmax = over_time(snnfast.softmax_over_time, lambda x: x.softmax(-1))
layer_norm = over_time(snnfast.layer_norm_over_time, lambda x: F.layer_norm(x, x.shape[-1:]))


def both(f, x, *parameters):
    """Forward and backward."""
    leaf, dy = x.detach().clone().requires_grad_(), torch.ones_like(x)
    parameters = [p.clone().requires_grad_() for p in parameters]

    def run():
        leaf.grad = None
        for p in parameters:
            p.grad = None
        y = f(leaf, *parameters)
        y.backward(dy)
        return y.detach(), leaf.grad

    return run


def trained(op, reference):
    """Forward and backward of a neuron against autograd through its loop."""

    def make(x):
        run = both(lambda x: op(x, THETA)[0], x)
        (y, dx), (expected, slope) = run(), both(lambda x: reference(x, THETA), wide(x[:, :256]))()
        near = dict(rtol=2e-2, atol=1e-4 if x.dtype == torch.float32 else 1e-2)  # the order of a gradient's sums is autograd's there
        right = torch.equal(y[:, :256], expected.to(x.dtype)) and torch.allclose(wide(dx[:, :256]), slope, **near)
        return run, 4 * x.nbytes + 16 * x.size(1), right  # s, x again, ds, dx

    return make


iaf_both, lif_both = trained(snnfast.iaf, trained_loop), trained(snnfast.lif, trained_lif_loop)


def activation(name, backward=False):
    op = {"qcfs": lambda x, p: snnfast.qcfs(x, p, 4), "cs_qcfs": lambda x, p: snnfast.cs_qcfs(x, p, 4)}[name]
    eager = {"qcfs": qcfs_eager, "cs_qcfs": lambda x, p: qcfs_eager(x, F.softplus(p))}[name]

    def make(x):
        image = x.view(-1, CHANNELS, 8, 8)
        p = torch.tensor([0.9]) if name == "qcfs" else torch.rand(CHANNELS, 1, 1)
        f = both(op, image, p) if backward else lambda: op(image, p)
        y = f()[0] if backward else f()
        # The eager form rounds z + (floor(z) - z) once more than the definition does.
        right = torch.allclose(
            wide(y[:4]), eager(wide(image[:4]), p.to(wide(image).dtype)), rtol=0, atol=1e-6 if x.dtype == torch.float32 else 1e-2
        )
        return f, (4 if backward else 1) * x.nbytes, right

    return make


@functools.lru_cache(1)
def _spiking(x):
    """x with a share of DENSITY that is not zero."""
    torch.manual_seed(1)
    return torch.where(torch.rand(x.shape) < DENSITY, x, torch.zeros((), dtype=x.dtype))


def _product(make_x, own, theirs, weight):
    def make(x):
        spikes = make_x(_spiking(x))
        torch.manual_seed(2)
        w = torch.randn(weight, dtype=x.dtype)
        laid, out = relaid(w), torch.zeros_like(spikes)
        f = lambda: own(spikes, laid, out)  # noqa: E731
        # Hundreds of terms in another order.
        right = torch.allclose(f()[:4], theirs(spikes[:4], w), rtol=0, atol=1e-3)
        return f, out.nbytes + w.nbytes, right

    return make


# 64 -> 64 channels of 3x3 on [T, 64, 8, 8] for each 4,096 neurons; 512 -> 512 features.
conv2d = _product(
    lambda x: x.view(-1, 8, 8, CHANNELS).permute(0, 3, 1, 2), lambda x, w, out: snnfast.spike_conv2d(x, w, None, 1, 1, out=out),
    lambda x, w: F.conv2d(x, w, padding=1), (CHANNELS, CHANNELS, 3, 3),
)  # fmt: skip
linear = _product(lambda x: x.view(-1, 512), lambda x, w, out: snnfast.spike_linear(x, w, out=out), lambda x, w: F.linear(x, w), (512, 512))

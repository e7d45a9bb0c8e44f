"""The ops of the Triton column: allocation and launches, with the signatures of the schemas in `snnfast/ops`."""

import contextlib
import functools

import torch
import triton

from snnfast.engines import form
from snnfast.engines.reference import gather as product
from snnfast.engines.reference import integer as integers
from snnfast.engines.reference import pool as pooling
from snnfast.engines.triton import (
    OPTIONS,
    bound,
    calibrate,
    channels,
    conv,
    cos,
    elementwise,
    gather,
    integer,
    kernel,
    layer_norm,
    max_pool,
    moments,
    multistep,
    pool,
    qcfs,
    rows,
    softmax,
)  # fmt: skip
from snnfast.equations.bind import signed
from snnfast.equations.neurons import iaf as _iaf_equation
from snnfast.equations.synapses import exact as _exact_equation

_qcfs_fwd = kernel(elementwise.fwd_kernel, qcfs, elementwise.RUN_TIME)
_qcfs_bwd = kernel(elementwise.bwd_kernel, qcfs, elementwise.RUN_TIME)
_cos_fwd = kernel(calibrate.fwd_kernel, cos, calibrate.RUN_TIME)
_conv_fwd = kernel(gather.fwd_kernel, conv, gather.RUN_TIME)
_exact_fwd = triton.jit(integer.fwd_kernel, do_not_specialize=integer.RUN_TIME)
_exact_few = triton.jit(integer.few_kernel, do_not_specialize=integer.RUN_TIME)
_softmax = kernel(rows.run_kernel, softmax, rows.RUN_TIME)
_layer_norm = kernel(rows.run_kernel, layer_norm, rows.RUN_TIME)
_channel_sums = kernel(channels.sums_kernel, moments, channels.RUN_TIME)
_channel_add = kernel(channels.add_kernel, moments, channels.RUN_TIME)
_pool_fwd = kernel(pool.fwd_kernel, max_pool, pool.RUN_TIME)
_pool_bwd = kernel(pool.bwd_kernel, max_pool, pool.RUN_TIME)

EVERY = form.EVERY


def forward_shape(N, bytes_per_element):
    """The form of a forward launch of N neurons, whatever T is: neurons per block, warps, rows of x loaded together in a turn, turns in flight.

    Many neurons: four to a thread (16 bytes in fp32). Few: one neuron to a thread, one warp to a block, so that the blocks spread over the chip. With
    more than one turn in flight, the rows of the next turns are copied to shared memory while the rows of this turn are used. A thread must copy at
    least 4 bytes, which one 2-byte value does not fill. The forms were chosen by measurement on an H100: bench/gpu-predictions.md.
    """
    wide = bytes_per_element >= 4
    if N >= 1 << 18:
        return dict(BLOCK=512, num_warps=4, STEPS=4, STAGES=2 if bytes_per_element == 4 else 1)
    if N >= 1 << 16:
        return dict(BLOCK=128, num_warps=4, STEPS=8, STAGES=1)
    return dict(BLOCK=32, num_warps=1, STEPS=16, STAGES=3 if wide else 1)


def backward_shape(N, bytes_per_element, gates, aligned):
    """The form of a backward launch. One neuron to a thread, because a segment's potentials, x and ds fill the thread's registers. Two neurons of a
    2-byte format, if rows lie on whole words, so that a warp still moves 128 bytes. maxnreg: left alone, ptxas spills a few registers to fit more
    blocks."""
    pairs = aligned and N >= 1 << 18 and bytes_per_element == 2 and not gates
    return dict(aligned=pairs, BLOCK=256 if pairs else 128, maxnreg=255 if bytes_per_element == 8 else 184 if gates or pairs else 128)


def _on(x):
    """Launches go to the tensor's device."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


@contextlib.contextmanager
def _rounded(*results):
    """Yields the tensors for a kernel to write. Triton's interpreter truncates fp32 to bf16 where its compiler rounds to nearest, so
    under the interpreter bf16 results are written in fp32 and rounded by torch."""
    if not triton.knobs.runtime.interpret:
        yield results
        return
    wide = [r.float() if r.dtype == torch.bfloat16 else r for r in results]
    yield wide
    for r, w in zip(results, wide):
        r.copy_(w)


def _blocks(N, BLOCK):
    return (-(-N // BLOCK),)


def _new_state(x, theta, k):
    return theta.new_empty((x.size(1),)), form.count_like(x, theta, k)


class Multistep:
    """fwd, out and bwd of a neuron whose equation is bound to Triton (`snnfast.engines.triton.bound`)."""

    def __init__(self, equation):
        self.numbers, self.gates, self.asked, self.many = equation.numbers, equation.gates, equation.asked, len(equation.parameters)
        self.fwd_kernel = kernel(multistep.fwd_kernel, equation, multistep.RUN_TIME)
        self.bwd_kernel = kernel(multistep.bwd_kernel, equation, multistep.RUN_TIME) if hasattr(equation, "step_bwd") else None

    def _launch(self, s, v_end, count_end, x, theta, v, count, mask, T, inner, v0, spikes, every, k):
        N = x.size(1)
        kept = theta.new_empty(form.kept_shape(T, N, every, self.gates(k)))
        x_stride, shape = x.stride(0) if x.size(0) > 1 else 0, forward_shape(N, x.element_size())
        if N:
            with _on(x), _rounded(s) as (s,):
                self.fwd_kernel[_blocks(N, shape["BLOCK"])](
                    x, theta, v, count, mask, s, v_end, count_end, kept, x_stride, T, N, -(-N // 32), theta.size(-1), inner,
                    v0=v0, k=k, many=self.many, kind=spikes, has_v=v is not None, has_count=count is not None, has_mask=mask is not None,
                    signed=signed(k), gates=self.gates(k), every=every, aligned=N % 16 == 0 and x_stride % 16 == 0, **shape, **OPTIONS,
                )  # fmt: skip
        return kept

    def fwd(self, x, theta, v, count, mask, T, inner, v0, spikes, every, rule):
        k, spikes = self.numbers.unpack(rule), form.SPIKES[spikes]
        s = form.allocate(x, T, spikes, signed(k))
        v_end, count_end = _new_state(x, theta, k)
        kept = self._launch(s, v_end, count_end, x, theta, v, count, mask, T, inner, v0, spikes, every, k)
        return s, v_end, count_end, kept

    def out(self, x, theta, v, count, mask, out, v_end, count_end, T, inner, v0, spikes, rule):
        k = self.numbers.unpack(rule)
        self._launch(out, v_end, count_end, x, theta, v, count, mask, T, inner, v0, form.SPIKES[spikes], 0, k)

    def bwd(self, ds, dv, x, theta, v, count, mask, kept, T, inner, v0, rule):
        k = self.numbers.unpack(rule)
        N = x.size(1)
        if kept.size(0) == 0:
            net = form.allocate(x, T, "count", signed(k))
            kept = self._launch(net, *_new_state(x, theta, k), x, theta, v, count, None, T, inner, v0, "count", EVERY, k)
        dx = x.new_empty(x.shape)
        dv_start, dtheta = theta.new_empty((N,)), theta.new_empty((N,) if self.many == 1 else (self.asked(k), N))
        if N:
            ds_stride, x_stride = ds.stride(0) if ds is not None and T > 1 else 0, x.stride(0) if x.size(0) > 1 else 0
            aligned = N % 16 == 0 and x_stride % 16 == 0 and ds_stride % 16 == 0
            shape = backward_shape(N, x.element_size(), self.gates(k), aligned)
            with _on(x), _rounded(dx) as (to,):
                self.bwd_kernel[_blocks(N, shape["BLOCK"])](
                    ds, dv, x, theta, v, count, mask, kept, to, dv_start, dtheta, ds_stride, x_stride, T, N, theta.size(-1), inner,
                    v0=v0, k=k, many=self.many, has_ds=ds is not None, has_dv=dv is not None, has_v=v is not None, has_count=count is not None,
                    has_mask=mask is not None, gates=self.gates(k), constant=x.size(0) == 1 and T > 1, every=EVERY, asked=self.asked(k),
                    **shape, **OPTIONS,
                )  # fmt: skip
        return dx, dv_start, dtheta


@functools.cache
def multistep_of(module):
    """The kernels of the neuron whose equation is in `module`."""
    return Multistep(bound(module))


_iaf = multistep_of(_iaf_equation)
iaf_fwd, iaf_out, iaf_bwd = _iaf.fwd, _iaf.out, _iaf.bwd


def cos_fwd(x, theta, T, inner, v0, rule, BLOCK=128):
    N = x.size(1)
    v0_out = theta.new_empty((N,))
    if N:
        with _on(x):
            stride = x.stride(0) if x.size(0) > 1 else 0
            _cos_fwd[_blocks(N, BLOCK)](
                x, theta, v0_out, stride, T, N, theta.numel(), inner, v0=v0, k=cos.numbers.unpack(rule), BLOCK=BLOCK, **OPTIONS
            )
    return v0_out


TILE = 8192  # elements of a program of qcfs_bwd


def _elementwise(x, C, inner):
    """The compile-time facts of an element-wise launch: snnfast/engines/triton/elementwise.py. 16 bytes of each array to a thread."""
    inner = x.numel() if C == 1 else inner
    aligned = x.numel() % 16 == 0 and inner % 16 == 0
    # The indices of a last tile, and of a block's last elements, which may lie past N, fit 32 bits too.
    return dict(one=C == 1, small=x.numel() + 2 * TILE < 1 << 31, aligned=aligned, BLOCK=2048 // x.element_size())


def qcfs_fwd(x, theta, inner, rule):
    y = torch.empty_like(x)
    N, C = x.numel(), theta.numel()
    if N:
        facts = _elementwise(x, C, inner)
        with _on(x), _rounded(y) as (to,):
            _qcfs_fwd[_blocks(N, facts["BLOCK"])](x, theta, to, N, C, inner, k=qcfs.numbers.unpack(rule), **facts, **OPTIONS)
    return y


def qcfs_bwd(dy, x, theta, inner, rule):
    N, C = x.numel(), theta.numel()
    dx = torch.empty_like(x)
    if not N:
        return dx, torch.zeros_like(theta)
    inner = N if C == 1 else inner
    outer = N // (C * inner)
    tiles = -(-outer * inner // TILE)
    partial = theta.new_empty((tiles, C))
    facts = _elementwise(x, C, inner)
    with _on(x), _rounded(dx) as (to,):
        _qcfs_bwd[(tiles * C,)](dy, x, theta, to, partial, N, C, inner, outer, k=qcfs.numbers.unpack(rule), TILE=TILE, **facts, **OPTIONS)
    return dx, partial.sum(0)


def conv_fwd(x, w, bias, *rule):
    y = x.new_empty(product.spec(x, w, rule))
    conv_out(x, w, bias, y, *rule)
    return y


def conv_out(x, w, bias, out, *rule):
    shape, groups = dict(PLACES=16, PANEL=64), product.groups_of(x.size(3), w.size(2))
    programs = -(-out.numel() // max(1, out.size(3)) // shape["PLACES"]) * -(-out.size(3) // shape["PANEL"])
    if programs:
        with _on(x):
            _conv_fwd[(programs,)](
                x, w, bias, out, *x.shape[:3], w.size(2), *w.shape[:2], w.size(3), *out.shape[1:3], *rule, groups,
                has_bias=bias is not None, grouped=groups > 1, **shape, **OPTIONS,
            )  # fmt: skip


FEW_CHANNELS = 16  # groups of fewer do not fill the blocks of a tensor core


def exact_shape(O, C):  # noqa: E741
    """The form of an exact product: places and outputs of a program, inputs of a turn. Chosen by measurement on an H200: bench/gpu-predictions.md."""
    panel, deep = max(16, min(64, triton.next_power_of_2(O))), max(32, min(128, triton.next_power_of_2(C)))
    whole = C % deep == 0 and O % panel == 0
    if not whole:  # the masks of inputs and outputs take registers
        panel, deep = min(panel, 32), 32
    return dict(PLACES=64, PANEL=panel, DEEP=deep, STAGES=3, num_warps=4, whole=whole)


def exact_fwd(s, per_unit, w, bias, scale, *rule):
    y = s.new_empty(integers.spec(s, w, rule), dtype=torch.float32)
    exact_out(s, per_unit, w, bias, scale, y, *rule)
    return y


def exact_out(s, per_unit, w, bias, scale, out, *rule):
    R, Ho, Wo, O = out.shape  # noqa: E741
    s = integers.units(_exact_equation, s, per_unit)  # tensor cores take bytes
    C = w.size(4)
    groups = product.groups_of(s.size(3), C)
    few = groups > 1 and C < FEW_CHANNELS
    shape = dict(PLACES=16, PANEL=64, num_warps=4) if few else exact_shape(O // groups, C)
    if out.numel():
        panels = -(-O // shape["PANEL"]) if few else groups * -(-O // groups // shape["PANEL"])
        programs = -(-R * Ho * Wo // shape["PLACES"]) * panels
        with _on(s):
            (_exact_few if few else _exact_fwd)[(programs,)](
                s, w, bias, scale, out, *s.shape[:3], Ho, Wo, O, C, groups, *rule, KY=w.size(2), KX=w.size(3), **shape, **OPTIONS
            )


def rows_shape(C, wide):
    """Rows of a program, columns of a row, and warps: enough warps that no register spills. wide: fp64."""
    columns = max(16, triton.next_power_of_2(C))
    many = 8 if columns > 1024 or (wide and columns <= 256) else 4
    # Left alone, ptxas spills a few registers to fit more blocks.
    return dict(
        ROWS=max(1, (256 if wide else 512) // columns), WIDE=columns, num_warps=many, maxnreg=168 if columns <= 512 and not wide else None
    )


def _rows(run, x, w, b, total, last, out, k):
    T, R, C = x.shape
    shape = rows_shape(C, k.wide)
    if x.numel():
        with _on(x):
            run[(-(-R // shape["ROWS"]),)](
                x, total, last, out, w, b, T, R, C, k=k, has_w=w is not None, has_b=b is not None, **shape, **OPTIONS,
            )  # fmt: skip


def softmax_out(x, total, last, out):
    _rows(_softmax, x, None, None, total, last, out, softmax.Rule(x.dtype == torch.float64))


def layer_norm_out(x, weight, bias, total, last, out, eps):
    _rows(_layer_norm, x, weight, bias, total, last, out, layer_norm.Rule(x.dtype == torch.float64, eps))


def channel_sums(x, pivot, inner):
    C = pivot.numel()
    outer = x.numel() // (C * inner)
    tiles = -(-outer * inner // TILE)
    partial = pivot.new_empty((tiles, 2, C))
    if tiles:
        with _on(x):
            _channel_sums[(tiles * C,)](x, pivot, partial, C, inner, outer, TILE=TILE, BLOCK=1024, **OPTIONS)
    return partial.sum(0)


def channel_add(y, x, line, inner, BLOCK=1024):
    if y.numel():
        with _on(x), _rounded(y) as (to,):
            _channel_add[_blocks(y.numel(), BLOCK)](to, x, line, y.numel(), line.size(1), inner, BLOCK=BLOCK, **OPTIONS)


def _windows(rule):
    return dict(zip(("KY", "KX", "SY", "SX", "PY", "PX"), rule))


def pool_fwd(x, rule, BLOCK=512):
    P, H, W, C = x.shape
    y = x.new_empty((P, *pooling.spec(H, W, max_pool.Rule(*rule)), C))
    at = torch.empty_like(y, dtype=torch.uint8)
    if y.numel():
        with _on(x), _rounded(y) as (to,):
            _pool_fwd[_blocks(y.numel(), BLOCK)](x, to, at, y.numel(), H, W, C, *y.shape[1:3], **_windows(rule), BLOCK=BLOCK, **OPTIONS)
    return y, at


def pool_bwd(dy, at, H, W, rule, BLOCK=512):
    P, Ho, Wo, C = dy.shape
    dx = dy.new_empty((P, H, W, C))
    if dx.numel():
        with _on(dy), _rounded(dx) as (to,):
            _pool_bwd[_blocks(dx.numel(), BLOCK)](dy, at, to, dx.numel(), H, W, C, Ho, Wo, **_windows(rule), BLOCK=BLOCK, **OPTIONS)
    return dx

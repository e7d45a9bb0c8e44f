"""The QCFS op: schemas, fakes, autograd, and the public functions `qcfs` and `cs_qcfs`."""

from typing import Literal

import torch
from torch import Tensor

from snnfast import checks
from snnfast.engines import reference
from snnfast.engines.reference import elementwise
from snnfast.equations.activations.qcfs import Rule
from snnfast.ops import library
from snnfast.ops.layout import layout_of, threshold

GRADS = ("qcfs", "srp", "paper")


def _fwd(x, theta, inner, rule):
    return elementwise.fwd(reference.qcfs, x, theta, inner, reference.qcfs.numbers.unpack(rule))


def _bwd(dy, x, theta, inner, rule):
    return elementwise.bwd(reference.qcfs, dy, x, theta, inner, reference.qcfs.numbers.unpack(rule))


qcfs_fwd = library.define("qcfs_fwd(Tensor x, Tensor theta, int inner, float[] rule) -> Tensor", _fwd)
qcfs_bwd = library.define("qcfs_bwd(Tensor dy, Tensor x, Tensor theta, int inner, float[] rule) -> (Tensor dx, Tensor dtheta)", _bwd)

library.fake("qcfs_fwd", lambda x, theta, inner, rule: x.new_empty(x.shape))
library.fake("qcfs_bwd", lambda dy, x, theta, inner, rule: (x.new_empty(x.shape), theta.new_empty(theta.shape)))


def _setup(ctx, inputs, output):
    x, theta, *ctx.launch = inputs
    ctx.save_for_backward(x, theta)


def _backward(ctx, dy):
    x, theta = ctx.saved_tensors
    dx, dtheta = _call_bwd(dy.contiguous(), x, theta, *ctx.launch)
    return dx, dtheta, None, None


_call_fwd = library.autograd("qcfs_fwd", _backward, _setup)
_call_bwd = library.once_differentiable("qcfs_bwd")


def _qcfs(name, x, theta, levels, grad):
    checks.tensor("x", x)
    if checks.integer("levels", levels) > 1 << 22:
        raise ValueError(f"levels must be <= 2^22, where fp32 still tells its steps apart, got {levels}")
    checks.choice("grad", grad, GRADS)
    layout = layout_of(x)
    th, inner = threshold(name, theta, x, layout)
    return layout.unvector(_call_fwd(layout.vector(x), th, inner, reference.qcfs.numbers.pack(Rule(levels, grad))))


def qcfs(x: Tensor, theta: float | Tensor, levels: int, grad: Literal["qcfs", "srp", "paper"] = "qcfs") -> Tensor:
    """Quantised clip-floor-shift: y = theta * floor(L * clamp(x/theta, 0, 1) + 1/2) / L.

    The activation that an integrate-and-fire neuron with start voltage theta/2 stands for (Bu et al., ICLR 2022, eq. 12).

    Args:
        x: [...], fp16, bf16, fp32 or fp64; computed in fp32 (fp64 for fp64). Any dense layout is taken as it lies.
        theta: threshold > 0, a number or a tensor that broadcasts over x: one per layer, channel, head or feature.
        levels: L, an int >= 1.
        grad: how floor is differentiated: "qcfs" (as the QCFS authors' program), "srp" (floor before clamp) or "paper".

    Returns:
        y, of x's shape, dtype and layout. Gradients reach x and theta; only x is kept for the backward.

    >>> snnfast.qcfs(torch.tensor([-1.0, 0.3, 0.9, 5.0]), theta=1.0, levels=4).tolist()
    [0.0, 0.25, 1.0, 1.0]
    """
    return _qcfs("theta", x, theta, levels, grad)


def cs_qcfs(x: Tensor, lam: Tensor, levels: int, grad: Literal["qcfs", "srp", "paper"] = "qcfs") -> Tensor:
    """QCFS with theta = softplus(lam), so that every real lam gives a threshold > 0 (S-QCFS for one lam, CS-QCFS per channel).

    Args:
        x, levels, grad: as in `qcfs`.
        lam: a floating tensor that broadcasts over x. softplus runs in torch in lam's dtype, so dlam = sigmoid(lam) dtheta.

    >>> lam = snnfast.nn.inverse_softplus(2.0)
    >>> snnfast.cs_qcfs(torch.tensor([0.9, 3.0]), lam, levels=4).tolist()
    [1.0, 2.0]
    """
    checks.tensor("lam", lam)
    return _qcfs("lam", x, torch.nn.functional.softplus(lam), levels, grad)

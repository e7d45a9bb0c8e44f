"""The calibration op of COS: schema, fake, and the public function `cos_start`."""

from typing import Literal

import torch
from torch import Tensor

from snnfast import checks
from snnfast.engines import reference
from snnfast.engines.reference import calibrate
from snnfast.equations.neurons.cos import Rule
from snnfast.ops import library
from snnfast.ops.layout import layout_of, threshold
from snnfast.ops.neuron import steps_of


def _fwd(x, theta, T, inner, v0, rule):
    return calibrate.fwd(reference.cos, x, theta, T, inner, v0, reference.cos.numbers.unpack(rule))


cos_fwd = library.define("cos_fwd(Tensor x, Tensor theta, int T, int inner, float v0, float[] rule) -> Tensor", _fwd)
library.fake("cos_fwd", lambda x, theta, T, *rest: theta.new_empty((x.size(1),)))


def rule_of(unit="volts", max_shift=None):
    """Checks the launch's numbers."""
    checks.choice("unit", unit, ("volts", "normalised"))
    if max_shift is None:
        return Rule(unit == "normalised")
    if checks.number("max_shift", max_shift) < 1:
        raise ValueError(f"max_shift must be >= 1, the least shift there is, in units of theta; got {max_shift}")
    return Rule(unit == "normalised", float(max_shift))


@torch.no_grad()
def cos_start(
    x: Tensor,
    theta: float | Tensor,
    *,
    T: int | None = None,
    unit: Literal["volts", "normalised"] = "volts",
    max_shift: float | None = None,
) -> Tensor:
    """The start voltage of each neuron that COS calibrates on the first rho inputs (Hao et al., ICLR 2023), in one launch.

    Args:
        x: the first rho input currents, [rho, ...] with time first, or [...] for a current that is constant in time (then give T = rho).
            fp16, bf16, fp32 or fp64.
        theta: threshold > 0, as in `snnfast.iaf`.
        T: rho, for a constant current only.
        unit: as in `snnfast.iaf`; the authors' is "normalised".
        max_shift: the largest upward shift, in units of theta, >= 1; None as the authors have it: a neuron that fired at every step and is still
            above its threshold starts from about 1001.5, so that it never falls silent.

    Returns:
        v0 [...] of one step's shape, in units of theta, fp32 (fp64 for fp64 input): what `snnfast.iaf` takes as `v0` for all its
        steps. It has no gradient.

    >>> x = torch.tensor([[2.0, 0.1], [-1.8, 0.1]])  # the first neuron fires and then falls below 0, the second does nothing
    >>> [round(v, 3) for v in snnfast.cos_start(x, theta=1.0).tolist()]
    [-1.001, 0.5]
    """
    library.check_no_derivative("cos_start", x, theta)
    x, T = steps_of(x, T)
    rule = rule_of(unit, max_shift)
    layout = layout_of(x, skip=1)
    th, inner = threshold("theta", theta, x, layout)
    return layout.unvector(cos_fwd(layout.rows(x), th, T, inner, 0.5, reference.cos.numbers.pack(rule)))

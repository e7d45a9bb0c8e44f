"""The conversion methods: which neuron they put in place of an activation, and what a run does before it counts.

    if           the plain neuron (Bu et al., ICLR 2022)
    stbif, snm   with negative spikes (You et al., ICML 2024; Wang et al., IJCAI 2022)
    srp          tau steps first; then neurons whose potential ended at or below 0 emit nothing (Hao et al., AAAI 2023)
    srp+stbif, srp+snm    the same, with negative spikes in the second phase
    cos          each layer's start voltage is calibrated on its first rho inputs (Hao et al., ICLR 2023)

`parity` is the arithmetic of the methods' authors: normalised units (v += x/theta, fire at 1) instead of volts; for snm volts, a start at 0 and the
float memory. All else is the same function.
"""

import dataclasses

import torch

from snnfast import checks
from snnfast.ops.cos import rule_of as cos_rule_of
from snnfast.ops.iaf import rule_of

METHODS = ("if", "stbif", "snm", "srp", "srp+stbif", "srp+snm", "cos")
MASKS = ("authors", "paper")


@dataclasses.dataclass(frozen=True)
class Method:
    """What `convert` makes of its arguments.

    Attributes:
        options: keywords of `snnfast.nn.IF` for the steps that count.
        tau: steps of SRP's first phase, 0 without it.  mask: "authors" (v > 1e-3 theta) or "paper" (v >= 0).
        rho: inputs that COS calibrates on, 0 without it.  max_shift: see `snnfast.cos_start`.
        amplitude: of Poisson input, or None where the image is a constant current.  seed: of its random numbers.
        readout: ("softmax" or "log_softmax", dimension) where the network ends in one: it is taken of the mean output.
        mode: "per_step", a run answers with the mean of its outputs; or "differential", with their sum, see `snnfast/conversion/functions.py`.
        input_steps: of a differential run, in which the image comes in equal parts; 1: at once.
    """

    name: str
    options: dict
    parity: bool = False
    tau: int = 0
    mask: str = "authors"
    rho: int = 0
    max_shift: float | None = None
    amplitude: float | None = None
    seed: int = 0
    readout: tuple | None = None
    mode: str = "per_step"
    input_steps: int = 1

    @property
    def differential(self):
        return self.mode == "differential"

    def answer(self, total, t):
        """What the sum of the first t outputs says, as a tensor of its own."""
        return total.clone() if self.differential else total / t

    def part(self, t):
        """(share of the image that step t = 0, 1, ... gets, the first step from t on at which that changes or constants end, or None)."""
        if not self.differential:
            return 1.0, None
        if t < self.input_steps:
            return 1.0 / self.input_steps, 1 if t == 0 else self.input_steps
        return 0.0, None

    def first(self):
        """What differs in SRP's first phase: the plain neuron."""
        return {"negative": None, "caps": None, "memory": False} if "negative" in self.options else {}

    def kept(self, v, theta):
        """SRP's mask from the potentials after the first phase: where neurons may emit in the second."""
        if self.mask == "paper":
            return v >= 0
        return v > (1e-3 if self.options["unit"] == "normalised" else 1e-3 * theta)

    def facts(self):
        """Name and settings, for a report: plain values."""
        found = {"method": self.name, "parity": self.parity}
        if self.differential:
            found |= {"mode": self.mode, "input": "analog" if self.input_steps == 1 else f"rate, {self.input_steps} steps"}
        found |= {"tau": self.tau, "mask": self.mask} if self.tau else {}
        found |= {"input": "poisson", "amplitude": self.amplitude, "seed": self.seed} if self.amplitude else {}
        found |= {"rho": self.rho, "max_shift": self.max_shift} if self.rho else {}
        told = ("caps",) if self.rho else ("v0", "caps")  # COS has start voltages of its own
        own = {k: v for k, v in self.options.items() if k in told}
        return found | {k: {n: _plain(e) for n, e in v.items()} if isinstance(v, dict) else _plain(v) for k, v in own.items()}

    def check_T(self, T):
        if T < self.rho:
            raise ValueError(f"T must be >= rho = {self.rho}, the inputs that COS calibrates on; got T = {T}")


def _plain(value):
    """A value that a report can hold: of a tensor, its shape."""
    return f"tensor {list(value.shape)}" if isinstance(value, torch.Tensor) else value


def method_of(name="if", *, v0=None, parity=False, tau=None, mask=None, rho=None, max_shift=None, caps=None):
    """Checks `convert`'s arguments; see there."""
    checks.choice("method", name, METHODS)
    _, _, negative = name.rpartition("+")
    srp, negative = name.startswith("srp"), negative if negative in ("stbif", "snm") else None
    for argument, value, fits in (("tau", tau, srp), ("mask", mask, srp), ("rho", rho, name == "cos"), ("max_shift", max_shift, name == "cos"),
                                  ("caps", caps, negative), ("v0", v0, name != "cos")):  # fmt: skip
        if value is not None and not fits:
            raise ValueError(f"{argument} is an option of other methods, not of {name!r}")
    alone = parity and name == "snm"
    options = {"unit": "normalised" if parity and not alone else "volts", "v0": (0.0 if alone else 0.5) if v0 is None else v0}
    if negative:
        options |= {"negative": negative} | ({} if caps is None else {"caps": caps})
        if parity and negative == "snm" and caps is None:
            options["memory"] = True
    rule_of(**{k: v for k, v in options.items() if k != "v0"})
    if parity and (srp or name == "cos"):
        options["by_number"] = True  # their programs hold thresholds as Python numbers
    tau = (checks.integer("tau", 4 if tau is None else tau)) if srp else 0
    mask = checks.choice("mask", "authors" if mask is None else mask, MASKS)
    rho = checks.integer("rho", 4 if rho is None else rho) if name == "cos" else 0
    cos_rule_of(max_shift=max_shift)
    return Method(name, options, parity, tau, mask, rho, max_shift)


def voltage_of(v0, layer, default=0.5):
    """The start voltage of one layer: v0 itself, or its entry where v0 is a dictionary by layer names (the method's own where it has none)."""
    v0 = v0.get(layer, default) if isinstance(v0, dict) else v0
    if isinstance(v0, torch.Tensor) and not torch.isfinite(v0).all():
        raise ValueError(f"v0 of {layer} must be finite")
    if not isinstance(v0, torch.Tensor):
        checks.number("v0" if not isinstance(v0, dict) else f"v0[{layer!r}]", v0)
    return v0

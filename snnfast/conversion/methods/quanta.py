"""Signed quanta: up to m quanta a step, back as well as forth."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from snnfast import nn
from snnfast.checks import MOST_STEPS
from snnfast.conversion.method import Method, register
from snnfast.conversion.methods.stbif import STBIF
from snnfast.ops.quanta import rule_of

POWER = """@inproceedings{huang2025differential,
  title     = {Differential Coding for Training-Free {ANN}-to-{SNN} Conversion},
  author    = {Huang, Zihan and Fang, Wei and Bu, Tong and Xue, Peng and Hao, Zecheng and Liu, Wenxuan and Tang, Yuanhong and Yu, Zhaofei and
               Huang, Tiejun},
  booktitle = {International Conference on Machine Learning},
  year      = {2025}
}"""


@dataclass(frozen=True, kw_only=True)
class Several(Method):
    """The base of methods whose neurons send several quanta in a step (`snnfast.quanta`). They run in units of the quantum; with `parity`, in volts.

    Args:
        m: most quanta a neuron sends in a step.
    """

    m: int = 32

    told: ClassVar[tuple] = ("v0", "caps", "m")

    def check_rule(self, rule):
        rule_of(**rule)

    def neuron(self):
        return super().neuron() | {"unit": "volts" if self.parity else "normalised", "m": self.m}

    def check_T(self, T):
        if T * self.m > MOST_STEPS:
            raise ValueError(f"T m must be <= 2^24 = {MOST_STEPS}, the quanta that a neuron counts exactly; got {T} x {self.m}")

    def layer(self, theta, differential=False, **keywords):
        parts = 1 if differential else self.m  # quanta in the threshold of an activation
        return nn.Quanta(theta / parts, parts=parts, **keywords)


@register("power", ladder="power")
@register("quanta", ladder="uniform")
@dataclass(frozen=True, kw_only=True)
class SignedQuanta(Several):
    """A neuron sends up to m quanta of theta/m in a step, and takes surplus quanta back while its net count is above 0: ST-BIF with several spikes
    a step. On the ladder "uniform" a step is the activation rounded to m levels, so that few steps suffice; what matters is the product m T. On
    "power" a step sends a power of two of quanta, at most m, which needs fewer bits.

    Args:
        m: most quanta a neuron sends in a step; on the ladder "power" 2^(n - 1), with n thresholds.
        ladder: "uniform", any whole number of quanta; "power", a power of two of them.
        caps: (n_min, p_max) of the net count of quanta, see `snnfast.quanta`.

    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> snnfast.convert(net, methods.SignedQuanta(m=8), calibrate=inputs)(inputs, T=2).shape
    torch.Size([3, 2])
    """

    ladder: Literal["uniform", "power"] = "uniform"
    caps: tuple | None = None

    citation = STBIF.citation

    @property
    def modes(self):
        """Mode "differential" needs whole quanta: with them, not with powers of two, the sums of differences end at the activation's levels."""
        return ("per_step", "differential") if self.ladder == "uniform" else ("per_step",)

    def neuron(self):
        own = {} if self.caps is None else {"caps": self.caps}
        return super().neuron() | {"ladder": self.ladder, "negative": "stbif"} | own

    @property
    def own_v0(self):
        """0 on the ladder "power": the nearest power of two is a rounding already."""
        return 0.0 if self.ladder == "power" else 0.5

    def citations(self):
        return (self.citation, *([POWER] if self.ladder == "power" else []))

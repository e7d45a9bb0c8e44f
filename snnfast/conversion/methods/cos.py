"""COS: each layer's start voltage is calibrated on its first inputs."""

from dataclasses import dataclass
from typing import ClassVar

from snnfast import checks
from snnfast.conversion.method import Method, register
from snnfast.ops.cos import rule_of


@register("cos")
@dataclass(frozen=True, kw_only=True)
class COS(Method):
    """Each layer starts from the voltage that `snnfast.cos_start` calibrates on its first rho inputs (Hao et al., ICLR 2023, algorithm 1).

    Args:
        rho: number of inputs to calibrate on, >= 1; runs need T >= rho.
        max_shift: largest upward shift, in units of theta; None: no limit, as in the authors' program.

    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), snnfast.nn.QCFS(levels=8, theta=1.0), torch.nn.Linear(8, 2))
    >>> snnfast.convert(net, methods.COS(rho=4))(inputs, T=16).shape
    torch.Size([3, 2])
    """

    rho: int = 4
    max_shift: float | None = None

    told: ClassVar[tuple] = ("caps",)  # COS sets the start voltages itself
    citation = """@inproceedings{hao2023bridging,
  title     = {Bridging the Gap between {ANN}s and {SNN}s by Calibrating Offset Spikes},
  author    = {Hao, Zecheng and Ding, Jianhao and Bu, Tong and Huang, Tiejun and Yu, Zhaofei},
  booktitle = {International Conference on Learning Representations},
  year      = {2023}
}"""

    def __post_init__(self):
        if self.v0 is not None:
            raise ValueError("v0 is an option of other methods, not of 'cos'")
        checks.integer("rho", self.rho)
        rule_of(max_shift=self.max_shift)
        super().__post_init__()

    @property
    def least_T(self):
        return self.rho

    def neuron(self):
        return super().neuron() | ({"by_number": True} if self.parity else {})  # the authors' program holds thresholds as Python numbers

    def start(self, neuron, current, constant):
        return {"v0": neuron.calibrate(current if constant else current[: self.rho], self.rho if constant else None, self.max_shift)}

    def own_facts(self):
        return {"rho": self.rho, "max_shift": self.max_shift}

    def check_T(self, T):
        if T < self.rho:
            raise ValueError(f"T must be >= rho = {self.rho}, the inputs that COS calibrates on; got T = {T}")

"""SRP: the potential after a first phase says which neurons may emit in the second."""

from dataclasses import dataclass
from typing import Literal, get_args

from snnfast import checks
from snnfast.conversion.method import Method, register, signed
from snnfast.conversion.methods.snm import SNM
from snnfast.conversion.methods.stbif import STBIF

Mask = Literal["authors", "paper"]
MASKS = get_args(Mask)


@register("srp+snm", negative="snm")
@register("srp+stbif", negative="stbif")
@register("srp", negative=None)
@dataclass(frozen=True, kw_only=True)
class SRP(Method):
    """tau steps of the plain neuron, whose output is thrown away. Then all neurons start anew, and those that `mask` excludes, whose potential ended
    at or below about 0, emit nothing (Hao et al., AAAI 2023, algorithm 1).

    Args:
        tau: steps of the first phase, >= 1. They come on top of T.
        mask: which neurons may emit: "authors" (v > 1e-3 theta after the first phase, as their program) or "paper" (v >= 0).
        negative: None, "stbif" or "snm": negative spikes in the second phase.
        caps: (n_min, p_max) of the net spike count, with `negative`; see `snnfast.iaf`.

    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), snnfast.nn.QCFS(levels=8, theta=1.0), torch.nn.Linear(8, 2))
    >>> snnfast.convert(net, methods.SRP(tau=8))(inputs, T=16).shape
    torch.Size([3, 2])
    """

    tau: int = 4
    mask: Mask = "authors"
    negative: Literal["stbif", "snm"] | None = None
    caps: tuple | None = None

    bytes_per_neuron = 1  # the mask
    citation = """@inproceedings{hao2023reducing,
  title     = {Reducing {ANN}-{SNN} Conversion Error through Residual Membrane Potential},
  author    = {Hao, Zecheng and Bu, Tong and Ding, Jianhao and Huang, Tiejun and Yu, Zhaofei},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year      = {2023}
}"""

    def __post_init__(self):
        checks.steps("tau", self.tau)
        checks.choice("mask", self.mask, MASKS)
        checks.choice("negative", self.negative, (None, "stbif", "snm"))
        if self.caps is not None and self.negative is None:
            raise ValueError(f"caps is an option of other methods, not of {self.name!r}")
        super().__post_init__()

    @property
    def rehearsal(self):
        return self.tau

    def citations(self):
        return (self.citation, *([{"stbif": STBIF, "snm": SNM}[self.negative].citation] if self.negative else []))

    def neuron(self):
        found = super().neuron() | (signed(self, self.negative, self.caps) if self.negative else {})
        return found | ({"by_number": True} if self.parity else {})  # the authors' program holds thresholds as Python numbers

    def before(self, run, chunk):
        plain = {"negative": None, "caps": None, "memory": False} if self.negative else {}
        for node, v, theta in run.rehearsed(self.tau, chunk, plain):
            run.options[node] = {"mask": self.kept(v, theta)}

    def kept(self, v, theta):
        """Where neurons may emit in the second phase, from the potentials after the first."""
        if self.mask == "paper":
            return v >= 0
        return v > (1e-3 if self.parity else 1e-3 * theta)

    def own_facts(self):
        return {"tau": self.tau, "mask": self.mask}

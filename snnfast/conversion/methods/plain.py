"""The plain neuron, and a neuron of one's own."""

from dataclasses import dataclass, field
from typing import Any

from snnfast.conversion.method import Method, register


@register("if")
@dataclass(frozen=True, kw_only=True)
class IF(Method):
    """Integrate-and-fire from theta/2, what QCFS activations stand for (Bu et al., ICLR 2022).

    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), snnfast.nn.QCFS(levels=8, theta=1.0), torch.nn.Linear(8, 2))
    >>> snnfast.convert(net, methods.IF(v0=0.25))(inputs, T=16).shape
    torch.Size([3, 2])
    """


@dataclass(frozen=True, kw_only=True)
class OwnNeuron(Method):
    """A neuron of `snnfast.neuron` in place of integrate-and-fire.

    Args:
        of: what `snnfast.neuron` returned.
        rule: the fields of its Rule.
    """

    of: Any
    rule: dict = field(default_factory=dict)

    def __post_init__(self):
        self.of.rule(**self.rule)

    @property
    def name(self):
        return f"if, neuron {self.of.__name__}"

    def neuron(self):
        return {"v0": 0.5 if self.v0 is None else self.v0, "neuron": self.of, **self.rule}

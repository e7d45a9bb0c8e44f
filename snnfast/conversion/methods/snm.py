"""SNM: negative spikes where the potential is below -theta."""

from dataclasses import dataclass

from snnfast.conversion.method import Method, register, signed


@register("snm")
@dataclass(frozen=True, kw_only=True)
class SNM(Method):
    """s = -1 where v <= -theta, while the net count is above its cap (Wang et al., IJCAI 2022, eq. 8).

    The authors' arithmetic (`parity`) is volts, a start at 0 and a float memory in place of the count.

    Args:
        caps: (n_min, p_max) of the net spike count, see `snnfast.iaf`.

    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), snnfast.nn.QCFS(levels=8, theta=1.0), torch.nn.Linear(8, 2))
    >>> snnfast.convert(net, methods.SNM())(inputs, T=16).shape
    torch.Size([3, 2])
    """

    caps: tuple | None = None

    citation = """@inproceedings{wang2022signed,
  title     = {Signed Neuron with Memory: Towards Simple, Accurate and High-Efficient {ANN}-{SNN} Conversion},
  author    = {Wang, Yuchen and Zhang, Malu and Chen, Yi and Qu, Hong},
  booktitle = {International Joint Conference on Artificial Intelligence},
  year      = {2022}
}"""

    @property
    def own_v0(self):
        return 0.0 if self.parity else 0.5

    def neuron(self):
        return super().neuron() | {"unit": "volts"} | signed(self, "snm", self.caps)

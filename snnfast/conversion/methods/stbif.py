"""ST-BIF: negative spikes where the potential is below 0."""

from dataclasses import dataclass

from snnfast.conversion.method import Method, register, signed


@register("stbif")
@dataclass(frozen=True, kw_only=True)
class STBIF(Method):
    """s = -1 where v < 0, while the net count is above its cap (You et al., ICML 2024, eq. 8).

    Args:
        caps: (n_min, p_max) of the net spike count, see `snnfast.iaf`.

    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), snnfast.nn.QCFS(levels=8, theta=1.0), torch.nn.Linear(8, 2))
    >>> snnfast.convert(net, methods.STBIF(caps=(0, 8)))(inputs, T=16).shape
    torch.Size([3, 2])
    """

    caps: tuple | None = None

    citation = """@inproceedings{you2024spikezip,
  title     = {{SpikeZIP-TF}: Conversion is All You Need for Transformer-based {SNN}},
  author    = {You, Kang and Xu, Zekai and Nie, Chen and Deng, Zhijie and Guo, Qinghai and Wang, Xiang and He, Zhezhi},
  booktitle = {International Conference on Machine Learning},
  year      = {2024}
}"""

    @property
    def modes(self):
        return ("per_step", "differential")

    def neuron(self):
        return super().neuron() | signed(self, "stbif", self.caps)

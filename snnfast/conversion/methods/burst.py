"""Burst spikes: a neuron that lies behind sends up to m spikes in one step."""

from dataclasses import dataclass

from snnfast.conversion.method import register
from snnfast.conversion.methods.quanta import Several


@register("burst")
@dataclass(frozen=True, kw_only=True)
class Burst(Several):
    """Up to m spikes of theta in a step, so that currents beyond the threshold do not stay in the potential (Wang et al., AAAI 2025).

    Its authors add theta/(2T) to the current of every step, which is theta/2 after T steps and less before; the default here starts at theta/2.

    Args:
        m: most spikes in a step.

    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), snnfast.nn.QCFS(levels=8, theta=1.0), torch.nn.Linear(8, 2))
    >>> snnfast.convert(net, methods.Burst(m=4))(inputs, T=8).shape
    torch.Size([3, 2])
    """

    m: int = 4

    citation = """@inproceedings{wang2025adaptive,
  title     = {Adaptive Calibration: A Unified Conversion Framework of Spiking Neural Networks},
  author    = {Wang, Ziqing and Fang, Yuetong and Cao, Jiahang and Ren, Hongwei and Xu, Renjing},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year      = {2025}
}"""

    def parts(self):
        return 1

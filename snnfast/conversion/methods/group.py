"""Group neurons: m members with a threshold of theta/m, which fire together."""

from dataclasses import dataclass

from snnfast.conversion.method import register
from snnfast.conversion.methods.quanta import Several


@register("group")
@dataclass(frozen=True, kw_only=True)
class Group(Several):
    """m neurons in the place of one, with thresholds theta/m, 2 theta/m, ...: together they send up to m quanta in a step (Lv et al., ICASSP 2024,
    eq. 8), where m is the number of members. With T = 1 the group is the activation with m levels; this is parallel conversion too (Hao et al., ICML
    2025), in which neurons send the spikes of m steps at once, from the sum of all inputs.

    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), snnfast.nn.QCFS(levels=8, theta=1.0), torch.nn.Linear(8, 2))
    >>> snnfast.convert(net, methods.Group(m=8))(inputs, T=1).shape
    torch.Size([3, 2])
    """

    citation = """@inproceedings{lv2024optimal,
  title     = {Optimal {ANN}-{SNN} Conversion with Group Neurons},
  author    = {Lv, Liuzhenghao and Fang, Wei and Yuan, Li and Tian, Yonghong},
  booktitle = {IEEE International Conference on Acoustics, Speech and Signal Processing},
  year      = {2024}
}"""

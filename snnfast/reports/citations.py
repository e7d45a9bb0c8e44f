"""BibTeX that a report rests on: the activations, the method's own entries, the energies."""

from snnfast.conversion import method as methods
from snnfast.conversion.methods import method_of

QCFS = """@inproceedings{bu2022optimal,
  title     = {Optimal {ANN}-{SNN} Conversion for High-accuracy and Ultra-low-latency Spiking Neural Networks},
  author    = {Bu, Tong and Fang, Wei and Ding, Jianhao and Dai, PengLin and Yu, Zhaofei and Huang, Tiejun},
  booktitle = {International Conference on Learning Representations},
  year      = {2022}
}"""
RELU = """@article{rueckauer2017conversion,
  title   = {Conversion of Continuous-Valued Deep Networks to Efficient Event-Driven Networks for Image Classification},
  author  = {Rueckauer, Bodo and Lungu, Iulia-Alexandra and Hu, Yuhuang and Pfeiffer, Michael and Liu, Shih-Chii},
  journal = {Frontiers in Neuroscience},
  volume  = {11},
  year    = {2017}
}"""
ENERGY = """@inproceedings{horowitz2014computing,
  title     = {Computing's Energy Problem (and What We Can Do about It)},
  author    = {Horowitz, Mark},
  booktitle = {IEEE International Solid-State Circuits Conference},
  year      = {2014}
}"""


def bibtex(method, levels=True, energy=False):
    """Entries for a method's name ("srp+stbif"); levels: whether it stands on QCFS activations, else on ReLUs; energy: whether energies are told."""
    found = [QCFS if levels else RELU, *(method_of(method).citations() if method in methods.REGISTRY else ())]
    return "\n\n".join(found + ([ENERGY] if energy else []))

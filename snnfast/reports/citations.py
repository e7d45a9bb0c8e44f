"""BibTeX of the methods that a report rests on."""

QCFS = """@inproceedings{bu2022optimal,
  title     = {Optimal {ANN}-{SNN} Conversion for High-accuracy and Ultra-low-latency Spiking Neural Networks},
  author    = {Bu, Tong and Fang, Wei and Ding, Jianhao and Dai, PengLin and Yu, Zhaofei and Huang, Tiejun},
  booktitle = {International Conference on Learning Representations},
  year      = {2022}
}"""
SRP = """@inproceedings{hao2023reducing,
  title     = {Reducing {ANN}-{SNN} Conversion Error through Residual Membrane Potential},
  author    = {Hao, Zecheng and Bu, Tong and Ding, Jianhao and Huang, Tiejun and Yu, Zhaofei},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year      = {2023}
}"""
COS = """@inproceedings{hao2023bridging,
  title     = {Bridging the Gap between {ANN}s and {SNN}s by Calibrating Offset Spikes},
  author    = {Hao, Zecheng and Ding, Jianhao and Bu, Tong and Huang, Tiejun and Yu, Zhaofei},
  booktitle = {International Conference on Learning Representations},
  year      = {2023}
}"""
SNM = """@inproceedings{wang2022signed,
  title     = {Signed Neuron with Memory: Towards Simple, Accurate and High-Efficient {ANN}-{SNN} Conversion},
  author    = {Wang, Yuchen and Zhang, Malu and Chen, Yi and Qu, Hong},
  booktitle = {International Joint Conference on Artificial Intelligence},
  year      = {2022}
}"""
STBIF = """@inproceedings{you2024spikezip,
  title     = {{SpikeZIP-TF}: Conversion is All You Need for Transformer-based {SNN}},
  author    = {You, Kang and Xu, Zekai and Nie, Chen and Deng, Zhijie and Guo, Qinghai and Wang, Xiang and He, Zhezhi},
  booktitle = {International Conference on Machine Learning},
  year      = {2024}
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
_BY_WORD = {"srp": SRP, "cos": COS, "snm": SNM, "stbif": STBIF}


def bibtex(method, levels=True, energy=False):
    """Entries for a method's name ("srp+stbif"); levels: whether it stands on QCFS activations, else on ReLUs; energy: whether energies are told."""
    found = [QCFS if levels else RELU]
    found += [entry for word, entry in _BY_WORD.items() if word in method.split("+")]
    return "\n\n".join(found + ([ENERGY] if energy else []))

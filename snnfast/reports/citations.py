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

SEW = r"""@inproceedings{fang2021deep,
  title     = {Deep Residual Learning in Spiking Neural Networks},
  author    = {Fang, Wei and Yu, Zhaofei and Chen, Yanqi and Huang, Tiejun and Masquelier, Timoth{\'e}e and Tian, Yonghong},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2021}
}"""
PLIF = r"""@inproceedings{fang2021incorporating,
  title     = {Incorporating Learnable Membrane Time Constant to Enhance Learning of Spiking Neural Networks},
  author    = {Fang, Wei and Yu, Zhaofei and Chen, Yanqi and Masquelier, Timoth{\'e}e and Huang, Tiejun and Tian, Yonghong},
  booktitle = {IEEE/CVF International Conference on Computer Vision},
  year      = {2021}
}"""
MS = r"""@article{hu2024advancing,
  title     = {Advancing Spiking Neural Networks Toward Deep Residual Learning},
  author    = {Hu, Yifan and Deng, Lei and Wu, Yujie and Yao, Man and Li, Guoqi},
  journal   = {IEEE Transactions on Neural Networks and Learning Systems},
  year      = {2024}
}"""
SPIKFORMER = r"""@inproceedings{zhou2023spikformer,
  title     = {Spikformer: When Spiking Neural Network Meets Transformer},
  author    = {Zhou, Zhaokun and Zhu, Yuesheng and He, Chao and Wang, Yaowei and Yan, Shuicheng and Tian, Yonghong and Yuan, Li},
  booktitle = {International Conference on Learning Representations},
  year      = {2023}
}"""
SPIKINGFORMER = r"""@article{zhou2023spikingformer,
  title     = {Spikingformer: Spike-driven Residual Learning for Transformer-based Spiking Neural Network},
  author    = {Zhou, Chenlin and Yu, Liutao and Zhou, Zhaokun and Ma, Zhengyu and Zhang, Han and Zhou, Huihui and Tian, Yonghong},
  journal   = {arXiv preprint arXiv:2304.11954},
  year      = {2023}
}"""
SDT = r"""@inproceedings{yao2023spike,
  title     = {Spike-driven Transformer},
  author    = {Yao, Man and Hu, Jiakui and Zhou, Zhaokun and Yuan, Li and Tian, Yonghong and Xu, Bo and Li, Guoqi},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2023}
}"""
SDT_V2 = r"""@inproceedings{yao2024spike,
  title     = {Spike-driven Transformer {V2}: Meta Spiking Neural Network Architecture Inspiring the Design of Next-generation Neuromorphic Chips},
  author    = {Yao, Man and Hu, Jiakui and Hu, Tianxiang and Xu, Yifan and Zhou, Zhaokun and Tian, Yonghong and Xu, Bo and Li, Guoqi},
  booktitle = {International Conference on Learning Representations},
  year      = {2024}
}"""
RESFORMER = r"""@inproceedings{shi2024spikingresformer,
  title     = {{SpikingResformer}: Bridging {ResNet} and Vision Transformer in Spiking Neural Networks},
  author    = {Shi, Xinyu and Hao, Zecheng and Yu, Zhaofei},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2024}
}"""
NETWORKS = {  # what the names of directly trained networks start with
    "sew_": SEW,
    "spiking_resnet": SEW,
    "plif_": PLIF,
    "ms_": MS,
    "spikformer": SPIKFORMER,
    "spikingformer": SPIKINGFORMER,
    "sdt_v2": SDT_V2,
    "sdt": SDT,
    "spikingresformer": RESFORMER,
}


def bibtex(method, levels=True, energy=False, arch=None):
    """Entries for a method's name ("srp+stbif"); levels: whether it stands on QCFS activations, else on ReLUs; energy: whether energies are told.
    arch: the name of a network that was trained as a spiking one, with method "direct"."""
    if method == "direct":
        found = [entry for start, entry in NETWORKS.items() if arch is not None and arch.startswith(start)][:1]
    else:
        found = [QCFS if levels else RELU, *(method_of(method).citations() if method in methods.REGISTRY else ())]
    return "\n\n".join(found + ([ENERGY] if energy else []))

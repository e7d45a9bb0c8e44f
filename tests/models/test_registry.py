"""The recipe for a network: a class, a function and a decorator; then it trains, converts, and its checkpoint loads."""

import re
from pathlib import Path

import pytest
import torch

import snnfast
from snnfast import models
from snnfast.models import registry


@pytest.fixture
def own(monkeypatch):
    """A network of one's own, known while a test runs."""
    for table in (registry.BY_NAME, registry.CLASS_OF):
        monkeypatch.setitem(table, "tiny_net", None)  # and taken out at the end

    class TinyNet(models.Network):
        def __init__(self, arch, num_classes, levels, activation, theta, width, image_size, in_channels, channel_num=None, masking=0.0):
            super().__init__(arch, num_classes, in_channels, levels, activation, theta, width, channel_num, masking, image_size=image_size)
            self.layers = torch.nn.Sequential(
                torch.nn.Conv2d(in_channels, self.wide(8), 3, padding=1), torch.nn.BatchNorm2d(self.wide(8)), self.act(self.wide(8)),
                torch.nn.AvgPool2d(image_size // 2), torch.nn.Flatten(), torch.nn.Linear(4 * self.wide(8), num_classes),
            )  # fmt: skip
            self.finish()

        @classmethod
        def for_images(cls, size):
            return dict(image_size=size)

        def forward(self, x):
            return self.layers(x)

    @models.register(TinyNet)
    def tiny_net(
        num_classes=10, levels=4, activation="s-qcfs", theta=4.0, width=1.0, image_size=32, in_channels=3, channel_num=None, masking=0.0
    ):
        return TinyNet("tiny_net", num_classes, levels, activation, theta, width, image_size, in_channels, channel_num, masking)

    return tiny_net


def test_the_recipe_for_a_network(own, tmp_path):
    from snnfast.cli.main import main

    line = [
        "train",
        "--arch",
        "tiny_net",
        "--data",
        "digits",
        "--recipe",
        "thesis",
        "--epochs",
        "1",
        "1",
        "--levels",
        "4",
        "--width",
        "0.5",
    ]
    assert main([*line, "--T", "4", "--out", str(tmp_path / "run")]) == 0
    net = snnfast.load_checkpoint(tmp_path / "run/model.pt")
    assert net.config["arch"] == "tiny_net" and net.config["activation"] == "cs-qcfs" and net.config["image_size"] == 32
    x = torch.randn(2, 1, 32, 32)
    assert snnfast.convert(net).logits(x, 8).shape == (8, 2, 10)
    again = models.build(net.config)
    again.load_state_dict(net.state_dict())
    assert torch.equal(again.eval()(x), net(x))


def test_no_file_beside_the_models_knows_their_names():
    root = Path(snnfast.__file__).parent
    for path in root.rglob("*.py"):
        if path.parent.name != "models":
            assert not re.search(r"startswith\(\"(vgg|resnet|vit|swin)|arch\W{1,3}\.startswith", path.read_text()), path

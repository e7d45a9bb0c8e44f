"""Files of networks that are trained directly: ours, and in the containers and under the names of their authors' programs."""

import argparse
import re

import golden_weights
import numpy as np
import pytest
import torch

import snnfast
from snnfast.models.direct import BY_NAME, DirectNetwork, Spikes

NETS = {  # arguments; what a file does not say
    "sew_resnet18": (dict(connect="IAND"), ("connect",)), "sew_resnet50": (dict(connect="AND"), ("connect",)), "spiking_resnet18": ({}, ()),
    "ms_resnet18": ({}, ()), "plif_mnist": (dict(in_channels=1), ()), "spikformer": (dict(depth=2, dim=64, heads=4), ("heads",)),
    "spikformer_cifar": (dict(depth=1, dim=64, heads=8, mlp_ratio=2.0), ("heads",)), "spikingformer": (dict(depth=1, dim=64, heads=4), ("heads",)),
    "spikingformer_cifar": (dict(depth=2, dim=64, heads=4, in_channels=1), ("heads",)), "sdt": (dict(depth=1, dim=64, heads=4), ()),
    "sdt_cifar": (dict(depth=1, dim=64, spike_mode="plif"), ()), "sdt_v2": (dict(dims=[16, 32, 64, 64], depths=[2, 1], heads=4, kd=True), ("heads",)),
    "spikingresformer_ti": (dict(img_size=32), ("img_size",)), "csnn_cifar10": (dict(channels=[4, 8, 8], hidden=12), ()),
}  # fmt: skip


def made(name):
    net = BY_NAME[name](num_classes=7, T=2, **NETS[name][0])
    shapes = {key: tuple(t.shape) for key, t in net.state_dict().items()}
    net.load_state_dict({key: torch.from_numpy(np.asarray(t)) for key, t in golden_weights.state(shapes).items()})
    side = 28 if name == "plif_mnist" else 32
    return net.eval(), torch.randn(2, net.config["in_channels"], side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NETS)
def test_a_file_of_its_program(name, tmp_path):
    """As trainers leave it: under "state_dict" or "model" and "module.", beside the arguments. Sizes are read off the shapes."""
    net, x = made(name)
    state = {f"module.{key}": t for key, t in net.state_dict().items()}
    torch.save({"model" if "sew" in name else "state_dict": state, "epoch": 9, "args": argparse.Namespace(T=2)}, tmp_path / "net.pth")
    given = {key: NETS[name][0][key] for key in NETS[name][1]}
    again = snnfast.load_checkpoint(tmp_path / "net.pth", name, T=2, **given)
    assert again.config == net.config and type(again) is type(net) and again.facts == {}
    with torch.no_grad():
        assert torch.equal(again(x), net(x))
    missing = [*(key for key in NETS[name][1] if key != "img_size"), "T"]
    with pytest.raises(
        ValueError, match=re.escape(f"does not say {' and '.join(missing)} of {name}: give {', '.join(f'{m}=' for m in missing)}")
    ):
        snnfast.load_checkpoint(tmp_path / "net.pth", name)
    with pytest.raises(ValueError, match="holds a network with num_classes=7, not 10"):
        snnfast.load_checkpoint(tmp_path / "net.pth", name, 10, T=2, **given)


@pytest.mark.parametrize("name", ["sew_resnet18", "sdt_cifar", "spikingresformer_ti"])
def test_our_own_file(name, tmp_path):
    net, x = made(name)
    net.T = 3
    snnfast.save_checkpoint(tmp_path / "net.pt", net, data="digits")
    again = snnfast.load_checkpoint(tmp_path / "net.pt")
    assert again.T == 3 and again.config == net.config and again.facts == {"data": "digits"}
    with torch.no_grad():
        assert torch.equal(again(x), net(x))
    with pytest.raises(ValueError, match="says itself what it holds, and takes no T"):
        snnfast.load_checkpoint(tmp_path / "net.pt", T=3)
    file = torch.load(tmp_path / "net.pt")
    for change in ({"config": {}}, {"state_dict": 3}, {"T": 0}, {"config": {**file["config"], "arch": "none"}}, {"state_dict": {}}):
        torch.save(file | change, tmp_path / "bad.pt")
        with pytest.raises(ValueError):
            snnfast.load_checkpoint(tmp_path / "bad.pt")


def test_names_of_newer_and_older_programs(tmp_path):
    net, x = made("sew_resnet50")
    names = {"conv": r"\.conv(\d)\.module\.0\.", "bn": r"\.conv(\d)\.module\.1\."}
    state = {re.sub(names["bn"], r".bn\1.", re.sub(names["conv"], r".conv\1.", key)): t for key, t in net.state_dict().items()}
    state = {re.sub(r"downsample\.0\.module\.", "downsample.", key): t for key, t in state.items()}
    assert {"layer1.0.conv2.weight", "layer1.0.bn3.running_var", "layer1.0.downsample.1.bias"} <= set(state)
    torch.save(state, tmp_path / "new.pth")
    with torch.no_grad():
        assert torch.equal(snnfast.load_checkpoint(tmp_path / "new.pth", "sew_resnet50", T=2, connect="AND")(x), net(x))
    net, x = made("spikingformer")
    torch.save({re.sub(r"mlp\.mlp", "mlp.fc", key): t for key, t in net.state_dict().items()}, tmp_path / "old.pth")
    with torch.no_grad():
        assert torch.equal(snnfast.load_checkpoint(tmp_path / "old.pth", "spikingformer", T=2, heads=4)(x), net(x))


def test_other_files_are_refused(tmp_path):
    net, _ = made("sew_resnet18")
    torch.save(net.state_dict(), tmp_path / "net.pth")
    for name, how, told in (
        ("spikformer", dict(T=2, heads=4), "is not a checkpoint of spikformer: it has no head.weight"),
        ("sew_resnet34", dict(T=2, connect="ADD"), "is not a checkpoint of sew_resnet34: layer1.2"),
        ("sew_resnet18", dict(T=2, connect="OR"), "no network can be built: connect must be one of"),
        ("sew_resnet18", dict(T=2, connect="ADD", heads=3), "heads is no option of sew_resnet18"),
        (
            "sew_resnet18",
            dict(T=2, connect="ADD", levels=4),
            "sew_resnet18 is trained as a spiking network: levels is of quantised activations",
        ),
    ):
        with pytest.raises(ValueError, match=told):
            snnfast.load_checkpoint(tmp_path / "net.pth", name, **how)
    with pytest.raises(ValueError, match="arch must be one of .*'spikformer'.*; got 'nosuch'"):
        snnfast.load_checkpoint(tmp_path / "net.pth", "nosuch")
    odd = {
        "sew_resnet18": {"bn1.num_batches_tracked": torch.zeros(5)}, "csnn_cifar10": {"a.conv.weight": torch.zeros(1), "head.weight": torch.zeros(1)},
    }  # fmt: skip
    for name, wrong in odd.items():
        torch.save(net.state_dict() | wrong, tmp_path / "odd.pth")
        with pytest.raises(ValueError, match=f"odd.pth is not a checkpoint of {name}"):
            snnfast.load_checkpoint(tmp_path / "odd.pth", name, T=2, **(dict(connect="ADD") if name.startswith("sew") else {}))
    state = net.state_dict()
    state["fc.bias"] = state["fc.bias"] * torch.nan
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(ValueError, match=r"fc.bias has numbers that are not finite"):
        snnfast.load_checkpoint(tmp_path / "nan.pth", "sew_resnet18", T=2, connect="ADD")


def test_a_class_of_ones_own_is_kept_as_weights(tmp_path):
    class Mine(DirectNetwork):
        def __init__(self):
            super().__init__("mine", 2, 3, 1)
            self.fire, self.fc = Spikes(), torch.nn.Linear(4, 3)

        def features(self, x, T):
            return self.fire(x.flatten(1).expand(T, -1, -1))

    torch.manual_seed(0)
    net, x = Mine(), torch.randn(2, 1, 2, 2)
    snnfast.save_checkpoint(tmp_path / "net.pt", net)
    with pytest.raises(ValueError, match="holds the weights of a network that is none of snnfast.models"):
        snnfast.load_checkpoint(tmp_path / "net.pt")
    assert torch.equal(snnfast.load_weights(Mine(), tmp_path / "net.pt")(x), net(x))


def test_networks_that_their_configuration_does_not_make_are_kept_as_weights(tmp_path):
    """Another neuron, a folded convolution, another last layer: the file says what it is not."""
    changed = BY_NAME["spikformer_cifar"](1, 32, 4)
    changed.patch_embed.proj_lif1 = Spikes(2.0, 4.0, reset="hard")
    folded = snnfast.models.fold_repconv(BY_NAME["sdt_v2"]((16, 32, 32, 32), (1, 1), 4).eval())
    other = BY_NAME["spikformer_cifar"](1, 32, 4)
    other.head = torch.nn.Linear(32, 3)
    for net in (changed, folded, other):
        snnfast.save_checkpoint(tmp_path / "net.pt", net)
        with pytest.raises(ValueError, match="holds the weights of a network that is none of snnfast.models"):
            snnfast.load_checkpoint(tmp_path / "net.pt")
        snnfast.load_weights(net, tmp_path / "net.pt")


def test_sizes_that_a_file_does_not_say_quite(tmp_path):
    net = BY_NAME["csnn_cifar10"]((4, 8, 8), 12, 30)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    assert snnfast.load_checkpoint(tmp_path / "net.pth", "csnn_cifar10", T=2, image_size=30, channels=(4, 8, 8)).image_shape == (3, 30, 30)
    with pytest.raises(ValueError, match="holds a network with image_size=24, not 40"):
        snnfast.load_checkpoint(tmp_path / "net.pth", "csnn_cifar10", T=2, image_size=40)
    net = BY_NAME["spikformer_cifar"](1, 56, 7, mlp_ratio=61.5 / 56)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    again = snnfast.load_checkpoint(tmp_path / "net.pth", "spikformer_cifar", T=2, heads=7)
    assert again.block[0].mlp.fc1_linear.out_features == 61
    torch.save(BY_NAME["sdt_dvs"](1, 32, 4, pooling="0111").state_dict(), tmp_path / "net.pth")
    with pytest.raises(ValueError, match="does not say pooling and T of sdt_dvs"):
        snnfast.load_checkpoint(tmp_path / "net.pth", "sdt_dvs")
    assert snnfast.load_checkpoint(tmp_path / "net.pth", "sdt_dvs", T=2, pooling="0111").patch_embed.pools == "0111"

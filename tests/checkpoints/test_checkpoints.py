"""Checkpoints of every family, made here with every layout of keys: the loaded network computes what the saved one does; bad files are refused."""

import copy
import os

import pytest
import torch
from authors_files import as_older

import snnfast
from snnfast import models, nn

WIDTH = 0.125


def trained(arch, activation="qcfs", **options):
    """A small network with statistics and uneven thresholds > 0."""
    torch.manual_seed(7)
    net = models.BY_NAME[arch](num_classes=7, width=WIDTH, activation=activation, theta=1.5, **options)
    for m in net.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.momentum = None  # statistics are plain means, so that two batches are enough
    for _ in range(2):
        net.train()(torch.randn(32, 3, 32, 32))
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, torch.nn.Linear):
                m.weight.mul_(3.0)  # no batch norm keeps what follows it alive
            if isinstance(m, nn.Quantised):
                p = next(m.parameters())
                p.mul_(0.5 + torch.rand(p.shape))
    return net.eval()


X = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def same_function(net, path, **given):
    loaded = snnfast.load_checkpoint(path, levels=4, width=WIDTH, **given)
    with torch.no_grad():
        assert torch.equal(loaded(X), net(X)) and (net(X)[0] - net(X)[1]).abs().max() > 1e-3
        changed = copy.deepcopy(loaded)
        for m in changed.modules():
            if isinstance(m, nn.Quantised):
                next(m.parameters()).add_(0.2)
        assert (changed(X) - net(X)).abs().max() > 1e-3, "the outputs of this test's network do not depend on its thresholds"
    assert not loaded.training and all(p.requires_grad for p in loaded.parameters())
    return loaded


@pytest.mark.parametrize("holder", [None, "state_dict", "model", "net"])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("arch", ["vgg16", "resnet20", pytest.param("resnet18", marks=pytest.mark.thorough)])
def test_qcfs_and_older(tmp_path, arch, prefix, holder):
    net = trained(arch)
    for rename, family in ((dict, "qcfs"), (as_older, "srp")):
        state = {prefix + key: t for key, t in rename(net.state_dict()).items()}
        assert any(key.endswith(".up") for key in state) == (family == "srp")
        torch.save(state if holder is None else {holder: state, "epoch": 3}, tmp_path / "m.pth")
        own = {} if family == "qcfs" else dict(family="srp")  # .up (1,) > 0 may be another family's too
        for given in (dict(arch=arch, **own), dict(arch=arch, family=family, num_classes=7), own):
            assert same_function(net, tmp_path / "m.pth", **given).config["activation"] == "qcfs"


@pytest.mark.parametrize("arch", ["resnet34", "resnet50", "resnet101"])
def test_other_networks(tmp_path, arch):
    net = trained(arch)
    torch.save(as_older(net.state_dict()), tmp_path / "m.pth")
    assert same_function(net, tmp_path / "m.pth", family="srp").config["arch"] == arch
    with pytest.raises(ValueError, match="give family='srp', or family='cs-qcfs' and threshold="):
        snnfast.load_checkpoint(tmp_path / "m.pth", levels=4, width=WIDTH)
    assert any("relu.up" in key for key in as_older(net.state_dict()))


@pytest.mark.parametrize("four", [False, True])
@pytest.mark.parametrize("which", ["softplus", "raw"])
@pytest.mark.parametrize("channel_num", [None, 3])
def test_cs_qcfs(tmp_path, which, four, channel_num):
    net = trained("resnet20", "cs-qcfs" if which == "softplus" else "c-qcfs", channel_num=channel_num)
    state = as_older(net.state_dict())
    for key, t in state.items():
        if key.endswith(".up"):
            state[key] = t.view(1, -1, *([1, 1] if four and t.numel() > 1 else [])) if t.numel() > 1 else t
    torch.save(state, tmp_path / "m.pth")
    with pytest.raises(ValueError, match="does not store whether its thresholds are softplus"):
        snnfast.load_checkpoint(tmp_path / "m.pth", levels=4, width=WIDTH)
    loaded = same_function(net, tmp_path / "m.pth", threshold=which)
    assert loaded.config == net.config | {"theta": 4.0}
    assert torch.equal(snnfast.convert(loaded)(X, T=5), snnfast.convert(net)(X, T=5))


def test_thresholds_of_another_family_are_refused(tmp_path):
    net = trained("resnet20")
    torch.save(as_older(net.state_dict()), tmp_path / "m.pth")
    with pytest.raises(ValueError, match="threshold='softplus' is of family 'cs-qcfs'"):
        snnfast.load_checkpoint(tmp_path / "m.pth", levels=4, width=WIDTH, family="srp", threshold="softplus")
    snnfast.save_checkpoint(tmp_path / "own.pt", net)
    with pytest.raises(ValueError, match="is snnfast's own and says what its thresholds are"):
        snnfast.load_checkpoint(tmp_path / "own.pt", threshold="raw")


def test_a_value_below_zero_proves_softplus(tmp_path):
    net = trained("vgg11", "s-qcfs")
    with torch.no_grad():
        net.layer2[2].lam.fill_(-0.3)
    torch.save(as_older(net.state_dict()), tmp_path / "m.pth")
    assert same_function(net, tmp_path / "m.pth").config["activation"] == "s-qcfs"
    with pytest.raises(ValueError, match="cannot hold raw thresholds: layer2.2.thresh has a value <= 0"):
        snnfast.load_checkpoint(tmp_path / "m.pth", levels=4, width=WIDTH, threshold="raw")


def test_weights_of_our_own_without_their_facts(tmp_path):
    for kind in ("qcfs", "s-qcfs", "cs-qcfs"):
        net = trained("resnet20", kind)
        torch.save({"model": net.state_dict()}, tmp_path / "m.pth")
        assert same_function(net, tmp_path / "m.pth").config["activation"] == kind


def test_layers_with_one_threshold_between_others(tmp_path):
    net = trained("vgg11", "c-qcfs")
    with torch.no_grad():
        net.layer3[2].thresh.fill_(0.8)
    state = as_older(net.state_dict())
    state["layer3.2.up"] = torch.tensor([0.8])
    torch.save(state, tmp_path / "m.pth")
    same_function(net, tmp_path / "m.pth", threshold="raw")


def test_sizes_are_read_off_the_shapes(tmp_path):
    net = models.vgg11(num_classes=3, activation="qcfs", width=0.0625, image_size=64, in_channels=1)
    torch.save(net.state_dict(), tmp_path / "v.pth")
    config = snnfast.load_checkpoint(tmp_path / "v.pth", levels=8, width=0.0625).config
    assert (config["image_size"], config["in_channels"], config["num_classes"], config["levels"]) == (64, 1, 3, 8)
    torch.save(models.resnet18(activation="qcfs", width=0.0625, stem="imagenet").state_dict(), tmp_path / "r.pth")
    assert snnfast.load_checkpoint(tmp_path / "r.pth", levels=8, width=0.0625).config["stem"] == "imagenet"


def test_own_format_keeps_everything(tmp_path):
    for arch, kind, options in (
        ("vgg11", "cs-qcfs", {}),
        ("resnet20", "ce-qcfs", {"channel_num": 2}),
        ("resnet18", "e-qcfs", {"stem": "imagenet"}),
    ):
        net = trained(arch, kind, **options)
        facts = dict(preprocessing={"mean": [0.5], "std": [0.25], "name": "digits"}, epochs=[3, 1], seed=0)
        snnfast.save_checkpoint(tmp_path / "m.pt", net, **facts)
        loaded = snnfast.load_checkpoint(tmp_path / "m.pt", arch=arch, levels=4)
        assert torch.equal(loaded(X), net(X)) and loaded.config == net.config and loaded.facts == facts
    with pytest.raises(ValueError, match="was saved with levels=4, not 8"):
        snnfast.load_checkpoint(tmp_path / "m.pt", levels=8)
    with pytest.raises(ValueError, match="was saved with arch='resnet18', not 'vgg16'"):
        snnfast.load_checkpoint(tmp_path / "m.pt", arch="vgg16")


class Hostile:
    def __reduce__(self):
        return os.system, ("touch /tmp/hostile-checkpoint-ran",)


def test_bad_files(tmp_path):
    net = trained("resnet20")
    good = net.state_dict()
    path = tmp_path / "m.pth"

    def refused(message, file=None, **given):
        if file is not None:
            torch.save(file, path)
        with pytest.raises(ValueError, match=message):
            snnfast.load_checkpoint(path, **{"levels": 4, "width": WIDTH, **given})

    refused("does not store the quantisation levels .* give levels=", good, levels=None)
    refused("is of 7 classes, not of num_classes=10", good, num_classes=10)
    refused("arch must be one of", good, arch="alexnet")
    refused(r"is not a checkpoint of resnet18; its names fit arch='resnet20': .* is missing; .* and \d+ more", good, arch="resnet18")
    refused("conv1.0.weight has shape", good, width=0.5)
    refused("no network can be built: .* unexpected keyword argument 'image_size'", good, image_size=32)
    refused(
        "threshold of conv2_x.0.act in .* must be > 0 and finite, got nan", good | {"conv2_x.0.act.thresh": torch.tensor([float("nan")])}
    )
    refused("threshold of conv2_x.0.act in .* must be > 0 and finite, got -1.0", good | {"conv2_x.0.act.thresh": torch.tensor([-1.0])})
    refused("fc.extra is not of resnet20", good | {"fc.extra": X}, arch="resnet20")
    short = dict(good)
    del short["fc.bias"]
    refused("give arch=, one of vgg11", short)
    refused("fc.bias is missing", short, arch="resnet20")
    refused("has no thresholds", {k: t for k, t in good.items() if "thresh" not in k}, arch="resnet20")
    refused("holds no weights", {"state_dict": {}, "epoch": 3})
    refused("holds no weights", [1, 2])
    refused("family must be one of 'auto', 'qcfs', 'srp', 'cs-qcfs', 'mst', 'spikezip'", good, family="none")
    refused("has not the names of family 'mst'", good, family="mst")
    refused("safe loading refuses", {"model": good, "config": Hostile()})
    assert not os.path.exists("/tmp/hostile-checkpoint-ran")
    torch.save(good, path)
    path.write_bytes(path.read_bytes()[:2000])
    refused("is not a readable checkpoint")
    path.write_text("hello")
    refused("is not a readable checkpoint: it does not begin as a file of torch.save or of safetensors does")
    path.write_bytes(b"")
    refused("is not a readable checkpoint")
    with pytest.raises(FileNotFoundError):
        snnfast.load_checkpoint(tmp_path / "none.pth")
    torch.save({"format": "snnfast-1", "config": {"arch": "vgg11"}, "state_dict": good, "facts": {}}, path)
    refused("no network can be built", levels=None, width=None)
    torch.save({"format": "snnfast-1", "config": net.config, "state_dict": {"a": 1}, "facts": {}}, path)
    refused("is damaged", levels=None, width=None)
    huge = net.config | {"width": 1e6}
    torch.save({"format": "snnfast-1", "config": huge, "state_dict": good, "facts": {}}, path)
    refused("has shape", levels=None, width=None)


KEYS = {
    "vgg16": (112, 15, {"layer1.0.weight", "layer1.0.bias", "layer1.1.running_var", "layer1.2.thresh", "layer1.6.thresh", "layer3.10.thresh",
                        "classifier.1.weight", "classifier.2.thresh", "classifier.5.thresh", "classifier.7.bias"}),
    "resnet18": (139, 17, {"conv1.0.weight", "conv1.2.thresh", "conv2_x.0.residual_function.2.thresh", "conv2_x.1.act.thresh",
                           "conv5_x.0.shortcut.1.weight", "fc.weight"}),
    "resnet20": (147, 19, {"conv4_x.2.residual_function.4.running_mean", "conv4_x.0.shortcut.0.weight"}),
    "resnet34": (251, 33, {"conv4_x.5.act.thresh"}),
    "resnet50": (369, 49, {"conv3_x.3.residual_function.7.bias", "conv2_x.0.residual_function.5.thresh"}),
    "resnet101": (726, 100, {"conv4_x.22.act.thresh"}),
}  # fmt: skip


@pytest.mark.parametrize("arch", KEYS)
def test_names_are_those_of_the_papers_files(arch):
    """SEMANTICS section 6: entries, thresholds, and names written out here."""
    many, thresholds, some = KEYS[arch]
    with torch.device("meta"):
        state = models.BY_NAME[arch](activation="qcfs").state_dict()
    assert len(state) == many and sum(k.endswith(".thresh") for k in state) == thresholds and some <= set(state)
    assert "conv2_x.0.shortcut.0.weight" not in state or arch in ("resnet50", "resnet101")


def test_malformed_weights(tmp_path):
    good = trained("resnet20").state_dict()
    for change, message in (
        ({3: X}, "holds no weights"),
        ({"conv1.2.thresh": torch.zeros(0)}, "conv1.2.thresh is no weight"),
        ({"conv1.2.thresh": torch.ones(1, dtype=torch.complex64)}, "conv1.2.thresh is no weight"),
        ({"fc.bias": torch.ones(7, dtype=torch.int64)}, "fc.bias is no weight"),
        ({"fc.bias": torch.ones(7).to_sparse()}, "fc.bias is no weight"),
    ):
        torch.save(good | change, tmp_path / "m.pth")
        with pytest.raises(ValueError, match=message):
            snnfast.load_checkpoint(tmp_path / "m.pth", levels=4, width=WIDTH, arch="resnet20")
    huge = {"format": "snnfast-1", "config": models.resnet20(width=WIDTH).config | {"width": 1e12}, "state_dict": good, "facts": {}}
    torch.save(huge, tmp_path / "m.pth")
    with pytest.raises(ValueError, match="no network can be built"):
        snnfast.load_checkpoint(tmp_path / "m.pth")


def test_files_without_counters(tmp_path):
    net = trained("resnet20")
    torch.save({k: t for k, t in net.state_dict().items() if "num_batches" not in k}, tmp_path / "m.pth")
    same_function(net, tmp_path / "m.pth", arch="resnet20")


def test_half_precision_is_kept_and_a_mixture_becomes_fp32(tmp_path):
    net = copy.deepcopy(trained("resnet20")).half()
    torch.save(net.state_dict(), tmp_path / "m.pth")
    assert {p.dtype for p in snnfast.load_checkpoint(tmp_path / "m.pth", levels=4, width=WIDTH).parameters()} == {torch.float16}
    state = {k: t.float() if "thresh" in k else t for k, t in net.state_dict().items()}
    torch.save(state, tmp_path / "m.pth")
    assert {p.dtype for p in snnfast.load_checkpoint(tmp_path / "m.pth", levels=4, width=WIDTH).parameters()} == {torch.float32}


@pytest.mark.parametrize("prefixes", ["_orig_mod.", "module._orig_mod.", "module.module.", "model.", "net.module.", "student.encoder."])
def test_prefixes_of_wrappers_are_taken_off(tmp_path, prefixes):
    net = snnfast.models.vgg11(activation="qcfs", width=0.05)
    counted = {f"{prefixes}{k.rpartition('.')[0]}.{n}": torch.zeros(1) for k in net.state_dict() for n in ("total_ops", "total_params")}
    state = {prefixes + k: v for k, v in net.state_dict().items()} | counted | {"n_averaged": torch.tensor(3)}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "m.pth")
    again = snnfast.load_checkpoint(tmp_path / "m.pth", levels=8, width=0.05)
    assert all(torch.equal(again.state_dict()[k], v) for k, v in net.state_dict().items())


def test_a_prefix_that_is_not_on_every_name_stays(tmp_path):
    state = snnfast.models.vgg11(activation="qcfs", width=0.05).state_dict()
    torch.save({("module." if i % 2 else "") + k: v for i, (k, v) in enumerate(state.items())}, tmp_path / "m.pth")
    with pytest.raises(ValueError, match="does not hold exactly the names of one network"):
        snnfast.load_checkpoint(tmp_path / "m.pth", levels=8, width=0.05)


@pytest.mark.parametrize("key", [None, "model"])
def test_holders_inside_one_another(tmp_path, key):
    net = snnfast.models.vgg11(activation="qcfs", width=0.05)
    inner = {"state_dict": {f"module.{k}": t for k, t in net.state_dict().items()}, "epoch": 3}
    torch.save({"model": inner, "optimizer": {"state": {}}, "config": {"lr": 0.1}}, tmp_path / "m.pth")
    again = snnfast.load_checkpoint(tmp_path / "m.pth", levels=8, width=0.05, key=key)
    assert all(torch.equal(again.state_dict()[k], v) for k, v in net.state_dict().items())
    linear = torch.nn.Linear(3, 2)
    torch.save({"model": {"ema": {"net": linear.state_dict()}}}, tmp_path / "m.pth")
    assert torch.equal(snnfast.load_weights(torch.nn.Linear(3, 2), tmp_path / "m.pth", key).weight, linear.weight)


def test_entries_inside_others_are_told_and_chosen_by_their_path(tmp_path):
    a, b, path = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2), tmp_path / "m.pth"
    load = lambda key=None: snnfast.load_weights(torch.nn.Linear(3, 2), path, key).weight
    for file, key in (
        ({"model": {"state_dict": a.state_dict(), "ema": b.state_dict()}}, "model.ema"),
        ({"model": {"state_dict": a.state_dict()}, "model_ema": {"state_dict": b.state_dict()}}, "model_ema.state_dict"),
    ):
        torch.save(file, path)
        with pytest.warns(UserWarning, match=f"'model.state_dict' are taken; key='{key}' takes others"):
            assert torch.equal(load(), a.weight)
        assert torch.equal(load(key), b.weight)
    torch.save({"model": {"arch": "linear", "depth": 3}, "weights": a.state_dict()}, path)  # a configuration in front of them
    assert torch.equal(load(), a.weight)
    with pytest.raises(ValueError, match="no weights under key='ema'; it holds some under weights"):
        load("ema")


@pytest.mark.parametrize("prefix", ["module.", "model.module.", "student."])
def test_a_parameter_beside_the_layers_loses_the_prefix_too(prefix):
    from snnfast.checkpoints.holders import unprefixed

    names = {"cls_token", "head.weight", "blocks.0.attn.qkv.weight"}
    assert set(unprefixed({prefix + name: torch.ones(1) for name in names})) == names
    assert set(unprefixed({"module.weight": torch.ones(1), "module.bias": torch.ones(1)})) == {"weight", "bias"}
    assert set(unprefixed({"fc.weight": torch.ones(1), "fc.bias": torch.ones(1)})) == {"fc.weight", "fc.bias"}


def test_entries_of_a_file_are_told_and_chosen(tmp_path):
    nets = [snnfast.models.vgg11(activation="qcfs", width=0.05) for _ in range(3)]
    torch.save(
        {"state_dict": nets[0].state_dict(), "state_dict_ema": nets[1].state_dict(), "teacher": nets[2].state_dict()}, tmp_path / "m.pth"
    )
    weight = lambda net: net.layer1[0].weight
    with pytest.warns(UserWarning, match="the weights under 'state_dict' are taken; key='state_dict_ema' takes others"):
        assert torch.equal(weight(snnfast.load_checkpoint(tmp_path / "m.pth", levels=8, width=0.05)), weight(nets[0]))
    for key, net in (("state_dict_ema", nets[1]), ("teacher", nets[2])):
        assert torch.equal(weight(snnfast.load_checkpoint(tmp_path / "m.pth", levels=8, width=0.05, key=key)), weight(net))
    with pytest.raises(ValueError, match="no weights under key='averaged'; it holds some under state_dict, state_dict_ema, teacher"):
        snnfast.load_checkpoint(tmp_path / "m.pth", levels=8, key="averaged")
    torch.save({"state_dict_ema": nets[1].state_dict(), "epoch": 1}, tmp_path / "ema.pth")
    assert torch.equal(weight(snnfast.load_checkpoint(tmp_path / "ema.pth", levels=8, width=0.05)), weight(nets[1]))


@pytest.mark.parametrize("ending", [".pt", ".safetensors", ""])
def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch, ending):
    """What was there stays where writing fails, and a link stays a link."""
    path, link, net = tmp_path / f"net{ending}", tmp_path / f"link{ending}", models.vgg11(width=0.05)
    snnfast.save_checkpoint(path, net, turn=1)
    link.symlink_to(path)

    def full(*args):
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with pytest.raises(OSError, match="no space left"):
            snnfast.save_checkpoint(link, net, turn=2)
    assert snnfast.load_checkpoint(path).facts == {"turn": 1} and {p.name for p in tmp_path.iterdir()} == {path.name, link.name}
    snnfast.save_checkpoint(link, net, turn=3)
    assert link.is_symlink() and snnfast.load_checkpoint(path).facts == {"turn": 3}

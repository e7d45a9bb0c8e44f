"""Files of the MST and SpikeZIP programs, made here with their names from networks of ours."""

import os
import pickle
import zipfile

import pytest
import torch
from authors_files import as_mst, as_spikezip
from transformers import images, network

import snnfast
from snnfast import models
from snnfast.cli.main import main

STAGES = 2


class Config:
    """What such a file pickles beside the weights."""

    def __init__(self):
        self.levels = 8

    def __reduce__(self):
        return os.system, ("touch /tmp/snnfast-extract-ran",)


@pytest.mark.parametrize("dataset", ["imagenet", "cifar"])
def test_mst(tmp_path, dataset):
    net = network("mst", activation="qcfs") if dataset == "imagenet" else None
    if net is None:
        torch.manual_seed(0)
        net = models.swin_tiny(image_size=16, patch_size=2, dim=12, depths=(2, 1), heads=(2, 4), window=4, wiring="mst", norm="bn", in_channels=2,
                               num_classes=5, levels=8, theta=1.0, activation="qcfs")  # fmt: skip
        net.train()(images(net, 16))
        net.eval()
    state = as_mst(net)
    for key in ("layers.0.blocks.1.attn.attn_v_if.up", "layers.0.downsample.reduction_if.up", "layers.0.blocks.0.shortcut2_if.up",
                "patch_embed.proj_if.up", "layers.1.blocks.0.mlp.fc1_if.up", "layers.0.blocks.1.attn_mask", "head.weight",
                "layers.0.blocks.0.attn.relative_position_index"):  # fmt: skip
        assert key in state
    torch.save({"model": {f"module.{k}": t for k, t in state.items()}, "epoch": 3}, tmp_path / "m.pth")
    loaded = snnfast.load_checkpoint(tmp_path / "m.pth", levels=8)
    x = images(net)
    assert torch.equal(loaded(x), net(x)) and loaded.config["mlp_norm"] == (dataset == "imagenet")
    for key in ("image_size", "patch_size", "dim", "window", "norm", "wiring", "num_classes", "in_channels", "activation"):
        assert loaded.config[key] == net.config[key], key
    assert list(loaded.config["depths"]) == [2, 1] and list(loaded.config["heads"]) == [2, 4]
    y = snnfast.convert(loaded).logits(x, 64, [64])[0]
    assert (y - net(x)).abs().max() < 1e-4 * net(x).abs().max()


def test_entries_of_the_papers_files(tmp_path):
    """Full sizes, with as many entries as the authors' files have."""
    with torch.device("meta"):
        mst = as_mst(models.swin_tiny(num_classes=10, activation="qcfs", wiring="mst", norm="bn", mlp_norm=True))
        zip_ = as_spikezip(models.vit_small(num_classes=10, activation="lsq", placement="spikezip"))
    assert len(mst) == 518 and sum(k.endswith(".up") for k in mst) == 124
    assert len(zip_) == 274 and sum(k.endswith(".s") and t.dim() == 0 for k, t in zip_.items()) == 122


@pytest.mark.parametrize("pool", ["token", "mean"])
def test_spikezip(tmp_path, pool):
    torch.manual_seed(0)
    net = models.vit_tiny(image_size=12, patch_size=4, dim=64, depth=2, heads=1, placement="spikezip", activation="lsq", levels=8, theta=1.0,
                          in_channels=2, num_classes=5, pool=pool)  # fmt: skip
    with torch.no_grad():
        for p in net.parameters():
            p *= 1 + 5 * (p.dim() > 1)
    net.eval()
    state = as_spikezip(net)
    for key in ("patch_embed.proj.1.s", "blocks.1.norm1.1.s", "blocks.0.attn.quan_proj.s", "blocks.0.attn.after_attn_quan.s", "blocks.0.mlp.act.0.s",
                "blocks.0.mlp.fc2.1.s", "norm.1.s" if pool == "token" else "fc_norm.1.s"):  # fmt: skip
        assert key in state
    torch.save({"model": state}, tmp_path / "m.pth")
    loaded = snnfast.load_checkpoint(tmp_path / "m.pth", levels=8, signs="authors")
    x = images(net)
    assert torch.equal(loaded(x), net(x)) and loaded.config["pool"] == pool
    signs = [m.signed for m in loaded.modules() if isinstance(m, snnfast.nn.LSQ)]
    assert signs.count(False) == 4
    for other, many in (("all", 0), ("none", 22)):
        changed = snnfast.load_checkpoint(tmp_path / "m.pth", levels=8, signs=other)
        assert sum(not m.signed for m in changed.modules() if isinstance(m, snnfast.nn.LSQ)) == many
    y = snnfast.convert(loaded).logits(x, 64, [64])[0]
    assert (y - net(x)).abs().max() < 1e-4 * net(x).abs().max()


def test_what_a_file_does_not_say_is_asked_for(tmp_path):
    net, path = network("vit, every product of spikes"), tmp_path / "m.pth"
    torch.save({"model": as_spikezip(net)}, path)

    def refused(message, **given):
        with pytest.raises(ValueError, match=message):
            snnfast.load_checkpoint(path, **given)

    refused("does not store the quantisation levels", signs="authors")
    refused("does not store which of its levels have a sign: give signs='authors'", levels=8)
    refused("signs must be one of 'authors', 'all', 'none'", levels=8, signs="some")
    refused("levels must be even where they have a sign, got 7", levels=7, signs="authors")
    refused("thresholds of 'spikezip' are raw", levels=8, signs="authors", threshold="raw")
    refused("has not the names of family 'mst', but those of 'spikezip'", levels=8, family="mst")
    refused("by its shapes, not arch='vit_base'", levels=8, signs="authors", arch="vit_base")
    refused("is of 5 classes, not of num_classes=10", levels=8, signs="authors", num_classes=10)
    assert snnfast.load_checkpoint(path, levels=8, signs="authors", heads=3).config["heads"] == 3
    state = as_spikezip(net)
    del state["blocks.0.mlp.fc2.1.s"]
    torch.save(state, path)
    refused("blocks.0.mlp.fc2_act.s is missing", levels=8, signs="authors", heads=3)
    theirs = as_spikezip(net)
    torch.save({"model": {**theirs, "head.weight": torch.tensor(1.0)}}, path)
    refused(r"head.weight has shape \(\), not", levels=8, signs="authors", heads=3)
    torch.save({"model": {**theirs, "patch_embed.proj.weight": theirs["patch_embed.proj.0.weight"]}}, path)
    refused("has two tensors for patch_embed.proj.weight", levels=8, signs="authors", heads=3)
    mst = network("mst", activation="qcfs")
    torch.save({"model": as_mst(mst)}, path)
    refused("does not store the quantisation levels")
    refused("signs is of family 'spikezip'; levels of 'mst' have none", levels=8, signs="all")
    torch.save(mst.state_dict(), path)
    refused("signs is of family 'spikezip'", levels=8, signs="all", arch="swin_tiny")


def test_a_file_with_an_object_is_refused_and_converted_without_running_it(tmp_path, capsys):
    net, path, new = network("mst", activation="qcfs"), tmp_path / "m.pth", tmp_path / "new.pth"
    torch.save({"model": as_mst(net), "config": Config(), "epoch": 3, "list": [1, Config()]}, path)
    with pytest.raises(ValueError, match=r"safe loading refuses.*snnfast extract .*m.pth NEW"):
        snnfast.load_checkpoint(path, levels=8)
    assert main(["extract", str(path), str(new)]) == 0
    assert f"wrote {len(as_mst(net))} tensors" in (told := capsys.readouterr().out) and "left out: config, list[1]" in told
    assert torch.equal(snnfast.load_checkpoint(new, levels=8)(x := images(net)), net(x))
    assert not os.path.exists("/tmp/snnfast-extract-ran")
    assert torch.load(new, weights_only=True)["epoch"] == 3
    torch.save({"config": Config()}, path)
    assert main(["extract", str(path), str(new)]) == 2 and "holds no tensors" in capsys.readouterr().err
    path.write_bytes(b"nothing")
    assert main(["extract", str(path), str(new)]) == 2 and "is not a readable checkpoint" in capsys.readouterr().err
    assert main(["extract", str(tmp_path / "none"), str(new)]) == 2
    assert not os.path.exists("/tmp/snnfast-extract-ran")
    assert torch.load(new, weights_only=True)["epoch"] == 3  # what was there stays where nothing new can be written


class Touch:
    def __reduce__(self):
        return os.system, ("touch /tmp/snnfast-extract-ran",)


def test_formats_that_run_code_are_not_read(tmp_path):
    """Pickles before torch 1.6, where torch.load reads more than one with Python's own pickle; TorchScript; attributes of torch's functions."""
    path, new = tmp_path / "a.pt", tmp_path / "b.pt"
    path.write_bytes(pickle.dumps(Touch(), 2))
    with pytest.raises(ValueError, match="format that torch.save has since torch 1.6"):
        snnfast.extract(path, new)
    torch.save({"w": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match="format that torch.save has since torch 1.6"):
        snnfast.extract(path, new)
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    with pytest.raises(ValueError, match="it is TorchScript, which holds code"):
        snnfast.extract(path, new)
    torch.save({"w": torch.ones(2)}, path)
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    name = next(n for n in parts if n.endswith("data.pkl"))
    parts[name] = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(N}X\x0c\x00\x00\x00__defaults__(X\x01\x00\x00\x00xtstb0" + parts[name][2:]
    with zipfile.ZipFile(path, "w") as file:
        for n, data in parts.items():
            file.writestr(n, data)
    before = torch._utils._rebuild_tensor_v2.__defaults__
    assert snnfast.extract(path, new)[0] == 1
    assert torch._utils._rebuild_tensor_v2.__defaults__ == before and not os.path.exists("/tmp/snnfast-extract-ran")

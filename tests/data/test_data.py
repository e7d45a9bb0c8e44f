"""Data sets in their real form on disk, with the preprocessing of the papers, chosen by name and kept in checkpoints."""

import importlib.util
import pathlib
import pickle
import subprocess
import sys
import warnings

import command
import numpy as np
import pytest
import torch

import snnfast
from snnfast.cli.main import main
from snnfast.data import PREPROCESSING, handwritten, load, preprocessing, preprocessing_of

RAND = dict(scale=(1.0, 1.0), auto_augment="rand-m9-n1-mstd0.4-inc1", re_prob=0.9)


@pytest.fixture
def cifar_folder(tmp_path, monkeypatch):
    """CIFAR-10 as its authors lay it out, 5 images a batch. The real files are known by a checksum, which these cannot have."""
    datasets = pytest.importorskip("torchvision.datasets", reason="torchvision is not installed")
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        batch = {"data": rng.integers(0, 256, (5, 3072), dtype=np.uint8), "labels": list(range(5))}
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(i) for i in range(10)]}))
    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(datasets.cifar, "check_integrity", lambda *args: True)
    return tmp_path


def test_cifar(cifar_folder):
    data = load("cifar10", cifar_folder, cutout=16)
    image, label = data.train[3]
    assert (len(data.train), len(data.test), data.classes) == (25, 5, 10) and image.shape == (3, 32, 32) and label == 3
    raw = torch.from_numpy(data.test.data[2]).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in preprocessing.CIFAR10)
    # torchvision divides by 255 and by std in other steps: two roundings of numbers below 3.
    assert torch.allclose(data.test[2][0], (raw - mean) / std, atol=1e-6)
    assert data.facts["preprocessing"]["mean"] == list(preprocessing.CIFAR10[0])


def test_images_are_moved_by_timm(cifar_folder):
    """RandAugment and random erasing, as recipes of spiking transformers ask for; a seed draws them alike, and the test set stays."""
    pytest.importorskip("timm", reason="timm is not installed")
    whole = dict(scale=(1.0, 1.0), ratio=(1.0, 1.0), hflip=0.0, color_jitter=0.0)
    plain, moved = load("cifar10", cifar_folder, augment=whole), load("cifar10", cifar_folder, augment=RAND)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in preprocessing.CIFAR10)
    expected = (torch.from_numpy(plain.train.data[0]).permute(2, 0, 1) / 255 - mean) / std
    assert torch.allclose(plain.train[0][0], expected, atol=1e-5) and torch.equal(plain.test[2][0], moved.test[2][0])

    def drawn(seed):
        snnfast.data.seed_all(seed)
        return torch.stack([moved.train[i][0] for i in range(8)])

    assert torch.equal(drawn(3), drawn(3)) and not torch.equal(drawn(3), drawn(4))
    assert any(bool((image == 0).all(0).any()) for image in drawn(3))  # erased
    with pytest.raises(ValueError, match="augment is of picture files, and digits has none"):
        load("digits", augment=RAND)
    with pytest.raises(ValueError, match="augment is not what timm.data.create_transform takes: .*unknown"):
        load("cifar10", cifar_folder, augment=dict(unknown=1))
    for wrong, message in (
        (dict(scale=(1,)), "is not what timm.data.create_transform takes: IndexError"),
        (dict(interpolation="none"), "is not what timm.data.create_transform takes: KeyError"),
        (dict(use_prefetcher=True), "must give normalised images"),
        (dict(normalize=False), "must give normalised images"),
    ):
        with pytest.raises(ValueError, match=message):
            load("cifar10", cifar_folder, augment=wrong)
    with pytest.raises(TypeError, match="augment must be a dictionary of keywords"):
        load("cifar10", cifar_folder, augment="rand-m9")


def test_imagefolder(tmp_path):
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    from PIL import Image

    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (300, 260), (200, 30, 30)).save(tmp_path / part / name / "a.png")
    data = load("imagefolder", tmp_path)
    assert data.classes == 2 and data.test[1][0].shape == (3, 224, 224) and data.test[1][1] == 1
    (tmp_path / "val/dog/a.png").unlink()
    with pytest.raises(ValueError, match="Found no valid file for the classes dog"):
        load("imagefolder", tmp_path)


def test_pictures_that_cannot_be_used_are_told_by_name(tmp_path, monkeypatch):
    """More pixels than Pillow allows, which is an error of its own; a strip that would be gigabytes when resized; half a file."""
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    from PIL import Image

    (tmp_path / "val/cat").mkdir(parents=True)
    path = tmp_path / "val/cat/a.png"

    def refused(message):
        with pytest.raises(ValueError, match=f"a.png.*{message}"):
            load("imagefolder", tmp_path, train=False).test[0]

    Image.new("RGB", (1, 9000)).save(path)
    refused("1 x 9000: its sides differ by more than 100 times")
    Image.new("RGB", (300, 300)).save(path)
    whole = path.read_bytes()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    refused("exceeds limit of 2000 pixels")
    monkeypatch.undo()
    path.write_bytes(whole[:100])
    refused("cannot be read")


def test_a_table_that_points_elsewhere(tiny_folder):
    table = tiny_folder / "val/val_annotations.txt"
    table.write_text("../../wnids.txt\tn01\t0\t0\t62\t62\n")
    with pytest.raises(ValueError, match="'../../wnids.txt' is not the name of a file in"):
        load("tiny-imagenet", tiny_folder)
    table.write_bytes(b"val_0.JPEG\tn\xff1\t0\t0\t62\t62\n")
    with pytest.raises(ValueError, match="val_annotations.txt is no text in UTF-8: byte 12 is 0xff"):
        load("tiny-imagenet", tiny_folder)


@pytest.fixture
def tiny_folder(tmp_path):
    """Three classes of Tiny-ImageNet as it is handed out; validation images in one folder, classes in a table."""
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    from PIL import Image

    root, rng = tmp_path / "tiny-imagenet-200", np.random.default_rng(0)
    wnids = ["n02", "n01", "n03"]
    (root / "val/images").mkdir(parents=True)
    (root / "wnids.txt").write_text("\n".join(wnids) + "\n")
    for wnid in wnids:
        (root / "train" / wnid / "images").mkdir(parents=True)
        for i in range(2):
            Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(root / "train" / wnid / "images" / f"{wnid}_{i}.JPEG")
    table = []
    for i, wnid in enumerate(["n03", "n01", "n02", "n03"]):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(root / "val/images" / f"val_{i}.JPEG")
        table.append(f"val_{i}.JPEG\t{wnid}\t0\t0\t62\t62")
    (root / "val/val_annotations.txt").write_text("\n".join(table) + "\n")
    return root


def test_tiny_imagenet(tiny_folder):
    from PIL import Image

    data = load("tiny-imagenet", tiny_folder)
    assert (len(data.train), len(data.test), data.classes, data.image_size) == (6, 4, 3, 64)
    assert [data.test[i][1] for i in range(4)] == [2, 0, 1, 2]
    raw = torch.from_numpy(np.array(Image.open(tiny_folder / "val/images/val_1.JPEG"))).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in preprocessing.TINY_IMAGENET)
    assert torch.allclose(data.test[1][0], (raw - mean) / std, atol=1e-6)  # two roundings of numbers below 3
    assert data.train[0][0].shape == (3, 64, 64) and data.facts["preprocessing"]["name"] == "tiny-imagenet"
    above = load("tiny-imagenet", tiny_folder.parent)  # the folder that holds it will do
    assert len(above.test) == 4


def test_a_test_set_needs_no_training_set(tiny_folder):
    import shutil

    shutil.rmtree(tiny_folder / "train")
    assert load("tiny-imagenet", tiny_folder, train=False).train is None
    with pytest.raises(ValueError, match="has no folder train/"):
        load("tiny-imagenet", tiny_folder)
    for gone, message in (("val/val_annotations.txt", "has no val/val_annotations.txt"), ("wnids.txt", "has no wnids.txt")):
        text = (tiny_folder / gone).read_text()
        (tiny_folder / gone).unlink()
        with pytest.raises(ValueError, match=message):
            load("tiny-imagenet", tiny_folder, train=False)
        (tiny_folder / gone).write_text("")
        with pytest.raises(ValueError, match="names no images|is none of the 0 of this data set"):
            load("tiny-imagenet", tiny_folder, train=False)
        (tiny_folder / gone).write_text(text)


def test_preprocessing_by_name():
    assert preprocessing_of(None, "imagenet") == dict(name="imagenet", **PREPROCESSING["imagenet"])
    assert preprocessing_of("half", "imagenet") == dict(name="half", mean=[0.5] * 3, std=[0.5] * 3, resize=256, crop=224)
    assert preprocessing_of("half", "cifar10") == dict(name="half", mean=[0.5] * 3, std=[0.5] * 3)
    kept = dict(mean=[0.1] * 3, std=[0.2] * 3)  # a checkpoint of an earlier version
    assert preprocessing_of(kept, "imagenet") == dict(name="own", resize=256, crop=224, **kept)
    with pytest.raises(ValueError, match="preprocessing must be one of 'cifar10', 'cifar100'"):
        preprocessing_of("mine", "cifar10")
    with pytest.raises(ValueError, match="or a dictionary with mean and std, got"):
        preprocessing_of({"mean": [0.0]}, "cifar10")


def test_eval_uses_the_preprocessing_of_the_checkpoint(tiny_folder, tmp_path):
    """Trained with other means: the images are prepared with those, unless another preprocessing is asked for."""
    torch.manual_seed(0)
    net = snnfast.models.vgg11(width=0.0625, image_size=64, num_classes=3, theta=0.5)
    for _ in range(2):
        net.train()(torch.randn(8, 3, 64, 64))
    own = dict(name="own", mean=[0.2, 0.3, 0.4], std=[0.5, 0.6, 0.7])
    snnfast.save_checkpoint(tmp_path / "net.pt", net.eval(), data="tiny-imagenet", image_size=64, preprocessing=own)
    base = ["eval", str(tmp_path / "net.pt"), "--data-dir", str(tiny_folder), "--T", "4"]
    assert main([*base, "--out", str(tmp_path / "a")]) == 0
    assert main([*base, "--preprocessing", "none", "--out", str(tmp_path / "b")]) == 0
    a, b = command.report(tmp_path / "a"), command.report(tmp_path / "b")
    assert a["facts"]["preprocessing"] == own and b["facts"]["preprocessing"]["name"] == "none" and a["images"] == 4
    test = load("tiny-imagenet", tiny_folder, preprocessing=own, train=False).test
    x, y = torch.stack([t for t, _ in test]), torch.tensor([y for _, y in test])
    expected = snnfast.evaluate(snnfast.convert(net), [(x, y)], T=4, ann=net)
    assert a["accuracy"] == expected.accuracy
    # Batches of another size may be summed in another order by a library: 1e-4 of the loss.
    assert a["loss"] == pytest.approx(expected.loss, rel=1e-4) and a["loss"] != pytest.approx(b["loss"], rel=1e-3)


def test_a_network_of_another_number_of_classes(tiny_folder, tmp_path, capsys):
    snnfast.save_checkpoint(tmp_path / "net.pt", snnfast.models.vgg11(width=0.0625, image_size=64), data="tiny-imagenet")
    assert main(["eval", str(tmp_path / "net.pt"), "--data-dir", str(tiny_folder), "--out", str(tmp_path / "e")]) == 2
    assert "tiny-imagenet has 3 classes, but the network in" in capsys.readouterr().err and not (tmp_path / "e").exists()


def test_bad_data(tmp_path):
    for given, message in (
        (("mnist",), "data must be one of 'digits', 'cifar10'"),
        (("cifar10",), "data 'cifar10' needs a folder"),
        (("cifar10", tmp_path / "none"), "data folder .*none is not there"),
        (("cifar10", tmp_path), "does not hold cifar10 as torchvision lays it out"),
        (("imagefolder", tmp_path), "has no folder train/"),
    ):
        with pytest.raises(ValueError, match=message):
            load(*given)


def test_pictures_of_16_bits_are_not_white(tmp_path):
    """Grey values are scaled: Pillow's own conversion cuts them off at 255."""
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    from PIL import Image

    (tmp_path / "val" / "a").mkdir(parents=True)
    values = np.tile(np.linspace(0, 65535, 8, dtype=np.uint16), (8, 1))
    Image.fromarray(values).save(tmp_path / "val" / "a" / "0.png")
    plain = dict(mean=[0.0] * 3, std=[1.0] * 3, resize=8, crop=8)
    image, _ = load("imagefolder", tmp_path, preprocessing=plain, train=False).test[0]
    assert torch.allclose(image, torch.linspace(0, 1, 8).expand(3, 8, 8), atol=1 / 255)  # a level of 8 bits


@pytest.mark.parametrize("white", [1.0, 255.0])
def test_pictures_of_floating_numbers(white, tmp_path):
    """Shares of white, or values of 8 bits; anything else is refused with the name of the file."""
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    from PIL import Image

    from snnfast.data.folders import opened

    Image.fromarray(np.tile(np.linspace(0, white, 8, dtype=np.float32), (8, 1))).save(tmp_path / "0.tiff")
    assert np.array_equal(np.asarray(opened(str(tmp_path / "0.tiff")))[0, :, 0], np.round(np.linspace(0, 255, 8)))
    Image.fromarray(np.full((4, 4), 2 * 255, np.float32)).save(tmp_path / "1.tiff")
    with pytest.raises(ValueError, match="1.tiff has grey values from 510 to 510"):
        opened(str(tmp_path / "1.tiff"))


def test_the_order_of_numbered_class_folders_is_told(tmp_path):
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    from PIL import Image

    for many, told in ((3, False), (12, True)):
        for k in range(many):
            folder = tmp_path / str(many) / "val" / str(k)
            folder.mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(folder / "0.png")
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            load("imagefolder", tmp_path / str(many), preprocessing=dict(mean=[0.0] * 3, std=[1.0] * 3, resize=8, crop=8), train=False)
        assert [str(w.message) for w in said if "order of text" in str(w.message)] == [
            f"the class folders of {tmp_path / str(many) / 'val'} are in the order of text, as torchvision has them: "
            "0, 1, 10, 11, 2, 3 ... are 0, 1, 2 ..."
        ] * told


DECLARED = """
import torch
own = torch.library.Library("torchvision", "FRAGMENT")
for name in ("nms", "qnms") if torch.version.cuda is None else ():
    own.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from snnfast.data import declare_operators
declare_operators()
import torchvision
"""


def test_operators_that_another_program_declared():
    """It may have had the same thought; a second declaration would be an error."""
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    run = subprocess.run([sys.executable, "-c", DECLARED], capture_output=True, text=True, env=command.ENV)
    assert run.returncode == 0, run.stderr[-1000:]


def test_digits_are_split_as_scikit_learn_splits_them():
    load_digits = pytest.importorskip("sklearn.datasets").load_digits
    split = pytest.importorskip("sklearn.model_selection").train_test_split
    images, labels = handwritten._read()
    bunch = load_digits()
    assert np.array_equal(images, bunch.images) and np.array_equal(labels, bunch.target)
    uneven = np.repeat([3, 5, 9], [7, 40, 11])
    for classes, test_size, seed in ((labels, 360, 0), (labels, 297, 3), (uneven, 13, 0), (uneven, 29, 7)):
        theirs = split(np.arange(len(classes)), test_size=test_size, random_state=seed, stratify=classes)
        assert all(map(np.array_equal, handwritten.stratified(classes, test_size, seed), theirs)), (test_size, seed)


def test_digits_are_read_wherever_their_file_is(monkeypatch):
    pytest.importorskip("sklearn.datasets")
    expected = handwritten._read()
    monkeypatch.setattr(handwritten, "Path", lambda *_: pathlib.Path("/nowhere"))
    assert all(map(np.array_equal, handwritten._read(), expected))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="sklearn"):
        handwritten._read()
    monkeypatch.undo()
    with pytest.raises(ValueError, match="test_size must be below 1797, the number of digits, got 1797"):
        snnfast.data.digits(test_size=1797)

"""Every Python block of docs/ runs, block after block, as a reader would paste them.

What a reader brings (his network, his images, his files) is made here, small. What takes days or gigabytes is made small too: every such change
names a text that must stand on its page.
"""

import contextlib
import io
import re
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from authors_files import as_mst, as_spikezip

import snnfast

ROOT = Path(__file__).parents[2]
PAGES = sorted(page.name for page in (ROOT / "docs").glob("*.md"))
ALONE = ("concepts.md", "recipes.md")  # whose first blocks make all that the later ones take
# {page: {a text on it: the same, small}}
SMALLER = {
    "networks.md": {
        "epochs=300": "epochs=1",
        "epochs=100": "epochs=1",
        "T=1024": "T=32",
        "[32, 1024]": "[8, 32]",
        "T=64": "T=32",
        'answer.onnx", T=8': 'answer.onnx", T=2',
        'pth", levels=4': 'pth", width=0.0625, levels=4',
        "vgg16(num_classes": "vgg16(width=0.0625, num_classes",
        '"regnetx_002", pretrained=True': '"regnetx_002"',
        '"vit_tiny_patch16_224", pretrained=True': '"vit_tiny_patch16_224", img_size=32, depth=1, embed_dim=48',
        "fcn_resnet50(), calibrate=images": "fcn_resnet50(weights=None, weights_backbone=None, num_classes=4), calibrate=images[:2]",
        "depth=4, dim=384, heads=12": "depth=1, dim=32, heads=4",
        "heads=12, T=4": "heads=4, T=4",
        'weights="DEFAULT"': "weights=None",
        "vit_tiny(image_size=32, patch_size=4)": "vit_tiny(image_size=32, patch_size=4, depth=1, num_classes=1000)",
    },
    "zoo.md": {'"regnety_002", pretrained=True': '"test_resnet"'},
    "recipes.md": {"(100, 3, 32, 32)": "(20, 3, 32, 32)", "(10, (100,))": "(10, (20,))", "levels=64": "levels=8", "T=128": "T=32"},
}


class Pair(torch.nn.Module):
    """A network of two inputs."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.head = torch.nn.Linear(8, 16), torch.nn.Linear(8, 16), torch.nn.Linear(16, 4)

    def forward(self, left, right):
        return self.head(torch.relu(self.left(left) + self.right(right)))


class Boxes(torch.nn.Module):
    """A network that answers with a list in a dictionary."""

    def __init__(self):
        super().__init__()
        self.body, self.head = torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 4, 1)

    def forward(self, x):
        y = torch.relu(self.body(x))
        return {"boxes": [y, self.head(y)]}


def small():
    torch.manual_seed(0)
    of = torch.nn
    return of.Sequential(
        of.Conv2d(3, 8, 3, stride=2), of.BatchNorm2d(8), of.ReLU(), of.AvgPool2d(5), of.Flatten(), of.Linear(72, 10)
    ).eval()


def a_vit(**sizes):
    return timm.create_model("vit_tiny_patch16_224", **sizes)


def spikformer():
    torch.save(snnfast.models.spikformer_cifar(depth=1, dim=32, heads=4).state_dict(), "net.pth")
    return {}


def files_of_authors():
    models = snnfast.models
    mst = models.swin_tiny(
        image_size=16, patch_size=2, dim=12, depths=(2, 1), heads=(2, 4), window=4, wiring="mst", norm="bn", activation="qcfs"
    )
    vit = models.vit_tiny(image_size=32, patch_size=8, dim=64, depth=1, heads=1, placement="spikezip", activation="lsq", levels=16)
    torch.save(models.vgg16(width=0.0625, activation="qcfs").state_dict(), "vgg16.pth")
    torch.save(models.vgg16(width=0.0625, activation="cs-qcfs").state_dict(), "cs.pth")
    torch.save(as_mst(mst), "mst.pth")
    torch.save(as_spikezip(vit), "vit.pth")
    return {}


def own_neuron():
    """The rule of docs/ops.md in a file, as its text says."""
    Path("lif.py").write_text(next(block for block in blocks("ops.md") if "class Rule" in block))
    return dict(x=torch.randn(8, 4, 5), theta=torch.tensor(1.0))


def pictures(many):
    return torch.utils.data.TensorDataset(torch.rand(many, 3, 32, 32), torch.arange(many) % 10)


def batches():
    return torch.utils.data.DataLoader(pictures(16), batch_size=8)


def operators():
    """The arguments of the functions of docs/ops.md."""
    bn, conv, fc = torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 3, 3), torch.nn.Linear(6, 5)
    x, theta, s = torch.randn(8, 2, 4, 6, 6), torch.tensor(1.0), torch.randint(2, (8, 2, 4, 6, 6)).float()
    return dict(x=x, s=s, theta=theta, lam=theta, levels=4, tau=2.0, w=theta, rho=4, bn=bn, conv=conv, fc=fc)


def over_time():
    return dict(module=torch.nn.Sequential(torch.nn.Linear(16, 8), snnfast.nn.LIF()), x=torch.randn(8, 4, 16))


# {a text that one block of a page holds: what is set before that block}
BROUGHT = {
    "networks.md": {
        "train_loader": lambda: dict(test_set=pictures(8), train_loader=batches()),
        "JoinedInputs": lambda: dict(net=Pair().eval(), left=torch.randn(4, 8), right=torch.randn(4, 8)),
        'read="boxes.1"': lambda: dict(net=Boxes().eval()),
        "to_quantised": lambda: dict(loader=batches()),
        "print(snn.choice)": lambda: dict(net=small()),
        "spikformer_cifar": lambda: spikformer() | dict(test=pictures(8)),
        "backward_through_time": over_time,
        "timm_model": lambda: dict(x=torch.rand(2, 3, 32, 32), timm_model=a_vit(img_size=32, patch_size=4, depth=1)),
        "vgg16.pth": files_of_authors,
        '"snn.pt"': lambda: dict(net=small(), snn=snnfast.convert(small(), calibrate=torch.rand(4, 3, 32, 32))),
        "export_onnx": lambda: dict(net=snnfast.models.vgg11(width=0.0625).eval()),
        "accelerate": lambda: dict(model=torch.nn.Sequential(torch.nn.Linear(8, 4), snnfast.nn.LIF())),
    },
    "gallery.md": {"convert": lambda: dict(net=small())},
    "ops.md": {
        "v = v0 * theta": lambda: dict(v0=0.5, T=8, x=torch.randn(8, 4), theta=1.0, s=torch.zeros(8, 4)),
        "cs_qcfs": operators,
        "import lif": lambda: own_neuron() | dict(net=snnfast.models.vgg11(width=0.0625)),
    },
}  # fmt: skip


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / page).read_text(), re.S | re.M)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)])
def test_every_block_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    found, text = blocks(page), (ROOT / "docs" / page).read_text()
    smaller, brought = SMALLER.get(page, {}), BROUGHT.get(page, {})
    absent = [old for old in smaller if old not in text]
    assert not absent, absent
    absent = [key for key in brought if not any(key in block for block in found)]
    assert not absent, absent
    torch.manual_seed(0)
    images, labels = torch.rand(4, 3, 32, 32), torch.arange(4)
    scope = (
        {}
        if page in ALONE
        else dict(torch=torch, torchvision=torchvision, timm=timm, snnfast=snnfast, images=images, labels=labels, x=images[:2])
    )
    for i, block in enumerate(found):
        for key, make in brought.items():
            if key in block and not any(key in earlier for earlier in found[:i]):
                scope |= make()
        for old, new in smaller.items():
            block = block.replace(old, new)
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(block, f"{page}, block {i + 1}", "exec"), scope)

"""Networks that give dictionaries, lists, tuples and maps: each output is read out by itself."""

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import snnfast

T = 512


class UNet(nn.Module):
    """Two scales, a skip; gives a map of classes."""

    def __init__(self, channels=8, classes=3):
        super().__init__()
        self.down, self.inner = nn.Conv2d(3, channels, 3, padding=1), nn.Conv2d(channels, 2 * channels, 3, padding=1)
        self.norm, self.up = nn.BatchNorm2d(2 * channels), nn.ConvTranspose2d(2 * channels, channels, 2, stride=2)
        self.outer, self.head = nn.Conv2d(2 * channels, channels, 3, padding=1), nn.Conv2d(channels, classes, 1)

    def forward(self, x):
        skip = F.relu(self.down(x))
        h = self.up(F.relu(self.norm(self.inner(F.max_pool2d(skip, 2)))))
        return self.head(F.relu(self.outer(torch.cat([skip, h], 1))))


class Detector(nn.Module):
    """Two scales, each with boxes and classes as a YOLO's head gives them; and a number for the whole image."""

    def __init__(self):
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 12, 3, 2, 1)
        self.heads = nn.ModuleList([nn.Conv2d(8, 2 * 7, 1), nn.Conv2d(12, 2 * 7, 1)])
        self.many = nn.Linear(12, 1)

    def forward(self, x):
        a = F.relu(self.stem(x))
        b = F.relu(self.deep(a))
        maps = [head(h).unflatten(1, (2, 7)).permute(0, 1, 3, 4, 2) for head, h in zip(self.heads, (a, b))]
        return OrderedDict(boxes=[m[..., :4] for m in maps], scores=tuple(m[..., 4:] for m in maps), many=self.many(b.mean((2, 3)))[:, 0])


def pictures(many=4, size=16):
    return torch.rand(many, 3, size, size)


def near(found, wanted, limit=0.02):
    """Relative difference of two outputs."""
    off = float((found - wanted.detach()).norm() / wanted.detach().norm())
    assert off < limit, off


@pytest.mark.parametrize("mode", ("per_step", "differential"))
def test_dense_outputs_of_a_u_net(mode):
    net, x = UNet().eval(), pictures()
    snn = snnfast.convert(net, calibrate=x, percentile=100.0, mode=mode, levels=256) if mode == "differential" else snnfast.convert(
        net, calibrate=x, percentile=100.0
    )  # fmt: skip
    y = snn(x, T=T)
    assert y.shape == (4, 3, 16, 16) and snn.outputs is None
    near(y, net(x))


def test_each_output_of_a_detector_comes_in_its_place():
    net, x = Detector().eval(), pictures()
    snn = snnfast.convert(net, calibrate=x, percentile=100.0)
    assert snn.outputs.names == ["boxes.0", "boxes.1", "scores.0", "scores.1", "many"]
    y, wanted = snn(x, T=T), net(x)
    assert list(y) == list(wanted) and isinstance(y["scores"], tuple) and isinstance(y["boxes"], list)
    for found, of in ((y["boxes"][0], wanted["boxes"][0]), (y["scores"][1], wanted["scores"][1]), (y["many"], wanted["many"])):
        assert found.shape == of.shape
        near(found, of, 0.03)
    over_time = snn.logits(x, T=8, at=[2, 8])
    assert over_time["boxes"][1].shape == (2, *wanted["boxes"][1].shape)
    steps = list(snn.chunks(x, T=8, chunk=4))
    assert [len(s["many"]) for s in steps] == [4, 4]
    mean = torch.cat([s["many"] for s in steps]).double().mean(0).float()
    assert torch.allclose(mean, over_time["many"][1], atol=1e-6)


def test_one_of_several_is_read():
    """And what it alone needs is computed: no layer of the other heads is left."""
    net, x = Detector().eval(), pictures()
    snn = snnfast.convert(net, calibrate=x, percentile=100.0, read="boxes.0")
    assert not [name for name, _ in snn.gm.named_modules() if name in ("deep", "heads.1", "many")]
    whole = snnfast.convert(net, calibrate=x, percentile=100.0)
    assert torch.equal(snn(x, T=8), whole(x, T=8)["boxes"][0])


class Two(nn.Module):
    def __init__(self, key=None):
        super().__init__()
        self.first, self.a, self.b, self.key = nn.Linear(6, 16), nn.Linear(16, 3), nn.Linear(16, 5), key

    def forward(self, x):
        h = F.relu(self.first(x))
        return {"out": self.a(h), "aux": self.b(h)} if self.key is None else {self.key: self.a(h)}


def test_accuracy_is_of_one_output():
    """And the ANN's is of the same; a dictionary of one needs no name."""
    x, y = torch.randn(40, 6), torch.randint(3, (40,))
    loader = [(x, y)]
    with pytest.raises(
        ValueError, match="an accuracy needs one output, and net gives out, aux: convert it with read= .--read. one of them"
    ):
        snnfast.evaluate(snnfast.convert(Two(), calibrate=x), loader, T=4)
    for net, read in ((Two(), "out"), (Two("logits"), None)):
        report = snnfast.evaluate(snnfast.convert(net, calibrate=x, read=read), loader, T=64, ann=net)
        out = net(x)["out" if read else "logits"]
        assert report.ann == 100 * int((out.argmax(1) == y).sum()) / 40
        assert report.distance[-1] < report.distance[0]


def test_a_dictionary_of_one_is_given_as_one():
    x = torch.randn(4, 6)
    snn = snnfast.convert(Two("logits"), calibrate=x)
    assert list(snn(x, T=4)) == ["logits"] and snn(x, T=4)["logits"].shape == (4, 3)


@pytest.mark.parametrize("read", (None, "boxes.1"))
def test_several_outputs_in_a_file(tmp_path, read):
    x = pictures(2)
    snn = snnfast.convert(Detector(), calibrate=x, read=read)
    snnfast.save_checkpoint(tmp_path / "snn.pt", snn)
    again = snnfast.load_checkpoint(tmp_path / "snn.pt")
    found, wanted = (torch.utils._pytree.tree_flatten(net(x, T=8)) for net in (again, snn))
    assert found[1] == wanted[1] and all(map(torch.equal, found[0], wanted[0]))


class Odd(nn.Module):
    def __init__(self, give):
        super().__init__()
        self.layer, self.give = nn.Linear(4, 4), give

    def forward(self, x):
        y = F.relu(self.layer(x))
        return {"number": (y, 3), "constant": (y, torch.ones(3)), "rows": (y, y.sum(0)), "none": (y, None)}[self.give]


@pytest.mark.parametrize("give, message", (
    ("number", "output 1 of net is no tensor; read= names the one"), ("constant", "output 1 of net does not depend on its input; read="),
    ("rows", "sum .* images"), ("none", "output 1 of net is no tensor; read="),
))  # fmt: skip
def test_what_is_no_output_of_images_is_refused_by_name(give, message):
    x = torch.randn(3, 4)
    with pytest.raises(ValueError, match=message):
        snnfast.convert(Odd(give), calibrate=x)
    if give != "rows":
        assert snnfast.convert(Odd(give), calibrate=x, read="0")(x, T=4).shape == (3, 4)


def test_a_wrong_name_is_refused():
    with pytest.raises(ValueError, match="read must be one of out, aux, the outputs of net, got 'logits'"):
        snnfast.convert(Two(), calibrate=torch.randn(3, 6), read="logits")
    with pytest.raises(TypeError, match="read must be the name of an output, a str such as 'out' or '0', got int"):
        snnfast.convert(Two(), calibrate=torch.randn(3, 6), read=0)


class Named(nn.Module):
    def __init__(self, keys):
        super().__init__()
        self.layer, self.keys = nn.Linear(4, 4), keys

    def forward(self, x):
        y = F.relu(self.layer(x))
        first, second = self.keys
        return {first: y, second: {"b": 2 * y} if second == "a" else 2 * y}


def test_outputs_of_one_name_are_refused():
    """Else one would be given for the other."""
    for keys in (("a.b", "a"), (1, "1")):
        with pytest.raises(ValueError, match=f"net gives two outputs under the name '{keys[0]}'"):
            snnfast.convert(Named(keys), calibrate=torch.randn(3, 4))


def test_numbers_as_keys_stay_numbers(tmp_path):
    x = torch.randn(3, 4)
    snn = snnfast.convert(Named((0, 1)), calibrate=x)
    snnfast.save_checkpoint(tmp_path / "snn.pt", snn)
    for net in (snn, snnfast.load_checkpoint(tmp_path / "snn.pt")):
        y = net(x, T=4)
        assert list(y) == [0, 1] and torch.equal(y[1], 2 * y[0])

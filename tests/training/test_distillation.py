"""Learning from a teacher: losses by their definitions, on the command line, resumed without a difference."""

import dataclasses
import json

import pytest
import torch
from test_train import small_data
from torch.nn import functional as F

import snnfast
from snnfast.cli.main import main
from snnfast.training import loop
from snnfast.training.distillation import Teacher
from snnfast.training.losses import Loss

NET = loop.Settings("resnet20", "digits", "s-qcfs", 4, 2.0, (1,), (0.05,), 32, width=0.125)
SDT = dict(dims=(16, 32, 32, 32), depths=(1, 1), heads=4, in_channels=1, num_classes=10, T=2)


@pytest.fixture(scope="module")
def data():
    return small_data()


@pytest.fixture(scope="module")
def teacher(data):
    torch.manual_seed(5)
    net = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(1024, 32), torch.nn.ReLU(), torch.nn.Dropout(0.5), torch.nn.Linear(32, 10)
    )
    images = torch.utils.data.DataLoader(data.train, 32, shuffle=True)
    snnfast.training.fit(net, images, epochs=10, lr=0.02)
    return net


class Both(torch.nn.Module):
    """A network of two last layers: its answers are x [2, B, C], in evaluation their mean."""

    config = dict(kd=True)

    def forward(self, x):
        return tuple(x) if self.training else x.mean(0)


def test_losses_are_their_definitions():
    torch.manual_seed(0)
    x, y, w = torch.randn(4, 6).double(), torch.tensor([1, 0, 4, 4]), torch.randn(6, 5).double()
    of_teacher = torch.nn.Linear(6, 5).double()
    net = lambda x: x @ w
    z, z_t, labels = x @ w, of_teacher(x), F.cross_entropy(x @ w, y)
    for tau, share in ((1.0, 0.5), (3.0, 0.25), (2.0, 1.0)):
        p, q = (z_t / tau).softmax(1), (z / tau).softmax(1)
        expected = (1 - share) * labels + share * tau**2 * (p * (p / q).log()).sum(1).mean()
        loss, logits = Loss(5, teacher=Teacher(of_teacher, share, tau))(net, x, y)
        assert torch.allclose(loss, expected, rtol=1e-12) and torch.equal(logits, z)
    loss, _ = Loss(5, teacher=Teacher(of_teacher, 0.25, hard=True))(net, x, y)
    assert torch.allclose(loss, 0.75 * labels + 0.25 * F.cross_entropy(z, z_t.argmax(1)), rtol=1e-12)
    steps = torch.randn(3, 4, 5).double()
    timed = type("Timed", (torch.nn.Module,), dict(T=3, logits=lambda self, x: steps))()
    loss, logits = Loss(5, tet=0.0, teacher=Teacher(of_teacher, 0.5))(timed, x, y)
    tet, _ = Loss(5, tet=0.0)(timed, x, y)
    assert torch.allclose(loss, 0.5 * tet + 0.5 * Teacher(of_teacher).loss(x, steps.mean(0))) and torch.equal(logits, steps.mean(0))


def test_a_second_last_layer_learns_from_the_teacher():
    torch.manual_seed(0)
    both, y, z_t = torch.randn(2, 4, 5).double().requires_grad_(), torch.tensor([1, 0, 4, 4]), torch.randn(4, 5).double()
    of = torch.nn.Module()
    of.forward = lambda x: z_t
    loss, logits = Loss(5, teacher=Teacher(of, 0.5, hard=True))(Both().train(), both, y)
    assert torch.equal(logits, both[0])
    assert torch.allclose(loss, 0.5 * F.cross_entropy(both[0], y) + 0.5 * F.cross_entropy(both[1], z_t.argmax(1)))


def test_a_teacher_is_not_changed_and_makes_a_difference(data, teacher, tmp_path):
    before = {name: t.clone() for name, t in teacher.state_dict().items()}
    named = dataclasses.replace(NET, teacher="mine", distil=0.9, temperature=2.0)
    net = loop.train(named, data, tmp_path / "a", teacher=teacher)
    alone = loop.train(NET, data, tmp_path / "b")
    again = loop.train(named, data, tmp_path / "c", teacher=teacher)
    assert all(torch.equal(t, before[name]) for name, t in teacher.state_dict().items()) and all(
        p.requires_grad for p in teacher.parameters()
    )
    weight = lambda net: net.conv1[0].weight
    assert torch.equal(weight(net), weight(again)) and not torch.equal(weight(net), weight(alone))


def test_a_spike_driven_transformer_with_two_heads_learns(data, teacher, tmp_path):
    settings = loop.Settings("sdt_v2", "digits", "spiking", 1, 1.0, (2,), (2e-3,), 32, optimiser="adamw", options=SDT | dict(kd=True),
                             teacher="mine", hard=True)  # fmt: skip
    settings = dataclasses.replace(settings, options={k: v for k, v in settings.options.items() if k not in ("in_channels", "num_classes")})
    net = loop.train(settings, data, tmp_path, teacher=teacher)
    first = snnfast.models.sdt_v2(**SDT, kd=True)
    assert not torch.equal(net.head_kd.weight, first.head_kd.weight)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert losses[1] < losses[0]
    assert loop.train(settings, data, tmp_path / "planned", teacher=teacher, memory="8GiB") is not None


@pytest.mark.parametrize(
    "given, how, message",
    [
        (dict(teacher="x"), "none", "teacher is the network that settings.teacher names; got 'x' and NoneType"),
        (dict(), "net", "teacher is the network that settings.teacher names; got '' and Sequential"),
        (dict(teacher="x", distil=1.5), "net", r"distil must be in \[0, 1\], got 1.5"),
        (dict(teacher="x", temperature=0.0), "net", "temperature must be > 0, got 0.0"),
        (dict(teacher="x", temperature=2.0, hard=True), "net", "temperature is of soft answers"),
        (dict(teacher="x"), "wrong", r"teacher must give logits \[1, 10\] for an image, the classes of the data; it gives \[1, 7\]"),
        (dict(teacher="x"), "callable", "teacher must be a torch.nn.Module, got function"),
    ],
)
def test_what_is_refused(data, teacher, tmp_path, given, how, message):
    wrong = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1024, 7))
    of = {"none": None, "net": teacher, "wrong": wrong, "callable": lambda x: x}[how]
    with pytest.raises((ValueError, TypeError), match=message):
        loop.train(dataclasses.replace(NET, **given), data, tmp_path / "a", teacher=of)
    assert not (tmp_path / "a").exists()


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    snnfast.save_checkpoint("t.pt", snnfast.models.vgg11(width=0.0625, in_channels=1, image_size=32), data="digits")
    snnfast.save_checkpoint("snn.pt", snnfast.convert(snnfast.load_checkpoint("t.pt")))
    (tmp_path / "teachers.py").write_text("import snnfast\ndef trained():\n    return snnfast.load_checkpoint('t.pt')\n")
    line = "train --arch resnet20 --width 0.125 --epochs 1 --stages 1 --T 2 --temperature 2 --distil 0.3 --teacher".split()
    assert main([*line, "t.pt", "--out", "a"]) == 0 and main([*line, "teachers:trained", "--out", "b"]) == 0
    first, second = (snnfast.load_checkpoint(f"{name}/model.pt") for name in "ab")
    assert torch.equal(first.conv1[0].weight, second.conv1[0].weight)
    told = first.facts["training"]
    assert len(told["teacher"]) == 64 and (told["distil"], told["temperature"], told["hard"]) == (0.3, 2.0, False)
    for arguments, message in (
        ([*line, "teachers:trained", "--out", "a", "--resume"], "holds another training: teacher was"),
        ([*line, "snn.pt", "--out", "c"], "--teacher snn.pt holds a converted network"),
        ([*line, "none.pt", "--out", "c"], "--teacher none.pt: No such file or directory"),
        ([*line[:-3], "--out", "c"], "--temperature is of learning from a network: give --teacher"),
    ):
        capsys.readouterr()
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert not (tmp_path / "c").exists()

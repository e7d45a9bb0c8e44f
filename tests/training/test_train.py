"""Training in two stages: resumable after a kill, logged, by recipe; the commands."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch.utils.data import Subset

import snnfast
from snnfast.cli.main import main, parser
from snnfast.cli.train import settings_of
from snnfast.data import Cutout, load
from snnfast.training import loop, recipes


def small_data():
    data = load("digits")
    data.train, data.test = Subset(data.train, range(96)), Subset(data.test, range(60))
    return data


SETTINGS = loop.Settings("resnet20", "digits", "s-qcfs", 4, 2.0, (2, 2), (0.05, 0.005), 32, width=0.125)


class Killed(Exception):
    pass


def killed_after(epochs):
    """For `on_epoch`."""
    seen = []

    def until(entry):
        seen.append(entry)
        if len(seen) == epochs:
            raise Killed

    return until


def same_state(a, b):
    return list(a.state_dict()) == list(b.state_dict()) and all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values())
    )


def untimed(path):
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in path.read_text().splitlines()]


def test_a_stopped_training_ends_as_one_that_was_not(tmp_path):
    data = small_data()
    whole = loop.train(SETTINGS, data, tmp_path / "whole")
    for stop in range(1, 4):
        out = tmp_path / f"part{stop}"
        with pytest.raises(Killed):
            loop.train(SETTINGS, data, out, on_epoch=killed_after(stop))
        assert same_state(loop.train(SETTINGS, data, out, resume=True), whole)
        assert untimed(out / "log.jsonl") == untimed(tmp_path / "whole/log.jsonl")
    assert [(e["stage"], e["epoch"]) for e in untimed(out / "log.jsonl")] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert whole.config["activation"] == "cs-qcfs" and whole.config["width"] == 0.125
    loaded = snnfast.load_checkpoint(tmp_path / "whole/model.pt")
    assert same_state(loaded, whole) and loaded.facts["training"]["epochs"] == [2, 2] and loaded.facts["data"] == "digits"
    best = snnfast.load_checkpoint(tmp_path / "whole/best.pt")
    entries = untimed(tmp_path / "whole/log.jsonl")
    assert loop.accuracy(best, data.test, "cpu") == max(e["test_accuracy"] for e in entries if e["stage"] == 2)
    assert list((tmp_path / "whole/tensorboard").glob("events*"))
    # A finished training resumes to its end at once.
    assert same_state(loop.train(SETTINGS, data, tmp_path / "whole", resume=True), whole)


def test_what_belongs_to_another_training_is_refused(tmp_path):
    data = small_data()
    one = dataclasses.replace(SETTINGS, epochs=(1,), lr=(0.05,))
    loop.train(one, data, tmp_path)
    with pytest.raises(ValueError, match="holds a training already: give --resume"):
        loop.train(one, data, tmp_path)
    with pytest.raises(ValueError, match="holds another training: levels was 4, is 8; seed was 0, is 1"):
        loop.train(dataclasses.replace(one, levels=8, seed=1), data, tmp_path, resume=True)


COMMAND = ["train", "--arch", "resnet20", "--data", "digits", "--width", "0.0625", "--epochs", "1", "1", "--batch-size", "256", "--T", "4"]


def run(*arguments, **options):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "snnfast", *map(str, arguments)], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, **options)  # fmt: skip


def test_the_command_killed_and_resumed(tmp_path, request):
    """The real command, killed at moments that a log line names, then resumed: the same weights, the same log."""
    whole = run(*COMMAND, "--out", tmp_path / "whole")
    out, err = whole.communicate(timeout=240)
    assert whole.returncode == 0, err
    assert "T = 4" in out and (tmp_path / "whole/report.json").exists() and (tmp_path / "whole/accuracy.png").exists()
    for lines in (0, 1, 2) if request.config.getoption("--thorough") else (1,):
        process, log = run(*COMMAND, "--out", tmp_path / "part", "--resume"), tmp_path / "part/log.jsonl"
        began = time.monotonic()
        while process.poll() is None and time.monotonic() < began + 120:
            if (tmp_path / "part").exists() and (len(log.read_text().splitlines()) if log.exists() else 0) >= lines:
                time.sleep(0.3)
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    last = run(*COMMAND, "--out", tmp_path / "part", "--resume")
    _, err = last.communicate(timeout=240)
    assert last.returncode == 0, err
    nets = [snnfast.load_checkpoint(tmp_path / name / "model.pt") for name in ("whole", "part")]
    assert same_state(*nets) and untimed(tmp_path / "part/log.jsonl") == untimed(tmp_path / "whole/log.jsonl")


def test_recipes_are_the_published_settings():
    thesis = recipes.recipe("thesis", "vgg16", "cifar10")
    assert (thesis.activation, thesis.epochs, thesis.lr, thesis.weight_decay) == ("s-qcfs", (300, 100), (0.1, 0.01), 5e-4)
    assert recipes.recipe("thesis", "vgg16", "cifar100").lr == (0.05, 0.005)
    assert recipes.recipe("qcfs", "resnet50", "cifar10").lr == pytest.approx((0.01,))
    assert recipes.recipe("srp", "vgg16", "cifar10").cutout == 8 and recipes.recipe("cos", "vgg16", "cifar10").method == "cos"
    assert all(recipes.recipe(n, "vgg16", "cifar10").grad == ("qcfs" if n in ("thesis", "qcfs") else "srp") for n in recipes.NAMES)
    for (name, arch, data, levels), (rows, source) in recipes.PUBLISHED.items():
        assert recipes.recipe(name, arch, data).levels == levels and source and all(0 < a < 100 for a in rows.values())


def test_published_rows_stand_beside_the_own():
    from rich.console import Console

    report = snnfast.Report([1, 2, 4], [50.0, 60.0, 70.0], 10, 1.0, ann=80.0)
    console = Console(record=True, width=100, file=open(os.devnull, "w"))
    console.print(report.table({2: 90.94, 8: 95.01}))
    text = console.export_text()
    assert "published" in text and "90.94" in text and "95.01" not in text


def test_precision_ablations_and_negative_thresholds(tmp_path):
    data = small_data()
    base = dataclasses.replace(SETTINGS, epochs=(1, 1))
    for change in (dict(amp="bf16"), dict(activation="e-qcfs", channel_num=2), dict(activation="qcfs", decay_all=True, grad="srp")):
        out = tmp_path / "-".join(map(str, change.values()))
        net = loop.train(dataclasses.replace(base, **change), data, out)
        wide = [m.threshold().numel() > 1 for m in net.modules() if isinstance(m, snnfast.nn.Quantised)]
        assert sum(wide) == change.get("channel_num", len(wide)) and all(torch.isfinite(p).all() for p in net.parameters())
    run = loop.Training(dataclasses.replace(SETTINGS, activation="qcfs", epochs=(1,), lr=(0.0,)), data, tmp_path, "cpu", 0)
    with torch.no_grad():
        run.net.conv2_x[0].act.thresh.fill_(-0.5)
    assert run.one_epoch()["negative_thresholds"] == 1


def test_settings_of_the_command():
    def settings(*arguments):
        return settings_of(parser().parse_args(["train", "--arch", "resnet20", "--out", "x", *arguments]))[0]

    assert settings("--recipe", "qcfs", "--stages", "2").epochs == (30, 10) and settings("--stages", "1").epochs == (30,)
    assert settings("--recipe", "qcfs", "--stages", "2").lr == (0.05, 0.005) and settings("--epochs", "7", "3").epochs == (7, 3)
    assert settings("--stem", "imagenet").stem == "imagenet"
    with pytest.raises(ValueError, match="--stages 2 needs two numbers of --epochs, got 10"):
        settings("--stages", "2", "--epochs", "10")
    with pytest.raises(ValueError, match="channel_num is of channel-wise thresholds"):
        settings("--stages", "1", "--channel-num", "3").check()
    settings("--stages", "1", "--channel-num", "3", "--activation", "cs-qcfs").check()
    assert recipes.recipe("qcfs", "resnet50", "cifar100").lr == pytest.approx((0.01,))


def test_bad_arguments_are_refused_before_the_training(tmp_path, capsys):
    base = ["train", "--arch", "resnet20", "--width", "0.0625", "--out", str(tmp_path / "x")]
    for wrong, message in (
        (["--T", "0"], "T must be >= 1, got 0"),
        (["--method", "cos", "--T", "2"], "T must be >= rho = 4"),
        (["--channel-num", "-1"], "channel_num must be >= 0"),
        (["--lr", "0.1", "-1"], "lr must be >= 0"),
        (["--lr", "nan"], "lr must be finite"),
        (["--epochs", "1", "1", "7"], "--epochs takes a number for each of one or two stages, got 3"),
    ):
        assert main([*base, *wrong]) == 2
        assert message in capsys.readouterr().err and not (tmp_path / "x").exists()
    assert main(["demo", "--methods", "cos", "--T", "2", "--out", str(tmp_path / "x")]) == 2 and not (tmp_path / "x").exists()


def test_states_that_cannot_be_resumed(tmp_path):
    data, one = small_data(), dataclasses.replace(SETTINGS, epochs=(1,), lr=(0.05,))
    net = loop.train(one, data, tmp_path)
    entry = untimed(tmp_path / "log.jsonl")[-1]
    assert snnfast.load_checkpoint(tmp_path / "model.pt").facts["test_accuracy"] == entry["test_accuracy"]
    with pytest.raises(ValueError, match="is the state of a training of snnfast: its networks are model.pt"):
        snnfast.load_checkpoint(tmp_path / "last.pt")
    snnfast.save_checkpoint(tmp_path / "last.pt", net)
    with pytest.raises(ValueError, match="is not the state of a training: it has no best"):
        loop.train(one, data, tmp_path, resume=True)
    (tmp_path / "last.pt").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match="is not readable, so nothing can be resumed"):
        loop.train(one, data, tmp_path, resume=True)
    with pytest.raises(ValueError, match="the loss is nan in stage 1, epoch 1"):
        bad = small_data()
        bad.augment = lambda x: x * float("nan")
        loop.train(one, bad, tmp_path / "y")


def test_images_of_another_shape(tmp_path, capsys):
    snnfast.save_checkpoint(tmp_path / "m.pt", snnfast.models.resnet20(width=0.0625), data="digits")
    assert main(["eval", str(tmp_path / "m.pt"), "--T", "2"]) == 2
    assert "images of digits have 1 channels, but the network" in capsys.readouterr().err
    snnfast.save_checkpoint(tmp_path / "m.pt", snnfast.models.vgg11(width=0.0625, in_channels=1, image_size=64), data="digits")
    assert main(["eval", str(tmp_path / "m.pt"), "--T", "2"]) == 2
    assert "images of digits have 32 pixels, but the network" in capsys.readouterr().err


def test_channel_num_with_one_stage(tmp_path):
    settings = dataclasses.replace(SETTINGS, activation="cs-qcfs", epochs=(1,), lr=(0.05,), channel_num=3)
    net = loop.train(settings, small_data(), tmp_path)
    assert sum(m.threshold().numel() > 1 for m in net.modules() if isinstance(m, snnfast.nn.Quantised)) == 3


def test_a_log_without_a_state_is_begun_anew(tmp_path):
    """A kill in the first epoch, or between two files: the log tells what the state tells."""
    data, one = small_data(), dataclasses.replace(SETTINGS, epochs=(2,), lr=(0.05,))
    (tmp_path / "log.jsonl").write_text('{"epoch": 1}\n')
    loop.train(one, data, tmp_path, resume=True)
    assert [e["epoch"] for e in untimed(tmp_path / "log.jsonl")] == [1, 2]
    (tmp_path / "log.jsonl").unlink()
    loop.train(one, data, tmp_path, resume=True)
    assert [e["epoch"] for e in untimed(tmp_path / "log.jsonl")] == [1, 2]


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(stem="imagenet", arch="vgg11"), "stem is of the ResNets"),
        (dict(dropout=0.5), "dropout is of the VGGs"),
        (dict(epochs=(2, 2), lr=(0.1,)), "epochs and lr need a number for each of one or two stages"),
        (dict(activation="cs-qcfs"), "two stages start layer-wise"),
        (dict(amp="int8"), "amp must be one of"),
        (dict(batch_size=0), "batch_size must be >= 1"),
        (dict(epochs=(-1, 1)), "epochs must be >= 0"),
    ],
)
def test_bad_settings(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        loop.train(dataclasses.replace(SETTINGS, **change), small_data(), tmp_path)


def test_cutout():
    torch.manual_seed(0)
    sides = set()
    for _ in range(200):
        image = Cutout(8)(torch.ones(3, 32, 32))
        holes = (image[0] == 0).nonzero()
        sides.add(tuple((holes.max(0).values - holes.min(0).values + 1).tolist()))
        assert torch.equal(image[0], image[2])
    assert (8, 8) in sides and max(max(s) for s in sides) == 8 and min(min(s) for s in sides) >= 4


def test_eval_command(tmp_path, capsys):
    net = loop.train(dataclasses.replace(SETTINGS, epochs=(1,), lr=(0.05,)), small_data(), tmp_path)
    arguments = [
        "eval",
        str(tmp_path / "model.pt"),
        "--method",
        "srp",
        "--tau",
        "3",
        "--T",
        "4",
        "--out",
        str(tmp_path / "e"),
        "--statistics",
    ]
    assert main(arguments) == 0
    read = json.loads((tmp_path / "e/report.json").read_text())
    expected = snnfast.evaluate(
        snnfast.convert(net, "srp", tau=3), [tuple(map(torch.stack, zip(*((x, y) for x, y in load("digits").test))))], T=4
    )
    assert read["accuracy"] == expected.accuracy and read["method"]["tau"] == 3 and read["totals"]["SOPs"] > 0
    assert (tmp_path / "e/layers.csv").read_text().startswith("layer,") and (tmp_path / "e/accuracy.png").exists()
    torch.save({"module." + k: v for k, v in net.state_dict().items()}, tmp_path / "theirs.pth")
    assert main(["eval", str(tmp_path / "theirs.pth"), "--T", "2"]) == 2
    assert "give levels=" in capsys.readouterr().err
    assert main(["eval", str(tmp_path / "theirs.pth"), "--levels", "4", "--threshold", "softplus", "--width", "0.125", "--T", "2"]) == 2
    assert "give --data, one of digits" in capsys.readouterr().err
    for wrong, message in (
        (["--rho", "4"], "rho is an option of other methods"),
        (["--at", "99"], "between 1 and T = 64"),
        (["--T", "0"], "T must be >= 1"),
    ):
        assert main(["eval", str(tmp_path / "model.pt"), *wrong]) == 2
        assert message in capsys.readouterr().err
    assert main(["eval", str(tmp_path / "none.pt")]) == 2


@pytest.mark.thorough
def test_demo_with_all_methods(tmp_path):
    from snnfast.cli.demo import demo
    from snnfast.conversion.methods import METHODS

    report = demo(out=tmp_path, T=8, epochs=(1, 1), methods="all")
    read = json.loads((tmp_path / "methods.json").read_text())
    assert tuple(read) == METHODS and all(r["at"] == [1, 2, 4, 8] for r in read.values()) and read["if"]["accuracy"] == report.accuracy
    assert (tmp_path / "methods.png").read_bytes()[:4] == b"\x89PNG" and (tmp_path / "layers.csv").exists()
    assert read["srp"]["method"]["tau"] == 4 and read["cos"]["method"]["rho"] == 4


# ---- networks of one's own


class Own(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.a, self.b, self.relu, self.norm = torch.nn.Conv2d(1, 6, 3), torch.nn.Conv2d(6, 6, 3), torch.nn.ReLU(), torch.nn.BatchNorm2d(6)
        self.drop, self.head = torch.nn.Dropout(0.1), torch.nn.Linear(6, 10)

    def forward(self, x):
        return self.head(self.drop(self.relu(self.norm(self.b(self.relu(self.a(x))))).mean((2, 3))))


OWN = dataclasses.replace(SETTINGS, arch="nets:Own", width=1.0)


def test_a_network_of_ones_own_stopped_and_resumed(tmp_path):
    data, net = small_data(), snnfast.to_quantised(Own(), "s-qcfs", 4, 2.0)
    first = {name: t.clone() for name, t in net.state_dict().items()}
    whole = loop.train(OWN, data, tmp_path / "whole", net=net)
    assert type(whole.relu) is snnfast.nn.CSQCFS and all(torch.equal(t, first[name]) for name, t in net.state_dict().items())
    for stop in (1, 3):
        out = tmp_path / f"part{stop}"
        with pytest.raises(Killed):
            loop.train(OWN, data, out, net=net, on_epoch=killed_after(stop))
        assert same_state(loop.train(OWN, data, out, net=net, resume=True), whole)
    x = data.test[0][0][None]
    assert torch.equal(snnfast.load_weights(Own().eval(), tmp_path / "whole/model.pt")(x), whole(x))
    with pytest.raises(ValueError, match="net is a network of one's own, whose arch is its"):
        loop.train(SETTINGS, data, tmp_path / "x", net=net)
    with pytest.raises(ValueError, match="got arch 'nets:Own'"):
        loop.train(OWN, data, tmp_path / "x")
    assert not (tmp_path / "x").exists()

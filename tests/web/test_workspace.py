"""The workspace of `snnfast web`: nothing outside is reached; passwords; commands that the parser takes."""

import os
import re
import sqlite3
import zipfile

import pytest
import torch

import snnfast
from snnfast.cli.arguments import parser
from snnfast.models import BY_NAME, direct
from snnfast.web import commands, curves, passwords
from snnfast.web import workspace as module
from snnfast.web.commands import Offer
from snnfast.web.guard import OwnPages
from snnfast.web.records import DONE
from snnfast.web.workspace import Workspace

WEIGHTS = b"PK\x03\x04, and what follows"  # as a file of torch.save begins


@pytest.fixture
def workspace(tmp_path):
    made = Workspace(tmp_path / "ws")
    yield made
    made.close()


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "w.pt"
    path.write_bytes(WEIGHTS)
    return path


def test_one_server_at_a_time(workspace):
    with pytest.raises(ValueError, match="is in use: another server holds it"):
        Workspace(workspace.path)
    workspace.close()
    Workspace(workspace.path).close()


@pytest.mark.parametrize(
    "name, own",
    [("net.pt", "net.pt"), ("../../etc/passwd.pt", "passwd.pt"), ("a/b\\c.PTH", "c.pth"), ("..pt", "weights.pt"), ("--out.pt", "out.pt"),
     ("a b;rm -rf ~.ckpt", "a-b-rm--rf.ckpt"), ("ß" * 300 + ".bin", "weights.bin")],
)  # fmt: skip
def test_names_are_no_paths(workspace, weights, name, own):
    if name == "..pt":
        name = ". .pt"
    assert workspace.take(weights, name) == own and (workspace.uploads / own).read_bytes() == WEIGHTS
    assert workspace.take(weights, name) != own  # the same name once more does not replace it
    assert workspace.upload(own) == workspace.uploads / own


def test_files_that_are_refused(workspace, tmp_path, weights):
    with pytest.raises(ValueError, match="a file of weights ends in .pt"):
        workspace.take(weights, "run.py")
    empty = tmp_path / "empty.pt"
    empty.touch()
    with pytest.raises(ValueError, match="this one has 0"):
        workspace.take(empty, "empty.pt")
    text = tmp_path / "text.pt"
    text.write_text("these are no weights")
    with pytest.raises(ValueError, match=r"my\.pt is no file of weights"):
        workspace.take(text, "my.pt")
    assert workspace.files() == []
    for name in ("../runs.sqlite", "/etc/passwd", "nothing.pt", ""):
        with pytest.raises(ValueError, match="there is no file"):
            workspace.upload(name)


def test_half_a_file_is_not_offered(workspace, weights, monkeypatch):
    def fail(file, out):
        out.write(file.read()[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.shutil, "copyfileobj", fail)
    with pytest.raises(OSError, match="No space left"):
        workspace.take(weights, "net.pt")
    assert workspace.files() == [] and not list(workspace.uploads.iterdir())


def test_records_that_cannot_be_opened(tmp_path, monkeypatch):
    """As where the folder may only be read, which root, as whom the tests mostly run, does not notice."""

    def refuse(path):
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr(module, "Records", refuse)
    with pytest.raises(OSError, match="cannot be written: unable to open database file"):
        Workspace(tmp_path / "ws")
    monkeypatch.undo()
    Workspace(tmp_path / "ws").close()  # it holds nothing


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written(tmp_path):
    made = Workspace(tmp_path / "ws")
    made.close()
    for path in [*made.path.iterdir(), made.path]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    with pytest.raises(OSError, match="cannot be written"):
        Workspace(made.path)


@pytest.mark.parametrize("text", ["[]", '{"at": null}', '{"at": [1], "accuracy": [null]}', '{"at": 3}', "nothing"])
def test_odd_files_of_a_run_show_no_points(workspace, text):
    number = workspace.records.add("eval", "t", "cpu", [], "")
    out = workspace.folder(number) / "out"
    out.mkdir(parents=True)
    (out / "report.json").write_text(text)
    assert (
        curves.points(workspace, workspace.records.get(number))[0] == [] and curves.best(workspace, workspace.records.get(number)) is None
    )


@pytest.mark.parametrize(
    "headers, own",
    [(dict(host="127.0.0.1:7860"), True), (dict(host="localhost:7860", origin="http://localhost:7860"), True), (dict(host="evil.example"), False),
     (dict(host="127.0.0.1:7860", origin="http://evil.example"), False), (dict(host="127.0.0.1:7860", origin="null"), False), ({}, False)],
)  # fmt: skip
def test_pages_of_others(headers, own):
    assert OwnPages.is_own(headers) == own


def test_a_zip_holds_what_the_run_wrote_and_nothing_else(workspace, weights):
    folder = workspace.folder(3)
    (folder / "out").mkdir(parents=True)
    (folder / "out/report.json").write_text("{}")
    os.symlink(weights, folder / "out/link.pt")
    with zipfile.ZipFile(workspace.packed(3)) as archive:
        assert archive.namelist() == ["out/report.json"]
    assert workspace.packed(3) == workspace.packed(3) and len(list(workspace.packs.rglob("*.zip"))) == 1
    workspace.tidy()
    assert not list(workspace.packs.iterdir())
    with pytest.raises(ValueError, match="run 4 has no files"):
        workspace.packed(4)


def test_output_is_its_end_without_control_characters(workspace):
    folder = workspace.folder(1)
    folder.mkdir(parents=True)
    (folder / "output.txt").write_bytes(b"x\n" * 100_000 + b"\x1b[31mred\xff\n")
    text = workspace.output(1)
    assert len(text) < 70_000 and "\x1b" not in text and "red" in text.splitlines()[-1]
    assert workspace.output(2) == "" and workspace.last_line(2) == "it told nothing"


# ---- commands

TRAIN = dict(arch="vgg11", data="digits", activation="s-qcfs", first="3", second="2", levels="4", theta="", width="0.25", batch_size=None, seed="0",
             amp="fp32", method="if", T="32")  # fmt: skip
EVAL = dict(source="file:net.pt", arch=None, data=None, method="srp", mode=None, T="64", v0="", tau="4", rho="", m="", memory="2GiB", batch_size="",
            images="100", products="exact", statistics=True)  # fmt: skip


def parsed(command):
    words = [word.replace("{run}", "/nowhere") for word in command.words]
    return parser(dict.fromkeys(("demo", "train", "eval", "convert", "compare", "trace", "diagnose", "web", "extract", "info"))).parse_args(
        words
    )


@pytest.mark.parametrize("arch", [*BY_NAME, *direct.BY_NAME])
def test_every_network_makes_a_command(workspace, arch):
    args = parsed(Offer(workspace).train(TRAIN | dict(arch=arch)))
    spiking = arch in direct.BY_NAME
    assert args.arch == arch and args.epochs == ([3] if spiking else [3, 2]) and args.T == 32
    assert (args.activation, args.levels, args.width) == ((None, None, None) if spiking else ("s-qcfs", 4, 0.25))


@pytest.mark.parametrize("name", ["timm:test_resnet", "torchvision.models:resnet18"])
def test_networks_of_other_packages(workspace, weights, name):
    """What was trained is evaluated as the same network, without naming it again."""
    offer = Offer(workspace)
    command = offer.train(TRAIN | dict(arch=name))
    args = parsed(command)
    assert args.model == name and args.arch is None and args.width is None and args.activation == "s-qcfs"
    number = workspace.records.add("train", command.title, "cpu", command.words, "")
    (workspace.folder(number) / "out").mkdir(parents=True)
    (workspace.folder(number) / "out/model.pt").touch()
    assert parsed(offer.evaluate(EVAL | dict(source=f"run:{number}"))).model == name
    assert parsed(offer.convert(EVAL | dict(source=f"run:{number}", method=None, tau=None, images=None))).calibrate == "train"
    workspace.take(weights, "net.pt")
    with pytest.raises(ValueError, match="calibrate is for networks of timm and torchvision"):
        offer.evaluate(EVAL | dict(calibrate="train"))
    args = parsed(offer.evaluate(EVAL | dict(source=f"run:{number}", arch=name, classes="7", calibrate="train")))
    assert (args.model, args.num_classes, args.calibrate) == (name, 7, "train")


@pytest.mark.parametrize("name", ["os:system", "timm:../x", "timm:x --out", "m:f", "torchvision.datasets:MNIST", "--model", 3])
def test_no_other_function_is_named(workspace, name):
    with pytest.raises(ValueError, match="network must be one of .*, or timm:NAME or torchvision.models:NAME, got"):
        Offer(workspace).train(TRAIN | dict(arch=name))


def test_a_stage_that_is_left_out(workspace):
    args = parsed(Offer(workspace).train(TRAIN | dict(second="", activation="cs-qcfs")))
    assert args.epochs == [3] and args.stages == 1


def test_a_training_that_goes_on_from_another(workspace, weights):
    workspace.take(weights, "net.pt")
    args = parsed(Offer(workspace).train(TRAIN | dict(earlier="file:net.pt", optimiser="adamw", lr="1e-3")))
    assert args.weights == str(workspace.uploads / "net.pt") and args.optimiser == "adamw" and args.lr == [0.001]
    args = parsed(Offer(workspace).train(TRAIN | dict(earlier=None, optimiser=None, lr="")))
    assert args.weights is args.optimiser is args.lr is None
    for change, message in (
        (dict(earlier="file:../x"), "there is no file"),
        (dict(optimiser="--out"), "optimiser must be one of"),
        (dict(lr="-1"), "learning rate must be a number from"),
    ):
        with pytest.raises(ValueError, match=message):
            Offer(workspace).train(TRAIN | change)


def test_a_conversion(workspace, weights):
    workspace.take(weights, "net.pt")
    command = Offer(workspace).convert(EVAL | dict(method=None, tau="", energy="0.5", images="32"))
    args = parsed(command)
    assert args.method is None and args.energy == 0.5 and args.images == 32 and args.T == 64 and args.overwrite
    assert args.out == "/nowhere/out/network.pt" and command.kind == "convert" and command.title == "net.pt, T = 64"
    assert parsed(Offer(workspace).convert(EVAL | dict(method="cos", rho="2", tau="", images=""))).rho == 2
    for change, message in (
        (dict(method=None), "tau is of a method: choose one"),
        (dict(images="1000"), "images must be a number from 1 to 256"),
    ):
        with pytest.raises(ValueError, match=message):
            Offer(workspace).convert(EVAL | change)


@pytest.mark.parametrize("method", commands.methods())
def test_every_method_makes_a_command(workspace, weights, method):
    workspace.take(weights, "net.pt")
    offer, fields = Offer(workspace), commands.REGISTRY[method][0].__dataclass_fields__
    own = {name: ("3" if name in fields else "") for name in commands.FIELDS}
    args = parsed(offer.evaluate(EVAL | own | dict(method=method)))
    assert args.method == method and args.T == 64 and args.images == 100 and args.products == "exact" and args.statistics
    assert args.checkpoint == str(workspace.uploads / "net.pt") and args.memory == "2GiB"
    for name in commands.FIELDS:
        assert getattr(args, name) == (3 if name in fields else None)
        if name not in fields:
            with pytest.raises(ValueError, match=re.escape(f"{name} is not of method {method!r}")):
                offer.evaluate(EVAL | own | dict(method=method) | {name: "3"})
    args = parsed(offer.diagnose(EVAL | own | dict(method=method, images="8")))
    assert args.images == 8 and args.overwrite


@pytest.mark.parametrize(
    "change, message",
    [(dict(T="x"), "T must be a number from 1 to"), (dict(T="0"), "T must be a number from 1"), (dict(T="1.5"), "T must be a whole number"),
     (dict(T="nan"), "T must be a number"), (dict(method="--out=/etc"), "method must be one of"), (dict(memory="--x"), "memory must be 'auto'"),
     (dict(source="file:../runs.sqlite"), "there is no file"), (dict(source="run:9"), "choose a checkpoint"),
     (dict(source=None), "choose a checkpoint"),
     (dict(source="run:../1"), "choose a checkpoint"), (dict(data="cifar10"), "data must be one of .digits."),
     (dict(images="1e99"), "images must be"),
     (dict(arch="--debug"), "network must be one of"), (dict(products="all"), "products must be one of"), (dict(mode="x"), "mode must be one of")],
)  # fmt: skip
def test_what_is_refused(workspace, weights, change, message):
    workspace.take(weights, "net.pt")
    with pytest.raises(ValueError, match=message):
        Offer(workspace).evaluate(EVAL | change)


def test_sources_and_comparisons(workspace, weights, tmp_path):
    offer = Offer(workspace, str(tmp_path))
    number = workspace.records.add("train", "vgg11 on digits", "cpu", [], "")
    assert offer.sources() == []
    (workspace.folder(number) / "out").mkdir(parents=True)
    (workspace.folder(number) / "out/model.pt").touch()
    workspace.take(weights, "net.pt")
    assert offer.sources() == [(f"run {number}: vgg11 on digits", f"run:{number}"), ("net.pt", "file:net.pt")]
    assert offer.source(f"run:{number}") == (f"run {number}", str(workspace.folder(number) / "out/model.pt"))
    args = parsed(offer.evaluate(EVAL | dict(data="cifar10", source=f"run:{number}")))
    assert args.data == "cifar10" and args.data_dir == str(tmp_path)
    args = parsed(offer.evaluate(EVAL | dict(source=f"run:{number}")))  # of the data that the checkpoint names
    assert args.data is None and args.data_dir == str(tmp_path)
    done = [workspace.records.add("eval", f"e{i}", "cpu", ["eval", "--method=cos"], "") for i in range(2)]
    for each in done:
        workspace.records.change(each, ("waiting",), state=DONE)
        (workspace.folder(each) / "out").mkdir(parents=True)
        net = torch.nn.Sequential(torch.nn.Linear(4, 3), snnfast.nn.QCFS(4, 1.0))
        report = snnfast.evaluate(snnfast.convert(net, "cos"), [(torch.randn(2, 4), torch.zeros(2, dtype=torch.long))], T=4)
        report.save_json(workspace.folder(each) / "out/report.json")
    args = parsed(offer.compare([str(n) for n in done]))
    assert [r.partition("=")[0] for r in args.runs] == [f"{n} {report.label()}" for n in done] and "cos" in report.label()
    (workspace.folder(done[0]) / "out/report.json").write_text("{}")
    with pytest.raises(ValueError, match=f"run {done[0]} has no report that can be read"):
        offer.compare([str(n) for n in done])
    for chosen in ([str(done[0])], [str(done[0]), "99"], None):
        with pytest.raises(ValueError, match="choose two evaluations or more"):
            offer.compare(chosen)


# ---- passwords


def test_passwords(tmp_path):
    path = tmp_path / "people"
    passwords.add(path, "ann", "correct horse")
    passwords.add(path, "bob", "battery staple")
    check = passwords.checker(path)
    assert check("ann", "correct horse") and check("bob", "battery staple")
    assert not check("ann", "battery staple") and not check("eve", "correct horse") and not check("ann", "")
    passwords.add(path, "ann", "another one")
    assert check("ann", "another one") and not check("ann", "correct horse")
    assert path.stat().st_mode & 0o077 == 0 and "horse" not in path.read_text() and len(path.read_text().splitlines()) == 2


def test_guessing_is_slow(tmp_path, monkeypatch):
    """Ten wrong passwords a minute for a name; others may come meanwhile, and afterwards the name again."""
    now, computed = [0.0], []
    path = tmp_path / "people"
    for name in ("ann", "bob"):
        passwords.add(path, name, f"password of {name}")
    monkeypatch.setattr(passwords.time, "monotonic", lambda: now[0])
    real = passwords._hash
    monkeypatch.setattr(passwords, "_hash", lambda *args: (computed.append(1), real(*args))[1])
    check = passwords.checker(path)
    assert not any(check("ann", f"guess {i}") for i in range(30)) and len(computed) == passwords.TRIES
    assert not check("ann", "password of ann") and check("bob", "password of bob")
    assert not any(check(f"nobody-{i}", "guess") for i in range(30)) and len(computed) == 2 * passwords.TRIES + 1
    now[0] = 61.0
    assert check("ann", "password of ann")


@pytest.mark.parametrize("name, password, message", [("a:b", "long enough", "a name has"), ("ann", "short", "at least 8 characters")])
def test_passwords_that_are_refused(tmp_path, name, password, message):
    with pytest.raises(ValueError, match=message):
        passwords.add(tmp_path / "people", name, password)


def test_a_file_of_passwords_that_is_none(tmp_path):
    path = tmp_path / "people"
    path.write_text("")
    with pytest.raises(ValueError, match="names nobody"):
        passwords.checker(path)
    path.write_text("ann:secret\n")
    with pytest.raises(ValueError, match="line 1 of .* is not NAME:SALT:HASH"):
        passwords.checker(path)

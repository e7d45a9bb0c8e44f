"""Files that ask for gigabytes or for ever are refused for what they ask, in a second and without the memory."""

import argparse
import collections
import gc
import io
import pickle
import resource
import struct
import time
import zipfile
import zlib
from fractions import Fraction

import numpy as np
import pytest
import torch

import snnfast
from snnfast.checkpoints import budget
from snnfast.cli.main import main


def archive(path, data, **more):
    """A file of torch.save's form with this pickle."""
    with zipfile.ZipFile(path, "w") as file:
        for name, content in {"data.pkl": data, "version": b"3\n", "byteorder": b"little", **more}.items():
            file.writestr(f"archive/{name}", content)


def memo(path):
    archive(path, b"\x80\x02}r" + struct.pack("<I", 1 << 28) + b".")


def shared_lists(path):
    value = [1]
    for _ in range(60):
        value = [value, value]
    torch.save({"w": torch.zeros(3), "x": value}, path)


def many_instructions(path):
    archive(path, b"\x80\x02](" + b"N" * 1_500_000 + b"e.")


def expanded(path):
    torch.save({"state_dict": {"fc.weight": torch.zeros(1).expand(10_500_000_000)}}, path)


def one_storage(path):
    """A thousand names for one storage: each would be copied."""
    w = torch.zeros(1 << 18)
    torch.save({f"layer{i}.weight": w for i in range(1000)}, path)


def wide(path):
    config = dict(snnfast.models.vgg16(width=0.1).config, width=20.0)
    with torch.device("meta"):
        state = snnfast.models.build(config).state_dict()
    small = {key: torch.zeros((), dtype=t.dtype).expand(t.shape) for key, t in state.items()}
    torch.save({"format": "snnfast-1", "config": config, "state_dict": small, "facts": {}}, path)


def deep(path):
    net = snnfast.models.vit_tiny(image_size=32, patch_size=8, dim=16, heads=2, depth=1)
    torch.save({"format": "snnfast-1", "config": {**net.config, "depth": 10**7}, "state_dict": net.state_dict(), "facts": {}}, path)


def wide_facts(path):
    facts, net = {"x": 1}, snnfast.models.vgg11(width=0.05)
    for _ in range(40):
        facts = {"a": facts, "b": facts}
    torch.save({"format": "snnfast-1", "config": net.config, "state_dict": net.state_dict(), "facts": facts}, path)


def large_number(path):
    net = snnfast.models.vgg11(width=0.05)
    torch.save({"format": "snnfast-1", "config": {**net.config, "image_size": 1 << 40}, "state_dict": net.state_dict(), "facts": {}}, path)


def deflated(path):
    """300 MiB of zeros for a pickle, in 300 KiB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        with file.open("archive/data.pkl", "w") as entry:
            for _ in range(300):
                entry.write(bytes(1 << 20))
        file.writestr("archive/version", b"3\n")


def deflated_storage(path):
    buffer = io.BytesIO()
    torch.save({"w": torch.zeros(80 << 20)}, buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))


def entries_within_each_other(path):
    """Names in the directory that share one run of bytes."""
    archive(path, pickle.dumps({}, 2), filler=bytes(4000))
    with zipfile.ZipFile(path) as file:
        entries = file.infolist()
    data = path.read_bytes()
    directory = data.index(b"PK\x01\x02")
    names = b""
    filler = next(e for e in entries if e.filename.endswith("filler"))
    for i in range(10):
        name = f"archive/data/{i}".encode()
        names += struct.pack(
            "<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, zlib.crc32(bytes(4000)), 4000, 4000, len(name), 0, 0, 0, 0, 0, filler.header_offset
        ) + name  # fmt: skip
    old = data[directory : data.index(b"PK\x05\x06")]
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, len(entries) + 10, len(entries) + 10, len(old) + len(names), directory, 0)
    path.write_bytes(data[:directory] + old + names + end)


def before_1_6(path):
    """torch's older format is read through pickles that stand one after the other."""
    torch.save({"w": torch.zeros(2)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    path.write_bytes(b"\x80\x02}r" + struct.pack("<I", 1 << 28) + b"." + data)


def keys_in_keys(path):
    """Tuples that each hold the one below twice: to hash the last one takes 2^60 steps."""
    pairs = b"".join(b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(60))
    archive(path, b"\x80\x02}K\x01K\x02\x86q\x00" + pairs + b"K\x05s.")


def calls_bytearray(path):
    archive(path, b"\x80\x02cbuiltins\nbytearray\nJ" + struct.pack("<i", 1500 << 20) + b"\x85R.")


def slow_codec(path):
    text = b"X" + struct.pack("<I", 30_000) + b"a" * 30_000
    archive(path, b"\x80\x02c_codecs\nencode\n" + text + b"X" + struct.pack("<I", 8) + b"punycode" + b"\x86R.")


def large_letters(path):
    """torch finds its pickle under this name too."""
    archive(path, b"", **{"DATA.PKL": b"\x80\x02}r" + struct.pack("<I", 1 << 28) + b"."})
    with zipfile.ZipFile(path) as old:
        kept = {e.filename: old.read(e) for e in old.infolist() if not e.filename.endswith("data.pkl")}
    with zipfile.ZipFile(path, "w") as new:
        for name, content in kept.items():
            new.writestr(name, content)


def zip_behind_a_pickle(path):
    """torch looks at the first bytes, Python's zipfile at the last."""
    archive(path, pickle.dumps({}, 2))
    path.write_bytes(b"\x80\x02}r" + struct.pack("<I", 1 << 28) + b"." + path.read_bytes())


HOSTILE = {
    keys_in_keys: "more than 1000000 entries",
    calls_bytearray: "its pickle calls builtins bytearray",
    slow_codec: "its pickle calls punycode",
    large_letters: "place 268435456 of its memo",
    zip_behind_a_pickle: "place 268435456 of its memo",
    memo: "place 268435456 of its memo",
    shared_lists: "more than 1000000 entries",
    many_instructions: "more than 1000000 instructions",
    expanded: r"fc.weight of shape \(10500000000,\) takes 39 GiB, and the file holds 4 B of it",
    one_storage: "its tensors take more than",
    wide: "and the file holds 4 B of it",
    deep: "depth is 10000000, and it holds",
    wide_facts: "more than 1000000 entries",
    large_number: "image_size is 1099511627776; at most 2\\^24",
    deflated: "unpack to 300 MiB; at most 16 times",
    deflated_storage: "unpack to 320 MiB; at most 16 times",
    entries_within_each_other: "lie within each other",
    before_1_6: "place 268435456 of its memo",
}
# What may be taken out: weights that are fine, and others that are not made larger by that.
TAKEN_OUT = deep, large_number, wide, expanded, one_storage


@pytest.mark.parametrize("make", HOSTILE, ids=lambda f: f.__name__)
@pytest.mark.parametrize("reader", ["load_checkpoint", "extract"])
def test_refused_within_a_second_and_500_mb(tmp_path, make, reader):
    if reader == "extract" and make in (*TAKEN_OUT, before_1_6, calls_bytearray, slow_codec):
        pytest.skip("extract takes the weights out of it, calls no function, or reads no such format")
    path = tmp_path / "file.pt"
    make(path)
    gc.collect()
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(budget.Refused, match=HOSTILE[make]):
        snnfast.load_checkpoint(path) if reader == "load_checkpoint" else snnfast.extract(path, tmp_path / "new.pt")
    # CPU time, which another process beside hardly lengthens; a million instructions are read in 1.3 s here.
    assert time.process_time() - began < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500 << 10
    assert not (tmp_path / "new.pt").exists()


@pytest.mark.parametrize("head", [b"\x80\x02c", b"\x80\x02I", b"\x80\x04\x8e" + struct.pack("<Q", 2 << 30)], ids=["global", "int", "bytes"])
@pytest.mark.parametrize("reader", [snnfast.load_checkpoint, snnfast.load_weights])
def test_no_archive_is_read_further_than_a_pickle_goes(head, reader, tmp_path):
    """A file of 2.5 GB, nearly all of it a hole, whose first instruction asks for all of it."""
    with open(tmp_path / "file.pt", "wb") as file:
        file.write(head)
        file.truncate(5 << 29)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(budget.Refused, match="its pickles have more than 64 MiB, the most that is read"):
        reader(tmp_path / "file.pt") if reader is snnfast.load_checkpoint else reader(torch.nn.Linear(2, 2), tmp_path / "file.pt")
    assert time.process_time() - began < 5 and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500 << 10


def test_names_of_what_is_left_out_are_few_and_plain(tmp_path, capsys):
    esc, long = "\x1b]0;owned\x07", "k" * 1_000_000
    torch.save(
        {"w": torch.zeros(2), f"{esc}\n": argparse.Namespace(), long: {i: argparse.Namespace() for i in range(3000)}}, tmp_path / "a.pt"
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    many, left = snnfast.extract(tmp_path / "a.pt", tmp_path / "b.pt")
    assert many == 1 and len(left) == 21 and left[-1] == "2981 more" and all(len(name) <= 220 and name.isprintable() for name in left)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500 << 10
    assert main(["extract", str(tmp_path / "a.pt"), str(tmp_path / "c.pt")]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and out.count("\n") == 1 and len(out) < 5000


def converted(tmp_path, **changes):
    """A file of a converted network, with other tensors or fields in it."""
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), snnfast.nn.QCFS(4, 1.0), torch.nn.Linear(8, 2)).eval()
    snnfast.save_checkpoint(tmp_path / "snn.pt", snnfast.convert(net))
    file = torch.load(tmp_path / "snn.pt")
    for name, value in changes.items():
        (file if name in file else file["state"])[name.replace("__", ".")] = value
    torch.save(file, tmp_path / "changed.pt")
    return tmp_path / "changed.pt"


@pytest.mark.parametrize("change, message", [
    (dict([("2__weight", torch.zeros(1).expand(10_500_000_000))]), "2.weight of shape .* takes 39 GiB, and the file holds 4 B of it"),
    (dict([("2__weight", torch.zeros(2, 8).to_sparse())]), r"2.weight is no dense tensor of numbers \(torch.float32, torch.sparse_coo"),
    (dict([("2__weight", torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]))]), r"2.weight is no dense tensor of numbers \(nested"),
    (dict([("2__weight", torch.zeros(2, 8, dtype=torch.complex64))]), r"2.weight is no dense tensor of numbers \(torch.complex64"),
    (dict(facts=3), "its facts are no dictionary of numbers and texts"),
    (dict(facts={"training": torch.zeros(2)}), "its facts are no dictionary of numbers and texts"),
], ids=["expanded", "sparse", "nested", "complex", "facts", "a fact"])  # fmt: skip
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_files_of_converted_networks(tmp_path, change, message, capsys):
    path = converted(tmp_path, **change)
    with pytest.raises(ValueError, match=message):
        snnfast.load_checkpoint(path)
    assert main(["eval", str(path), "--data", "digits", "--T", "2", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("protocol", range(6))
def test_what_pickle_writes_is_followed(protocol, tmp_path):
    """Objects of every kind, in every protocol: the machine with sizes on its stack does what Python's does."""
    ring = [1]
    ring.append(ring)
    plain = {"a": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)], 5: {1, 2}, "f": frozenset({3}), "b": b"x" * 300, "t": "x" * 300, "n": None}
    objects = [
        collections.OrderedDict(plain),
        argparse.Namespace(lr=0.1, of=plain),
        collections.Counter("abca"),
        complex(1, 2),
        Fraction(1, 3),
    ]
    value = [
        plain,
        plain,
        objects,
        ring,
        -1,
        1 << 70,
        1.5,
        True,
        range(9),
        np.float64(3.0),
        np.arange(5),
        len,
        argparse.Namespace,
    ]
    file = io.BytesIO(pickle.dumps(value, protocol))
    assert budget._check_pickle(file, "file") and file.read() == b"" and budget.ONE == [1]
    # An instruction that finds no value, and one that fills a constant.
    for wrong in (b"a.", b"0.", b"(1e.", b"h\x07."):
        with pytest.raises(ValueError, match="its pickle cannot be read"):
            budget._check_pickle(io.BytesIO(wrong), "file")
    assert budget._check_pickle(io.BytesIO(b"K\x01K\x02a."), "file") and budget.ONE == [1]


def test_the_command_says_it_in_one_line(tmp_path, capsys):
    shared_lists(tmp_path / "file.pt")
    assert main(["extract", str(tmp_path / "file.pt"), str(tmp_path / "new.pt")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "more than 1000000 entries" in err


def test_what_people_have_is_read(tmp_path):
    """Tied weights, a slice of a large tensor, a compressed archive, torch's older format, an optimiser's state beside."""
    w = torch.randn(64, 64)
    net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64))
    net[1].weight = net[0].weight
    optimiser = torch.optim.Adam(net.parameters())
    net(w).sum().backward()
    optimiser.step()
    beside = {"mask": torch.eye(5).to_sparse(), "probs": torch.full((1,), 0.1).expand(50_000, 100), "losses": [0.5] * 500_000}
    five = {f"copy{i}": net.state_dict() for i in range(5)}
    torch.save({"model": net.state_dict(), "optimizer": optimiser.state_dict(), "slice": w[:3], **beside, **five}, tmp_path / "a.pt")
    assert snnfast.extract(tmp_path / "a.pt", tmp_path / "b.pt")[0] > 8
    with zipfile.ZipFile(tmp_path / "a.pt") as old, zipfile.ZipFile(tmp_path / "c.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    assert snnfast.extract(tmp_path / "c.pt", tmp_path / "d.pt")[0] > 8
    vgg = snnfast.models.vgg11(activation="qcfs", width=0.05)
    torch.save(vgg.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert snnfast.load_checkpoint(tmp_path / "old.pth", levels=4, width=0.05).config["arch"] == "vgg11"
    torch.save({"state_dict": vgg.state_dict(), **beside, **{f"ema{i}": vgg.state_dict() for i in range(5)}}, tmp_path / "more.pth")
    assert snnfast.load_checkpoint(tmp_path / "more.pth", levels=4, width=0.05).config["arch"] == "vgg11"


@pytest.mark.parametrize("tensor, kind", [
    (torch.zeros(3, device="meta"), "torch.float32, meta"), (torch.zeros(3).to_sparse(), "torch.float32, torch.sparse_coo"),
])  # fmt: skip
def test_tensors_that_are_no_weights(tmp_path, tensor, kind):
    torch.save({"net": {"fc.weight": tensor}}, tmp_path / "file.pt")
    with pytest.raises(ValueError, match=f"fc.weight is no weight: {kind}"):
        snnfast.load_checkpoint(tmp_path / "file.pt")
    with pytest.raises(ValueError, match="holds no tensors"):
        snnfast.extract(tmp_path / "file.pt", tmp_path / "new.pt")


@pytest.mark.parametrize("facts", [{"a": torch.zeros(2)}, {"a": b"x"}, {"a": {1}}, {(1, 2): 3}], ids=["tensor", "bytes", "set", "tuple"])
@pytest.mark.parametrize(
    "make", [lambda: snnfast.models.vgg11(width=0.05), lambda: snnfast.models.csnn_cifar10((2, 2, 2), 4)], ids=["vgg", "csnn"]
)
def test_facts_that_no_report_holds(tmp_path, make, facts):
    """Found before an evaluation, not when it writes its report."""
    snnfast.save_checkpoint(tmp_path / "a.pt", make())
    torch.save(torch.load(tmp_path / "a.pt") | {"facts": {"training": facts}}, tmp_path / "b.pt")
    with pytest.raises(
        ValueError, match="b.pt is refused: its facts are no dictionary of numbers and texts|b.pt is not a readable checkpoint"
    ):
        snnfast.load_checkpoint(tmp_path / "b.pt")

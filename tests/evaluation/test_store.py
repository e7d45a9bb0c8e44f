"""The file of finished batches by itself: what a kill inside a write leaves is taken back by whoever reads it next."""

import io
import json
import sqlite3
import subprocess
import sys
import time
import zipfile

import command
import numpy as np
import pytest

from snnfast.evaluation import per_image, progress_file

RECORD = {"index": np.arange(3), "label": np.array([1, 0, 2])}

KILLED = """
import os, signal, sys
from snnfast.evaluation import progress_file
s = progress_file.Store(sys.argv[1], {"a": 1})
s.db.execute("PRAGMA cache_size = 1")  # pages go to the file before the end of the transaction
s.db.execute("BEGIN")
s.db.execute("UPDATE batches SET facts = 'not json'")
s.db.execute("INSERT INTO batches (record, facts, seconds) VALUES (?, '{}', 0)", (b"x" * 300_000,))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def killed(tmp_path):
    """A folder with one batch, and half of the next."""
    path = progress_file.file_of(tmp_path)
    begun = progress_file.Store(path, {"a": 1})
    begun.put(RECORD, {"k": 2}, 0.5)
    begun.close()
    small = path.stat().st_size
    assert subprocess.run([sys.executable, "-c", KILLED, path], env=command.ENV, timeout=60).returncode == -9
    journal = path.with_name(path.name + "-journal")
    assert path.stat().st_size > small + 200_000 and any(journal.read_bytes()[:8]), "the kill left nothing to take back"
    return tmp_path


def test_half_a_write_is_taken_back_by_a_reader(killed):
    identity, batches = progress_file.read(progress_file.file_of(killed))
    assert identity == {"a": 1} and [(facts, seconds) for _, facts, seconds in batches] == [({"k": 2}, 0.5)]
    assert np.array_equal(batches[0][0]["index"], RECORD["index"]) and len(progress_file.records_in(killed)) == 1


def test_half_a_write_is_taken_back_by_the_next_writer(killed):
    again = progress_file.Store(progress_file.file_of(killed), {"a": 1})
    again.put(RECORD | {"index": np.arange(3, 6)}, {"k": 3}, 0.25)
    assert [facts for _, facts, _ in again.batches()] == [{"k": 2}, {"k": 3}]
    again.close()
    assert len(progress_file.records_in(killed)) == 2


def test_a_reader_makes_no_file(tmp_path):
    with pytest.raises(OSError, match="cannot be read"):
        progress_file.read(progress_file.file_of(tmp_path))
    assert not list(tmp_path.iterdir()) and progress_file.records_in(tmp_path) == []


def changed(path, statement, *values):
    with sqlite3.connect(path) as db:
        db.execute(statement, values)
    db.close()


def npz(**headers):
    """A record whose arrays say what they do not hold."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, (shape, data) in headers.items():
            part = io.BytesIO()
            np.lib.format.write_array_header_1_0(part, {"descr": "<i8", "fortran_order": False, "shape": shape})
            archive.writestr(f"{name}.npy", part.getvalue() + data)
    return file.getvalue()


def objects():
    file = io.BytesIO()
    np.savez(file, index=np.array([{}], dtype=object))
    return file.getvalue()


RECURSIVE = """CREATE VIEW batches AS WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n)
    SELECT id, x'' record, '{}' facts, 0 seconds FROM n"""
COPIES = """INSERT INTO batches (record, facts, seconds) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000)
    SELECT record, facts, seconds FROM n, (SELECT * FROM batches WHERE id = 7)"""
DAMAGE = {
    "cut at 70 %": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size * 7 // 10]),
    "cut at 99 %": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size * 99 // 100]),
    "no database": lambda path: path.write_bytes(b"not a database at all" * 500),
    "no record": lambda path: changed(path, "UPDATE batches SET record = NULL"),
    "half a record": lambda path: changed(path, "UPDATE batches SET record = substr(record, 1, length(record) / 2)"),
    "no arrays": lambda path: changed(path, "UPDATE batches SET record = ?", npz()),
    "10^12 numbers": lambda path: changed(path, "UPDATE batches SET record = ?", npz(index=((10**12,), b""))),
    "rows that differ": lambda path: changed(path, "UPDATE batches SET record = ?", npz(index=((1,), bytes(8)), label=((2,), bytes(16)))),
    "objects": lambda path: changed(path, "UPDATE batches SET record = ?", objects()),
    "no JSON": lambda path: changed(path, "UPDATE batches SET facts = 'not json'"),
    "a list of facts": lambda path: changed(path, "UPDATE batches SET facts = '[]'"),
    "deep JSON": lambda path: changed(path, "UPDATE batches SET facts = ?", "[" * 100_000),
    "no seconds": lambda path: changed(path, "UPDATE batches SET seconds = NULL"),
    "no identity": lambda path: changed(path, "UPDATE run SET identity = 'null'"),
    "a trigger": lambda path: changed(path, "CREATE TRIGGER t AFTER INSERT ON batches BEGIN DELETE FROM run; END"),
    "a batch copied 30,000 times": lambda path: changed(path, COPIES),
    "a view without end": lambda path: (changed(path, "DROP TABLE batches"), changed(path, RECURSIVE)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused_in_one_line(damage, tmp_path):
    path = progress_file.file_of(tmp_path)
    begun = progress_file.Store(path, {"a": 1})
    for i in range(40):  # pages enough that every cut hits one
        begun.put({"index": np.arange(300 * i, 300 * (i + 1)), "label": np.random.default_rng(0).integers(0, 99, 300)}, {"k": 2}, 0.5)
    begun.close()
    DAMAGE[damage](path)
    began = time.monotonic()
    with pytest.raises(ValueError, match="progress.sqlite is (damaged|not a progress file).*; --overwrite starts anew$") as told:
        progress_file.read(path)
    assert time.monotonic() - began < 2 and "pickle" not in str(told.value) and "\n" not in str(told.value) and len(str(told.value)) < 500
    again = progress_file.Store(path, {"a": 2}, replace=True)
    again.put(RECORD, {"k": 3}, 0.25)
    again.close()
    assert [facts for _, facts, _ in progress_file.read(path)[1]] == [{"k": 3}]


def of_record(change):
    """Damage that changes the arrays of the first record."""

    def damage(path):
        with sqlite3.connect(path) as db:
            record = per_image.from_bytes(db.execute("SELECT record FROM batches").fetchone()[0])
            db.execute("UPDATE batches SET record = ?", (per_image.to_bytes(change(record)),))
        db.close()

    return damage


def of_facts(**changes):
    def damage(path):
        with sqlite3.connect(path) as db:
            facts = json.loads(db.execute("SELECT facts FROM batches").fetchone()[0])
            db.execute("UPDATE batches SET facts = ?", (json.dumps(facts | changes),))
        db.close()

    return damage


WRONG = {
    "the index alone": (of_record(lambda r: dict(index=r["index"])), "no number label for each image"),
    "no answers": (of_record(lambda r: {k: v for k, v in r.items() if k != "predicted"}), "no numbers predicted, top5"),
    "texts for labels": (of_record(lambda r: r | dict(label=r["label"].astype(str))), "no number label for each image"),
    "another step": (
        of_record(lambda r: {k: v[:, [0, *range(v.shape[1])]] if v.ndim == 2 else v for k, v in r.items()}),
        "3 steps, and its run of 2",
    ),
    "times that are texts": (of_facts(profile={"a": "b"}), "the profile of a batch in it has times that are no numbers"),
    "a number for counts": (of_facts(not_finite=3), "not_finite of a batch in it is no dictionary of counts"),
    "texts for counts": (of_facts(not_idle=["a", "b"]), "not_idle of a batch in it is not two counts"),
    "computed columns": (
        lambda path: (changed(path, "ALTER TABLE batches ADD COLUMN more GENERATED ALWAYS AS (zeroblob(999999990))")),
        "its table batches has other columns than id, record, facts, seconds",
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_a_record_that_no_evaluation_wrote(checkpoint, wrong, tmp_path, capsys):
    from snnfast.cli.main import main

    line = ["eval", str(checkpoint), "--at", "1", "2", "--images", "4", "--out", str(tmp_path)]
    assert main(line) == 0
    damage, message = WRONG[wrong]
    damage(progress_file.file_of(tmp_path))
    capsys.readouterr()
    assert main([*line, "--resume"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "progress.sqlite is damaged" in error and message in error and "--overwrite starts anew" in error
    if wrong in ("the index alone", "no answers", "texts for labels"):
        assert main(["compare", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
        assert "is damaged" in capsys.readouterr().err


def test_arrays_in_other_forms_are_not_read():
    """Whose headers may have 4 GiB."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        part = io.BytesIO()
        np.lib.format.write_array(part, np.zeros(3), version=(2, 0))
        archive.writestr("index.npy", part.getvalue())
    with pytest.raises(ValueError, match="in a form that was not written here"):
        per_image.from_bytes(file.getvalue())


def test_the_command_ends_with_2(checkpoint, tmp_path, capsys):
    from snnfast.cli.main import main

    line = ["eval", str(checkpoint), "--T", "2", "--images", "4", "--out", str(tmp_path)]
    assert main(line) == 0
    path = progress_file.file_of(tmp_path)
    changed(path, "UPDATE batches SET record = NULL")
    assert main([*line, "--resume"]) == 2
    error = capsys.readouterr().err
    assert "progress.sqlite is damaged: a batch in it lacks its record" in error and "--overwrite starts anew" in error
    assert main([*line, "--overwrite"]) == 0

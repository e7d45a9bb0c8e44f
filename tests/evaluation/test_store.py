"""The file of finished batches by itself: what a kill inside a write leaves is taken back by whoever reads it next."""

import subprocess
import sys

import command
import numpy as np
import pytest

from snnfast.evaluation import progress_file

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
    again.put(RECORD, {"k": 3}, 0.25)
    assert [facts for _, facts, _ in again.batches()] == [{"k": 2}, {"k": 3}]
    again.close()
    assert len(progress_file.records_in(killed)) == 2


def test_a_reader_makes_no_file(tmp_path):
    with pytest.raises(OSError, match="cannot be read"):
        progress_file.read(progress_file.file_of(tmp_path))
    assert not list(tmp_path.iterdir()) and progress_file.records_in(tmp_path) == []

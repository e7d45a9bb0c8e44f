"""The finished batches of an evaluation in a file that is whole after a kill at any moment (SQLite's transactions)."""

import contextlib
import json
import sqlite3
from pathlib import Path

from snnfast import records


@contextlib.contextmanager
def _told(path):
    """SQLite's errors as one line for the caller."""
    try:
        yield
    except sqlite3.Error as error:
        text = str(error)
        if "locked" in text:
            raise ValueError(f"{path} is in use: another evaluation writes to this folder") from None
        if any(word in text for word in ("full", "I/O", "readonly", "unable to open")):
            raise OSError(f"{path} cannot be written: {text}") from None
        raise ValueError(f"{path} is not a progress file, or is damaged: {text}") from None


class Store:
    """One process's file.

    identity: what the results depend on, a dictionary of plain values; a file of another one is refused.
    """

    def __init__(self, path, identity):
        self.path, self.identity, new = Path(path), json.loads(json.dumps(identity)), not Path(path).exists()
        try:
            known = self._open()
        except BaseException:
            if new:
                self.path.unlink(missing_ok=True)
            raise
        if known is not None:
            self._compare(json.loads(known[0]))

    def _open(self):
        with _told(self.path):
            self.db = sqlite3.connect(self.path, timeout=0.5)
            self.db.execute("PRAGMA locking_mode = EXCLUSIVE")
            with self.db:
                self.db.execute("BEGIN EXCLUSIVE")
                self.db.execute("CREATE TABLE IF NOT EXISTS run (identity TEXT)")
                self.db.execute("CREATE TABLE IF NOT EXISTS batches (id INTEGER PRIMARY KEY, record BLOB, statistics TEXT, seconds REAL)")
                known = self.db.execute("SELECT identity FROM run").fetchone()
                if known is None:
                    self.db.execute("INSERT INTO run VALUES (?)", (json.dumps(self.identity),))
        return known

    def _compare(self, known):
        changed = [k for k in {**known, **self.identity} if known.get(k) != self.identity.get(k)]
        if changed:
            self.close()
            told = "; ".join(f"{k} was {known.get(k)!r}, is {self.identity.get(k)!r}" for k in changed)
            raise ValueError(f"{self.path.parent} holds another run: {told}. Give another folder")

    def put(self, record, statistics, seconds):
        """A finished batch: there as a whole, or not at all."""
        with _told(self.path), self.db:
            self.db.execute(
                "INSERT INTO batches (record, statistics, seconds) VALUES (?, ?, ?)",
                (records.to_bytes(record), json.dumps(statistics), seconds),
            )

    def batches(self):
        """(record, statistics, seconds) of every finished batch."""
        with _told(self.path):
            rows = self.db.execute("SELECT record, statistics, seconds FROM batches ORDER BY id").fetchall()
        return [(records.from_bytes(record), json.loads(statistics), seconds) for record, statistics, seconds in rows]

    def close(self):
        self.db.close()


def records_in(folder):
    """The records of all finished batches in a folder; [] where there are none."""
    found = []
    for path in files_in(folder):
        with _told(path), contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=0.5)) as db:
            if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'batches'").fetchone():  # else it died before its first word
                found += [records.from_bytes(row[0]) for row in db.execute("SELECT record FROM batches ORDER BY id")]
    return found


def file_of(folder, rank=0):
    return Path(folder) / ("progress.sqlite" if rank == 0 else f"progress-{rank}.sqlite")


def files_in(folder):
    return sorted(Path(folder).glob("progress*.sqlite"))

"""The finished batches of an evaluation, in a file that stays intact if the process is killed at any moment (SQLite's transactions).

One process writes a file and holds a lock on the file as long as the process runs; a file is read only while no process holds the lock.
"""

import contextlib
import json
import sqlite3
from pathlib import Path

from snnfast.evaluation import per_image


@contextlib.contextmanager
def _told(path, done="written"):
    """SQLite's errors as one line for the caller."""
    try:
        yield
    except sqlite3.Error as error:
        text = str(error)
        if "locked" in text:
            raise ValueError(f"{path} is in use: another evaluation writes to this folder") from None
        if any(word in text for word in ("full", "I/O", "readonly", "unable to open")):
            raise OSError(f"{path} cannot be {done}: {text}") from None
        raise ValueError(f"{path} is not a progress file, or is damaged: {text}; --overwrite starts anew") from None


class Store:
    """The file that one process writes.

    identity: what the results depend on, a dictionary of plain values; a file of another identity is refused, or emptied with `replace`.
    machine: kept from the first start.
    """

    def __init__(self, path, identity, machine=None, replace=False):
        self.path = Path(path)
        if replace and self.path.exists():
            remove(self.path)
        new = not self.path.exists()
        with _told(self.path):
            self.db = sqlite3.connect(self.path, timeout=0.5)
        try:
            with _told(self.path):
                known = self._begin(json.dumps(identity), json.dumps(machine))
            compare(_identity(known, self.path), identity, self.path)
            self.machine = _machine(known[1], self.path)
        except BaseException:
            self.db.close()
            if new and self.path.exists() and self.path.stat().st_size == 0:
                self.path.unlink()
            raise

    def _begin(self, identity, machine):
        self.db.execute("PRAGMA locking_mode = EXCLUSIVE")
        _check_tables(self.db, self.path)
        with self.db:
            self.db.execute("BEGIN EXCLUSIVE")
            self.db.execute("CREATE TABLE IF NOT EXISTS run (identity TEXT, machine TEXT)")
            self.db.execute("CREATE TABLE IF NOT EXISTS batches (id INTEGER PRIMARY KEY, record BLOB, facts TEXT, seconds REAL)")
            if self.db.execute("SELECT 1 FROM run").fetchone() is None:
                if self.db.execute("SELECT 1 FROM batches").fetchone() is not None:
                    raise damaged(self.path, "it holds batches and does not say what run they are of")
                self.db.execute("INSERT INTO run VALUES (?, ?)", (identity, machine))
            return self.db.execute("SELECT identity, machine FROM run").fetchone()

    def put(self, record, facts, seconds):
        """Writes a finished batch, as a whole or not at all. facts: plain values."""
        if not self.path.exists():  # SQLite would go on writing to a deleted file
            raise OSError(f"{self.path} was removed while the run went on: nothing more can be kept")
        with _told(self.path), self.db:
            self.db.execute(
                "INSERT INTO batches (record, facts, seconds) VALUES (?, ?, ?)", (per_image.to_bytes(record), json.dumps(facts), seconds)
            )

    def batches(self):
        """(record, facts, seconds) of every finished batch."""
        with _told(self.path):
            return _batches(self.db, self.path)

    def close(self):
        self.db.close()


def compare(known, identity, path):
    """Raises if a file is of another run."""
    identity = json.loads(json.dumps(identity))
    changed = [k for k in {**known, **identity} if known.get(k) != identity.get(k)]
    if changed:
        told = "; ".join(f"{k} was {known.get(k)!r}, is {identity.get(k)!r}" for k in changed)
        raise ValueError(f"{path.parent} holds another run: {told}. Give another folder")


def _batches(db, path):
    found: list = []
    seen: set = set()
    try:
        with contextlib.closing(db.execute("SELECT record, facts, seconds FROM batches ORDER BY id")) as rows:
            for row in rows:
                found.append(_batch(*row))
                images = found[-1][0]["index"].tolist()
                if not seen.isdisjoint(images):  # no run takes an image twice: a batch was copied, perhaps a million times
                    raise ValueError(f"it holds image {min(seen.intersection(images))} twice")
                seen.update(images)
        return found
    except (ValueError, RecursionError) as error:  # errors of JSON too
        raise damaged(path, error) from None


def _batch(record, facts, seconds):
    if not isinstance(record, bytes) or not isinstance(facts, str) or not isinstance(seconds, (int, float)):
        raise ValueError("a batch in it lacks its record, its facts or its seconds")
    record, facts = per_image.from_bytes(record), json.loads(facts)
    if not isinstance(facts, dict):
        raise ValueError("the facts of a batch in it are no dictionary")
    return record, facts, seconds


def _identity(row, path):
    """The identity of the run that a file holds, a dictionary, or None if there is none yet."""
    try:
        found = row and json.loads(row[0])
    except (ValueError, TypeError, RecursionError) as error:
        raise damaged(path, error) from None
    if row and not isinstance(found, dict):
        raise damaged(path, "it does not say what run it is of")
    return found


def _machine(text, path):
    """What a file says about the machine that began the run."""
    try:
        found = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise damaged(path, error) from None
    if found is not None and not isinstance(found, dict):
        raise damaged(path, "it does not say what machine it is of")
    return found


def damaged(path, what):
    return ValueError(f"{path} is damaged: {str(what).splitlines()[0][:200]}; --overwrite starts anew")


COLUMNS = dict(run=("identity", "machine"), batches=("id", "record", "facts", "seconds"))


def _check_tables(db, path):
    """Refuses all but the two tables as `Store` makes them: a view may never end, a trigger may do anything."""
    for kind, name in db.execute("SELECT type, name FROM sqlite_master").fetchall():
        if (kind, name) not in (("table", "run"), ("table", "batches")):
            raise damaged(path, f"it holds a {kind}, {name!r:.40}")
        # A column that is computed, of nothing stored, may be of any size.
        columns = [(column, hidden) for _, column, _, _, _, _, hidden in db.execute(f"PRAGMA table_xinfo({name})")]
        if columns != [(column, 0) for column in COLUMNS[name]]:
            raise damaged(path, f"its table {name} has other columns than {', '.join(COLUMNS[name])}")


def read(path):
    """(identity, batches) of a file that no process writes; (None, []) if the process died before it wrote anything.

    The file is opened for writing if the system allows: a process that was killed inside a write left half a write, which SQLite undoes first.
    """
    with _told(path, "read"), contextlib.closing(sqlite3.connect(Path(path).resolve().as_uri() + "?mode=rw", uri=True, timeout=0.5)) as db:
        _check_tables(db, path)
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'batches'").fetchone():
            return None, []
        known, batches = _identity(db.execute("SELECT identity FROM run").fetchone(), path), _batches(db, path)
        if known is None and batches:
            raise damaged(path, "it holds batches and does not say what run they are of")
        return known, batches


def records_in(folder):
    """The records of all finished batches in a folder; [] where there are none."""
    return [record for path in files_in(folder) for record, _, _ in read(path)[1]]


def remove(path):
    """Deletes a file that nobody writes, damaged or not."""
    with _told(path), contextlib.closing(sqlite3.connect(path, timeout=0.5)) as db:
        try:
            db.execute("BEGIN EXCLUSIVE")
            db.rollback()
        except sqlite3.OperationalError:  # in use, or not ours to write
            raise
        except sqlite3.DatabaseError:  # damaged: nobody can hold it
            pass
    for name in (path, f"{path}-journal"):
        Path(name).unlink(missing_ok=True)


def file_of(folder, rank=0):
    return Path(folder) / ("progress.sqlite" if rank == 0 else f"progress-{rank}.sqlite")


def files_in(folder):
    return sorted(Path(folder).glob("progress*.sqlite"))

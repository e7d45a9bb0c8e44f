"""Every run, in a file of SQLite: what it is, where it stands, who asked for it."""

import contextlib
import dataclasses
import json
import sqlite3
import time
from pathlib import Path

WAITING, RUNNING, STOPPING, STOPPED, FAILED, DONE = "waiting", "running", "stopping", "stopped", "failed", "done"
AT_WORK = (RUNNING, STOPPING)

_TABLE = """CREATE TABLE IF NOT EXISTS runs (
    id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, title TEXT NOT NULL, device TEXT NOT NULL, command TEXT NOT NULL, user TEXT NOT NULL,
    state TEXT NOT NULL, created REAL NOT NULL, started REAL, ended REAL, process TEXT, code INTEGER, note TEXT NOT NULL DEFAULT '')"""


@dataclasses.dataclass(frozen=True)
class Run:
    """kind: train, eval, convert, diagnose or compare.  command: the arguments of `snnfast`.  process: [number, when it began] of what runs.
    code: the command's exit status.  note: why a run failed, in a line."""

    id: int
    kind: str
    title: str
    device: str
    command: list[str]
    user: str
    state: str
    created: float
    started: float | None = None
    ended: float | None = None
    process: list | None = None
    code: int | None = None
    note: str = ""

    def is_over(self) -> bool:
        return self.state in (STOPPED, FAILED, DONE)


_FIELDS = ", ".join(field.name for field in dataclasses.fields(Run))


def _run(row):
    values = dict(zip((field.name for field in dataclasses.fields(Run)), row))
    values["command"], process = json.loads(values["command"]), values["process"]
    return Run(**values | dict(process=json.loads(process) if process else None))


class Records:
    """The runs of a file. Every call opens it anew, so that any thread may call."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        with self._open() as db:
            db.execute(_TABLE)

    @contextlib.contextmanager
    def _open(self, how="IMMEDIATE"):
        db = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        try:
            db.execute(f"BEGIN {how}")
            yield db
            db.execute("COMMIT")
        finally:  # what was not committed is rolled back
            db.close()

    def add(self, kind: str, title: str, device: str, command: list[str], user: str) -> int:
        """The number of a new run, which waits."""
        values = kind, title, device, json.dumps(command), user, WAITING, time.time()
        with self._open() as db:
            sql = "INSERT INTO runs (kind, title, device, command, user, state, created) VALUES (?, ?, ?, ?, ?, ?, ?)"
            return int(db.execute(sql, values).lastrowid)

    def get(self, number: int) -> Run:
        """Raises ValueError for a number that is no run's."""
        with self._open("DEFERRED") as db:
            row = db.execute(f"SELECT {_FIELDS} FROM runs WHERE id = ?", (number,)).fetchone()
        if row is None:
            raise ValueError(f"there is no run {number}")
        return _run(row)

    def all(self, *states: str) -> list[Run]:
        """The runs, in these states if any are named, the newest first."""
        asked = f" WHERE state IN ({', '.join('?' * len(states))})" if states else ""
        with self._open("DEFERRED") as db:
            return [_run(row) for row in db.execute(f"SELECT {_FIELDS} FROM runs{asked} ORDER BY id DESC", states)]

    def take(self, device: str) -> Run | None:
        """The run of a device that has waited longest, which runs from now on; None while another runs there, or none waits."""
        with self._open() as db:
            busy = db.execute("SELECT 1 FROM runs WHERE device = ? AND state IN (?, ?)", (device, *AT_WORK)).fetchone()
            row = db.execute("SELECT id FROM runs WHERE device = ? AND state = ? ORDER BY created, id", (device, WAITING)).fetchone()
            if busy or row is None:
                return None
            db.execute(
                "UPDATE runs SET state = ?, started = ?, ended = NULL, process = NULL, code = NULL, note = '' WHERE id = ?",
                (RUNNING, time.time(), row[0]),
            )
        return self.get(row[0])

    def change(self, number: int, before: tuple[str, ...], **values) -> bool:
        """Sets values of a run that is in one of the states `before`; whether it was."""
        values = {k: json.dumps(v) if k in ("process", "command") else v for k, v in values.items()}
        sets, states = ", ".join(f"{k} = ?" for k in values), ", ".join("?" * len(before))
        with self._open() as db:
            changed = db.execute(f"UPDATE runs SET {sets} WHERE id = ? AND state IN ({states})", (*values.values(), number, *before))
            return changed.rowcount > 0

    def remove(self, number: int) -> bool:
        """Whether the run was over, and is gone now."""
        with self._open() as db:
            gone = db.execute("DELETE FROM runs WHERE id = ? AND state IN (?, ?, ?)", (number, STOPPED, FAILED, DONE))
            return gone.rowcount > 0

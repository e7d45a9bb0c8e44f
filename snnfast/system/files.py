"""Files that are there whole or not at all, whenever the process dies."""

import contextlib
import csv
import os
from pathlib import Path

from snnfast.system.text import cell


@contextlib.contextmanager
def whole(path):
    """A path to write to in place of `path`, which it becomes at the end."""
    path = Path(path)
    part = path.with_name(f".part-{path.name}")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def save_text(path, text):
    with whole(path) as part:
        part.write_text(text)


def save_rows(path, rows):
    """Dictionaries with the same keys as a CSV file."""
    with whole(path) as part, open(part, "w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows({key: cell(value) for key, value in row.items()} for row in rows)

"""Files that are there whole or not at all, whenever the process dies."""

import contextlib
import csv
import os
from pathlib import Path

import torch

from snnfast.system.text import cell


@contextlib.contextmanager
def whole(path):
    """A path to write to in place of `path`, which it becomes at the end."""
    path = Path(path)
    check_regular(path)
    part = path.with_name(f".part-{path.name}")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def check_regular(path):
    """Refuses devices and pipes, which never end; what is not there is told by whoever opens it."""
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ValueError(f"{path} is no regular file")


def file_to_write(path: str | os.PathLike) -> Path:
    """The path that a caller gives for a file; refuses what is no path, and a folder."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be a str or a path, got {type(path).__name__}")
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"path {path} is a folder, not a file")
    return path


def save_text(path, text):
    with whole(path) as part:
        part.write_text(text, "utf-8")


def save(content, path):
    """torch.save, whole or not at all; where a file cannot be written torch raises a RuntimeError of many lines. A link stays one."""
    with whole(os.path.realpath(path)) as part, open(part, "wb") as file:  # of a path torch takes a name, which not every path gives
        try:
            torch.save(content, file)
        except RuntimeError as error:
            raise OSError(f"{path} cannot be written: {str(error).splitlines()[0][:200]}") from error


def save_rows(path, rows):
    """Dictionaries with the same keys as a CSV file."""
    with whole(path) as part, open(part, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows({key: cell(value) for key, value in row.items()} for row in rows)

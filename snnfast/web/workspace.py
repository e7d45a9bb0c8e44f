"""The folder of a server: its records, the folders of its runs, and the files that were brought. Nothing outside of it is reached."""

import os
import re
import shutil
import sqlite3
import zipfile
from pathlib import Path

from snnfast.checkpoints.own import begins_as_one
from snnfast.system.files import whole
from snnfast.system.text import plain
from snnfast.web.records import Records

SUFFIXES = (".pt", ".pth", ".ckpt", ".tar", ".bin", ".safetensors")  # of files of weights
MOST = 8 << 30  # bytes of a file that is brought
SHOWN = 64 << 10  # bytes of a run's output that are shown


class Workspace:
    """path: made if it is not there. One server holds it at a time.

    Raises:
        ValueError: another server holds it.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path).absolute()
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"workspace {self.path} is a file, not a folder")
        for folder in (self.runs, self.uploads, self.packs):
            folder.mkdir(parents=True, exist_ok=True)
        self.held = sqlite3.connect(self.path / "server.lock", timeout=0, isolation_level=None, check_same_thread=False)
        try:  # held until this process ends, however it ends
            self.held.execute("BEGIN EXCLUSIVE")
            self.records = Records(self.path / "runs.sqlite")
        except sqlite3.Error as error:
            self.held.close()
            if "locked" in str(error):
                raise ValueError(f"workspace {self.path} is in use: another server holds it") from None
            raise OSError(f"workspace {self.path} cannot be written: {error}") from None

    def close(self) -> None:
        self.held.close()

    @property
    def runs(self) -> Path:
        return self.path / "runs"

    @property
    def uploads(self) -> Path:
        return self.path / "uploads"

    @property
    def packs(self) -> Path:
        return self.path / "packs"

    def folder(self, number: int) -> Path:
        """Of a run."""
        return self.runs / f"{int(number):05d}"

    def clear(self, number: int) -> None:
        for folder in (self.folder(number), self.packs / str(int(number))):
            shutil.rmtree(folder, ignore_errors=True)

    # ---- what a run has written

    def output(self, number: int) -> str:
        """The end of what a run has told."""
        try:
            with open(self.folder(number) / "output.txt", "rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - SHOWN))
                text = file.read().decode(errors="replace")
        except OSError:
            return ""
        return "\n".join(plain(line, 2000) for line in text.splitlines())

    def last_line(self, number: int) -> str:
        lines = [line for line in self.output(number).splitlines() if line.strip()]
        return lines[-1] if lines else "it told nothing"

    def packed(self, number: int) -> Path:
        """A zip of a run's folder, in the place of an earlier one."""
        folder, made = self.folder(number), self.packs / str(int(number)) / f"run-{int(number)}.zip"
        if not folder.is_dir():
            raise ValueError(f"run {number} has no files")
        made.parent.mkdir(exist_ok=True)
        with whole(made) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(folder.rglob("*")):
                if path.is_file() and not path.is_symlink():
                    archive.write(path, path.relative_to(folder))
        return made

    def tidy(self) -> None:
        """Removes what an earlier server left: its zips, and files that were not brought whole."""
        for folder in self.packs.iterdir():
            shutil.rmtree(folder, ignore_errors=True)
        for part in self.uploads.glob("*.part"):
            part.unlink(missing_ok=True)

    # ---- files that were brought

    def take(self, path: str | os.PathLike, name: str) -> str:
        """Copies a file of weights in, under a name that is no path; that name. It is loaded where it is used, safely and in another process."""
        stem, suffix = os.path.splitext(os.path.basename(name.replace("\\", "/")))
        if suffix.lower() not in SUFFIXES:
            raise ValueError(f"a file of weights ends in {', '.join(SUFFIXES)}; this one is called {plain(name, 200)!r}")
        size = os.path.getsize(path)
        if not 0 < size <= MOST:
            raise ValueError(f"a file of weights has 1 to {MOST} bytes, this one has {size}")
        if not begins_as_one(path):
            raise ValueError(f"{plain(name, 200)} is no file of weights: it does not begin as those of torch.save or safetensors do")
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-")[:80] or "weights"
        for i in range(1, 10_000):
            own = f"{stem}{'' if i == 1 else f'-{i}'}{suffix.lower()}"
            to, part = self.uploads / own, self.uploads / f"{own}.part"  # not among `files`
            if to.exists():
                continue
            try:
                with open(part, "xb") as out, open(path, "rb") as file:
                    shutil.copyfileobj(file, out)
                part.rename(to)
            except FileExistsError:  # somebody brings a file of this name just now
                continue
            except OSError:
                part.unlink(missing_ok=True)
                raise
            return own
        raise ValueError(f"there are too many files called {stem}")

    def files(self) -> list[str]:
        """The names of what was brought."""
        return sorted(path.name for path in self.uploads.iterdir() if path.is_file() and path.suffix in SUFFIXES)

    def upload(self, name: str) -> Path:
        """The path of a file that was brought."""
        if name not in self.files():
            raise ValueError(f"there is no file {plain(name, 200)!r} in this workspace")
        return self.uploads / name

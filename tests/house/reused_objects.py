"""Stands before the compiler while the sdist's wheel is built: what this checkout has compiled from the same text by the same command is taken from
its build folder, the rest is compiled. So the wheel is still built from the sdist alone, and its minute of compiling is spent once."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OURS = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}"


def source_of(command):
    """The folder of the CMakeLists.txt that the compiled file belongs to."""
    return next(parent for parent in Path(command[-1]).parents if (parent / "CMakeLists.txt").exists())


def text(command):
    """What the compiler sees when it has read all headers, but for the names of folders, which messages of errors hold."""
    at = command.index("-o")
    own = [word for word in command[:at] + command[at + 2 :] if word not in ("-c", "-MD")]
    own = [word for i, word in enumerate(own) if not {"-MF", "-MT"} & {word, own[i - 1]}]
    return subprocess.run([*own, "-E", "-P"], capture_output=True, check=True).stdout.replace(bytes(source_of(command) / "csrc"), b"csrc")


def ours(command):
    """The command by which this checkout compiles the same object, and the object, or None."""
    made = OURS / command[command.index("-o") + 1]
    if not made.exists():
        return None
    same = [word.replace(str(Path.cwd()), str(OURS)).replace(str(source_of(command)), str(ROOT)) for word in command]
    known = subprocess.run(["ninja", "-t", "commands", command[command.index("-o") + 1]], cwd=OURS, capture_output=True, text=True).stdout
    newest = max(path.stat().st_mtime for path in (ROOT / "csrc").rglob("*") if path.is_file())
    return (same, made) if same in map(shlex.split, known.splitlines()) and made.stat().st_mtime > newest else None


def main(command):
    found = ours(command) if "-c" in command and "-o" in command else None
    if found and text(command) == text(found[0]):
        shutil.copyfile(found[1], command[command.index("-o") + 1])
        if "-MF" in command:
            Path(command[command.index("-MF") + 1]).write_text(f"{command[command.index('-o') + 1]}: {command[-1]}\n")
        with open(os.environ["REUSED"], "a") as file:
            file.write(f"{found[1]}\n")
        return 0
    return subprocess.run(command).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

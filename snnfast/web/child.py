"""Runs a command and writes that it began and how it ended, so that a server that was started again learns it:
`python child.py FOLDER -- COMMAND ...`.

Run as a file, not as a module: it needs nothing of snnfast. Signals go to the whole process group, so the command gets them by itself.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PROCESS, ENDED = "process.json", "ended.json"  # [number, when it began]; code, ended


def began(number):
    """When a process began, by the system's own clock, so that another process with its number is not taken for it; "" where the system does not
    tell; None if there is no such process."""
    try:
        text = Path(f"/proc/{number}/stat").read_text()
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
        with contextlib.suppress(PermissionError):
            try:
                os.kill(number, 0)
            except ProcessLookupError:
                return None
        return ""
    except ProcessLookupError:
        return None
    state, *fields = text.rpartition(")")[2].split()
    return None if state == "Z" else fields[18]


def write(path, content):
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content))
    os.replace(part, path)


def main(argv):
    folder, command = Path(argv[0]), argv[2:]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # a handler, which the command does not inherit; to ignore a signal, it would
    write(folder / PROCESS, [os.getpid(), began(os.getpid())])
    code = subprocess.call(command)
    write(folder / ENDED, dict(code=code, ended=time.time()))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

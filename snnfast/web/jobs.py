"""One queue for each device: starts the commands of waiting runs, one at a time, stops them, and finds them again after the server was started anew.

A command runs in a session of its own, so that it goes on when the server ends. Beside it stands `child.py`, which writes how it ended.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from snnfast.web import child
from snnfast.web.records import AT_WORK, DONE, FAILED, RUNNING, STOPPED, STOPPING, WAITING, Run
from snnfast.web.workspace import Workspace

EVERY = 0.2  # seconds between two looks at a process
GRACE = 30.0  # seconds that a command has to end after Ctrl-C
RESUMED = ("train", "eval")  # commands that go on with --resume
STOPS = (130, 143, -signal.SIGINT, -signal.SIGTERM)  # exit statuses of a command that was stopped


def began(number: int) -> str | None:
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


def is_alive(process: list | None) -> bool:
    """Whether the process of a run is there. process: [number, when it began]"""
    return process is not None and process[1] is not None and began(process[0]) == process[1]


SNNFAST = (sys.executable, "-m", "snnfast")


class Jobs:
    """The queues of a workspace. devices: those that runs may name; each has its own queue.  program: what takes the commands."""

    def __init__(self, workspace: Workspace, devices: list[str], program: Sequence[str] = SNNFAST):
        self.workspace, self.records, self.devices, self.program = workspace, workspace.records, devices, program
        self.closed, self.news = threading.Event(), threading.Condition()
        self.threads = [threading.Thread(target=self._serve, args=(device,), daemon=True) for device in devices]

    def start(self) -> None:
        for run in self.records.all(*AT_WORK):  # from before this server, on devices that it does not serve
            if run.device not in self.devices:
                self.threads.append(threading.Thread(target=self._follow, args=(run, None), daemon=True))
        for thread in self.threads:
            thread.start()

    def close(self) -> None:
        """Ends the queues. What runs goes on, and is found again."""
        self.closed.set()
        with self.news:
            self.news.notify_all()
        for thread in self.threads:
            if thread.is_alive():
                thread.join()

    # ---- what a user asks for

    def add(self, kind: str, title: str, device: str, command: list[str], user: str = "") -> int:
        """The number of a new run. command: the arguments of `snnfast`, in which {run} stands for the run's folder."""
        if device not in self.devices:
            raise ValueError(f"device must be one of {', '.join(self.devices)}, got {device!r}")
        number = self.records.add(kind, title, device, command, user)
        self.workspace.folder(number).mkdir(parents=True, exist_ok=True)
        self._tell()
        return number

    def stop(self, number: int) -> str:
        """Stops a run, as Ctrl-C does; what it says to the user."""
        if self.records.change(number, (WAITING,), state=STOPPED, ended=time.time()):
            return f"run {number} does not wait any more"
        if self.records.change(number, (RUNNING,), state=STOPPING):
            run = self.records.get(number)
            if is_alive(run.process):
                _signal(run.process, signal.SIGINT)
            return f"run {number} is being stopped"
        raise ValueError(f"run {number} is {self.records.get(number).state}: only a run that waits or runs can be stopped")

    def resume(self, number: int) -> str:
        """Puts a run that was stopped, or failed, into its queue again; it goes on with what is finished."""
        run = self.records.get(number)
        if run.kind not in RESUMED:
            raise ValueError(f"run {number} is a {run.kind}, which does not take long: start it anew")
        if run.device not in self.devices:
            raise ValueError(f"run {number} is of device {run.device}, which this server does not serve: {', '.join(self.devices)}")
        command = run.command if "--resume" in run.command else [*run.command, "--resume"]
        if not self.records.change(number, (STOPPED, FAILED), state=WAITING, command=command, created=time.time()):
            raise ValueError(f"run {number} is {run.state}: only a run that was stopped, or failed, can go on")
        self._tell()
        return f"run {number} goes on when its turn comes"

    def delete(self, number: int) -> str:
        """Removes a run that is over, and its folder."""
        if not self.records.remove(number):
            raise ValueError(f"run {number} is {self.records.get(number).state}: stop it first")
        self.workspace.clear(number)
        return f"run {number} is gone"

    def _tell(self):
        with self.news:
            self.news.notify_all()

    # ---- a queue

    def _serve(self, device):
        for run in self.records.all(*AT_WORK):  # from before this server
            if run.device == device:
                self._follow(run, None)
        while not self.closed.is_set():
            run = self.records.take(device)
            if run is not None:
                self._do(run)
                continue
            with self.news:
                self.news.wait(EVERY)

    def _do(self, run):
        folder = self.workspace.folder(run.id)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "ended.json").unlink(missing_ok=True)
        words = [word.replace("{run}", str(folder)) for word in run.command]
        command = [sys.executable, child.__file__, str(folder / "ended.json"), "--", *self.program, *words]
        try:
            with open(folder / "output.txt", "ab") as output:
                output.write(f"$ snnfast {' '.join(words)}\n".encode())
                output.flush()
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            self.records.change(run.id, AT_WORK, state=FAILED, ended=time.time(), note=f"it could not be started: {error}")
            return
        self.records.change(run.id, AT_WORK, process=[process.pid, began(process.pid)])
        self._follow(self.records.get(run.id), process)

    def _follow(self, run: Run, process) -> None:
        """Waits for a run's end and notes it. process: the `Popen` of a process that this server started."""
        asked = None  # when it was first seen that the run shall stop
        while (process.poll() is None) if process else is_alive(run.process):
            if self.closed.wait(EVERY):
                return
            state = self.records.get(run.id).state
            if state == STOPPING:
                now = time.monotonic()
                if asked is None:
                    asked = now
                    _signal(run.process, signal.SIGINT)  # again: the first may have come before there was a process
                elif now - asked > GRACE:
                    _signal(run.process, signal.SIGKILL)
        self._ended(run.id)

    def _ended(self, number):
        path, asked = self.workspace.folder(number) / "ended.json", self.records.get(number).state == STOPPING
        try:
            told = json.loads(path.read_text())
            code, ended = int(told["code"]), float(told["ended"])
        except (OSError, ValueError, KeyError, TypeError):
            code, ended = None, time.time()
        if code == 0:
            state, note = DONE, ""
        elif asked or code in STOPS:
            state, note = STOPPED, ""
        else:
            state, note = FAILED, self.workspace.last_line(number) if code is not None else "the process ended without a word"
        self.records.change(number, AT_WORK, state=state, ended=ended, code=code, note=note)


def _signal(process, number):
    """To the whole session of a process, if it is there."""
    if is_alive(process):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process[0], number)

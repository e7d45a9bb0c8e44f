"""One queue for each device: starts the commands of waiting runs, one at a time, stops them, and finds them again after the server was started anew.

A command runs in a session of its own, so that it goes on when the server ends. Beside it stands `child.py`, which writes how it ended.
"""

import contextlib
import json
import os
import shlex
import signal
import sqlite3
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from snnfast.system.text import NOTE
from snnfast.web import child
from snnfast.web.records import AT_WORK, DONE, FAILED, RUNNING, STOPPED, STOPPING, WAITING, Run
from snnfast.web.workspace import Workspace

EVERY = 0.2  # seconds between two looks at a process
AGAIN, GRACE = 10.0, 30.0  # seconds after Ctrl-C until another, at which a command drops what it writes, and until it is killed
RESUMED = ("train", "eval")  # commands that go on with --resume
STOPS = (130, 143, -signal.SIGINT, -signal.SIGTERM)  # exit statuses of a command that was stopped


def is_alive(process: list | None) -> bool:
    """Whether the process of a run is there. process: [number, when it began]"""
    return process is not None and process[1] is not None and child.began(process[0]) == process[1]


SNNFAST = (sys.executable, "-m", "snnfast")


class Jobs:
    """The queues of a workspace. devices: those that runs may name; each has its own queue.  program: what takes the commands."""

    def __init__(self, workspace: Workspace, devices: list[str], program: Sequence[str] = SNNFAST):
        self.workspace, self.records, self.devices, self.program = workspace, workspace.records, devices, program
        self.closed, self.news = threading.Event(), threading.Condition()
        self.threads = [threading.Thread(target=self._serve, args=(device,), daemon=True) for device in devices]

    def start(self) -> None:
        for run in self.records.all(*AT_WORK):  # from before this server; `take` waits for them
            self.threads.append(threading.Thread(target=self._guarded, args=(run, self._follow, run, None), daemon=True))
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
        if self.records.change(number, (RUNNING,), state=STOPPING):  # `_follow` sees it
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
        while not self.closed.is_set():
            run = None
            try:
                run = self.records.take(device)
            except sqlite3.Error as error:  # a full disk, say, which may have space again
                print(f"snnfast web: {device}: {error}", file=sys.stderr)
            if run is not None:
                self._guarded(run, self._do, run)
                continue
            with self.news:
                self.news.wait(EVERY)

    def _guarded(self, run, function, *args):
        """Whatever goes wrong with a run, its queue goes on; where the records could not be read or written for a while, with this run."""
        while True:
            try:
                return function(*args)
            except sqlite3.Error as error:
                self._say(run, error)
                function, args = self._follow, (run, None)
            except Exception as error:
                self._say(run, error)
                function, args = self._give_up, (run, error)
            if self.closed.wait(1.0):
                return None

    @staticmethod
    def _say(run, error):
        print(f"snnfast web: run {run.id}: {type(error).__name__}: {error}", file=sys.stderr)

    def _give_up(self, run, error):
        known = self._process(run.id)
        _signal(known, signal.SIGKILL)
        self._end_group(known)
        self.records.change(run.id, AT_WORK, state=FAILED, ended=time.time(), note=f"{type(error).__name__}: {error}")

    def _do(self, run):
        folder = self.workspace.folder(run.id)
        words = [word.replace("{run}", str(folder)) for word in run.command]
        command = [sys.executable, child.__file__, str(folder), "--", *self.program, *words]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in (child.PROCESS, child.ENDED):
                (folder / name).unlink(missing_ok=True)
            with open(folder / "output.txt", "ab") as output:
                output.write(f"$ snnfast {shlex.join(words)}\n".encode())
                output.flush()
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=folder, env=_surroundings(),
                    start_new_session=True,
                )  # fmt: skip
        except (OSError, ValueError) as error:
            self.records.change(run.id, AT_WORK, state=FAILED, ended=time.time(), note=f"it could not be started: {error}")
            return
        self.records.change(run.id, AT_WORK, process=[process.pid, child.began(process.pid)])
        self._follow(self.records.get(run.id), process)

    def _process(self, number):
        """Of a run, from the records, or from the run's folder where the server ended before it wrote them."""
        found = self.records.get(number).process
        if found is None:
            with contextlib.suppress(OSError, ValueError):
                found = json.loads((self.workspace.folder(number) / child.PROCESS).read_text())
        return found

    def _follow(self, run: Run, process) -> None:
        """Waits for a run's end and notes it. process: the `Popen` of a process that this server started."""
        known, first, last = self._process(run.id), None, 0.0  # when Ctrl-C was sent first, and last
        while (process.poll() is None) if process else is_alive(known):
            if self.closed.wait(EVERY):
                return
            if self.records.get(run.id).state != STOPPING:
                continue
            now = time.monotonic()
            if first is not None and now - first >= GRACE:
                _signal(known, signal.SIGKILL)
            elif first is None or now - last >= AGAIN:
                _signal(known, signal.SIGINT)
                first, last = first or now, now
        self._ended(run.id, known)

    def _end_group(self, known):
        """Ends what is left of a run whose `child.py` is gone. The system gives its number to no other process as long as its group has one."""
        if known is None or child.began(known[0]) is not None:
            return
        for sent in (signal.SIGTERM, signal.SIGKILL):
            limit = time.monotonic() + GRACE
            try:
                os.killpg(known[0], sent)
                while time.monotonic() < limit:
                    os.killpg(known[0], 0)
                    time.sleep(EVERY)
            except ProcessLookupError:
                return

    def _ended(self, number, known):
        path, asked = self.workspace.folder(number) / child.ENDED, self.records.get(number).state == STOPPING
        try:
            told = json.loads(path.read_text())
            code, ended = int(told["code"]), float(told["ended"])
        except (OSError, ValueError, KeyError, TypeError):
            self._end_group(known)
            code, ended = None, time.time()
        if code == 0:
            last = self.workspace.last_line(number)
            state, note = DONE, last.removeprefix(NOTE) if last.startswith(NOTE) else ""
        elif asked or code in STOPS:
            state, note = STOPPED, ""
        elif code is None or code < 0:
            state = FAILED
            killed = "" if code is None else f"it was killed by signal {-code}" + " (out of memory?)" * (code == -9)
            note = killed or "the process ended without a word"
        else:
            state, note = FAILED, self.workspace.last_line(number)
        self.records.change(number, AT_WORK, state=state, ended=ended, code=code, note=note)


def _surroundings():
    """The environment of a command, which runs in its own folder: where this process finds snnfast by a relative path, the command does too."""
    env, home = dict(os.environ), Path(child.__file__).parents[2]
    paths = [os.path.abspath(path) for path in env.pop("PYTHONPATH", "").split(os.pathsep) if path]
    if str(home) not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        paths.append(str(home))
    return env | (dict(PYTHONPATH=os.pathsep.join(paths)) if paths else {})


def _signal(process, number):
    """To the whole session of a process, if it is there."""
    if is_alive(process):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process[0], number)

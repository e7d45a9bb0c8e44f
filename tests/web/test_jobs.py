"""The queues of `snnfast web`, with small programs in the place of the commands."""

import os
import signal
import sqlite3
import sys
import threading
import time
from pathlib import Path

import pytest

from snnfast.web import jobs as module
from snnfast.web.child import began
from snnfast.web.jobs import Jobs, is_alive
from snnfast.web.records import DONE, FAILED, RUNNING, STOPPED, WAITING
from snnfast.web.workspace import Workspace

PROGRAM = """
import os, signal, sys, time
what, *rest = sys.argv[1:]
print("begins", *rest, flush=True)
if what == "stubborn":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
if what in ("slow", "stubborn"):
    try:
        print("sleeps", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print("stopped", flush=True)
        sys.exit(130)
if what == "counts":
    found = []
    signal.signal(signal.SIGINT, lambda *_: found.append(1))
    print("sleeps", flush=True)
    while not found:
        time.sleep(0.05)
    time.sleep(1.0)
    print("interrupts:", len(found), flush=True)
    sys.exit(130)
if what == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if what == "wrong":
    sys.exit("it went wrong: <b>really</b>")
if what == "note":
    print("note: it is done, but", flush=True)
if what == "while":
    time.sleep(float(rest[0]))
"""


@pytest.fixture
def make(tmp_path):
    """Servers' queues on one workspace, one after the other; nothing is left running."""
    program, made = tmp_path / "program.py", []
    program.write_text(PROGRAM)

    def start(devices=("cpu",)):
        workspace = Workspace(tmp_path / "ws")
        jobs = Jobs(workspace, list(devices), (sys.executable, str(program)))
        jobs.start()
        made.append(jobs)
        return jobs

    yield start
    for jobs in made:
        for run in jobs.records.all(RUNNING, "stopping"):
            if is_alive(run.process):
                os.killpg(run.process[0], signal.SIGKILL)
        end(jobs)


def end(jobs):
    jobs.close()
    jobs.workspace.close()


def until(jobs, number, *states, seconds=20.0):
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        run = jobs.records.get(number)
        if run.state in states:
            return run
        time.sleep(0.05)
    raise AssertionError(f"run {number} is {jobs.records.get(number).state}: {jobs.workspace.output(number)}")


def sleeping(jobs, number):
    """Waits until the program has begun, so that Ctrl-C reaches it."""
    while "sleeps" not in jobs.workspace.output(number):
        until(jobs, number, RUNNING)
        time.sleep(0.05)


def test_runs_come_one_after_the_other(make):
    jobs = make()
    numbers = [jobs.add("eval", f"number {i}", "cpu", ["while", "0.2"], "ann") for i in range(3)]
    runs = [until(jobs, n, DONE) for n in numbers]
    assert all(a.ended <= b.started for a, b in zip(runs, runs[1:])) and [r.code for r in runs] == [0, 0, 0]
    assert runs[0].user == "ann" and "begins 0.2" in jobs.workspace.output(numbers[0])
    assert [r.id for r in jobs.records.all()] == numbers[::-1]


def test_each_device_has_a_queue(make):
    jobs = make(("cpu", "cuda:0"))
    one, two = (jobs.add("train", "t", device, ["slow"]) for device in ("cpu", "cuda:0"))
    until(jobs, one, RUNNING), until(jobs, two, RUNNING)
    with pytest.raises(ValueError, match="device must be one of cpu, cuda:0, got 'tpu'"):
        jobs.add("train", "t", "tpu", ["slow"])


def test_why_a_run_failed(make):
    jobs = make()
    run = until(jobs, jobs.add("eval", "t", "cpu", ["wrong"]), FAILED)
    assert run.code == 1 and run.note == "it went wrong: <b>really</b>"


def test_stop_while_it_runs_and_while_it_waits(make):
    jobs = make()
    one, two = (jobs.add("train", "t", "cpu", ["slow"]) for _ in range(2))
    sleeping(jobs, one)
    assert "does not wait" in jobs.stop(two) and "is being stopped" in jobs.stop(one)
    run = until(jobs, one, STOPPED)
    assert run.code == 130 and "stopped" in jobs.workspace.output(one) and jobs.records.get(two).state == STOPPED
    with pytest.raises(ValueError, match=f"run {one} is stopped: only a run that waits or runs"):
        jobs.stop(one)


def test_who_does_not_end_is_killed(make, monkeypatch):
    monkeypatch.setattr(module, "GRACE", 0.5)
    jobs = make()
    number = jobs.add("train", "t", "cpu", ["stubborn"])
    sleeping(jobs, number)
    jobs.stop(number)
    run = until(jobs, number, STOPPED)
    assert run.code is None and not is_alive(run.process)


def test_resume_adds_the_option_once(make):
    jobs = make()
    number = jobs.add("train", "t", "cpu", ["slow"])
    for _ in range(2):
        sleeping(jobs, number)
        jobs.stop(number)
        until(jobs, number, STOPPED)
        jobs.workspace.folder(number).joinpath("output.txt").write_text("")
        jobs.resume(number)
    assert until(jobs, number, RUNNING).command == ["slow", "--resume"]
    with pytest.raises(ValueError, match="only a run that was stopped, or failed"):
        jobs.resume(number)
    short = jobs.add("compare", "t", "cpu", ["while", "0"])
    with pytest.raises(ValueError, match="a compare, which does not take long"):
        jobs.resume(short)


def test_a_run_goes_on_without_its_server(make):
    first = make()
    number = first.add("train", "t", "cpu", ["while", "1.5"])
    later = first.add("train", "t", "cpu", ["while", "0"])
    while (process := first.records.get(number).process) is None:
        time.sleep(0.02)
    end(first)
    assert first.records.get(number).state == RUNNING and is_alive(process)
    second = make()
    time.sleep(0.3)
    assert second.records.get(number).state == RUNNING and second.records.get(later).state == WAITING
    assert until(second, number, DONE).process == process
    until(second, later, DONE)


def test_a_run_that_ended_without_a_server(make):
    first = make()
    number = first.add("eval", "t", "cpu", ["while", "0.3"])
    until(first, number, RUNNING)
    end(first)
    time.sleep(1.0)
    second = make()
    run = until(second, number, DONE)
    assert run.code == 0 and run.ended < time.time() - 0.2  # when it ended, not when it was found


def test_a_run_of_a_device_that_is_not_served_any_more(make):
    first = make(("cpu", "cuda:0"))
    number = first.add("train", "t", "cuda:0", ["slow"])
    later = first.add("train", "t", "cuda:0", ["while", "0"])
    sleeping(first, number)
    end(first)
    second = make(("cpu",))
    second.stop(number)
    until(second, number, STOPPED)
    assert second.records.get(later).state == WAITING
    with pytest.raises(ValueError, match="of device cuda:0, which this server does not serve"):
        second.resume(number)
    second.stop(later)
    assert not is_alive([os.getpid(), None])  # a process of which nobody saw the begin


def test_a_process_that_was_killed(make):
    jobs = make()
    number = jobs.add("train", "t", "cpu", ["slow"])
    run = until(jobs, number, RUNNING)
    sleeping(jobs, number)
    os.killpg(jobs.records.get(number).process[0], signal.SIGKILL)
    run = until(jobs, number, FAILED)
    assert run.code is None and run.note == "the process ended without a word"


def left_running(make):
    """(jobs of a server that ended, the number of the run that it left running, its process)."""
    first = make()
    number = first.add("train", "t", "cpu", ["slow"])
    sleeping(first, number)
    process = first.records.get(number).process
    end(first)
    return first, number, process


def test_another_process_with_its_number_is_not_taken_for_it(make):
    first, number, process = left_running(make)
    first.records.change(number, (RUNNING,), process=[os.getpid(), "1"])  # as if the number were another's by now
    assert began(os.getpid()) not in (None, "1")
    second = make()
    assert until(second, number, FAILED).state == FAILED
    os.killpg(process[0], signal.SIGKILL)


def test_delete(make):
    jobs = make()
    number = jobs.add("train", "t", "cpu", ["slow"])
    sleeping(jobs, number)
    with pytest.raises(ValueError, match="is running: stop it first"):
        jobs.delete(number)
    jobs.stop(number)
    until(jobs, number, STOPPED)
    assert jobs.workspace.folder(number).is_dir()
    jobs.delete(number)
    assert not jobs.workspace.folder(number).exists()
    with pytest.raises(ValueError, match=f"there is no run {number}"):
        jobs.delete(number)


def test_a_command_whose_child_py_is_gone_is_ended(make):
    """Else it would write to a folder that another run, or a resume, writes to."""
    jobs = make()
    number, later = jobs.add("train", "t", "cpu", ["slow"]), jobs.add("train", "t", "cpu", ["while", "0"])
    sleeping(jobs, number)
    leader = jobs.records.get(number).process[0]
    command = int((Path("/proc") / str(leader) / "task" / str(leader) / "children").read_text().split()[0])
    os.kill(leader, signal.SIGKILL)
    assert until(jobs, number, FAILED).note == "the process ended without a word"
    assert began(command) is None
    until(jobs, later, DONE)


def test_a_server_that_ended_before_it_knew_the_process(make):
    first, number, process = left_running(make)
    first.records.change(number, (RUNNING,), process=None)
    second = make()
    time.sleep(0.5)
    assert second.records.get(number).state == RUNNING
    second.stop(number)
    assert until(second, number, STOPPED).code == 130 and not is_alive(process)


def test_a_queue_outlives_what_goes_wrong(make, monkeypatch, capsys):
    jobs = make()
    folder = jobs.workspace.folder(1)
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("a file in the place of a folder")
    monkeypatch.setattr(type(folder), "mkdir", lambda self, **how: None if self == folder else os.makedirs(self, exist_ok=True))
    one = jobs.add("eval", "t", "cpu", ["while", "0"])
    assert one == 1 and "could not be started" in until(jobs, one, FAILED).note
    real, calls = jobs.records.take, []

    def take(device):
        calls.append(device)
        if len(calls) < 3:
            raise sqlite3.OperationalError("database or disk is full")
        return real(device)

    monkeypatch.setattr(jobs.records, "take", take)
    until(jobs, jobs.add("eval", "t", "cpu", ["while", "0"]), DONE)
    number, get = jobs.add("train", "t", "cpu", ["slow"]), jobs.records.get
    sleeping(jobs, number)
    full = [sqlite3.OperationalError("database or disk is full")] * 3

    def fails(number):
        if threading.current_thread() in jobs.threads and full:
            raise full.pop()
        return get(number)

    monkeypatch.setattr(jobs.records, "get", fails)
    while full:
        time.sleep(0.05)
    assert get(number).state == RUNNING  # the queue has lost nothing
    jobs.stop(number)
    assert until(jobs, number, STOPPED).code == 130
    monkeypatch.setattr(jobs, "_do", lambda run: 1 / 0)
    assert "ZeroDivisionError" in until(jobs, jobs.add("eval", "t", "cpu", ["while", "0"]), FAILED).note


def test_one_stop_is_one_interrupt(make):
    jobs = make()
    number = jobs.add("train", "t", "cpu", ["counts"])
    sleeping(jobs, number)
    jobs.stop(number)
    until(jobs, number, STOPPED)
    assert "interrupts: 1" in jobs.workspace.output(number)


def test_a_killed_command_is_told(make):
    jobs = make()
    run = until(jobs, jobs.add("train", "t", "cpu", ["killed"]), FAILED)
    assert run.code == -9 and run.note == "it was killed by signal 9 (out of memory?)"


def test_what_is_done_may_leave_a_note_and_its_command_can_be_typed(make):
    jobs = make()
    number = jobs.add("eval", "t", "cpu", ["note", "two words", "$HOME"])
    assert until(jobs, number, "done").note == "it is done, but"
    assert jobs.workspace.output(number).splitlines()[0] == "$ snnfast note 'two words' '$HOME'"
    number = jobs.add("eval", "t", "cpu", ["while", "0"])
    assert until(jobs, number, "done").note == ""


def test_a_program_that_is_not_there(make):
    jobs = make()
    jobs.program = (str(jobs.workspace.path / "nothing"),)
    run = until(jobs, jobs.add("eval", "t", "cpu", ["info"]), FAILED)
    assert run.code not in (0, None) or "without a word" in run.note

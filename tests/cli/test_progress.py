"""What commands tell where no terminal is, and a report that is whole whenever it is stopped."""

import io
import json
import os
import signal
import types

import pytest

from snnfast.cli import progress
from snnfast.cli.console import plain_console
from snnfast.cli.main import main
from snnfast.cli.signals import put_off


@pytest.fixture
def clock(monkeypatch):
    """Seconds that a test sets."""
    now = [100.0]
    monkeypatch.setattr(progress, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_a_line_a_minute_and_one_at_the_end(clock):
    told = []
    log = progress.Log(told.append)
    task = log.add_task("if, T = 8", total=800)
    for _ in range(100):
        clock[0] += 1.5
        log.advance(task, 8)
    assert [t["done"] for t in told] == [320, 640, 800]
    assert [t["seconds"] for t in told] == [60, 120, 150]
    assert [t["left"] for t in told] == [90, 30, 0]
    assert progress.line(told[0], 8, "images")[9:] == "if, T = 8: 40 of 100 images (40 %), 0:01:00 gone, 0:01:30 left"
    assert progress.line(told[-1])[9:] == "if, T = 8: 800 of 800 (100 %), 0:02:30 gone"


def test_what_was_done_before_a_resume_takes_no_time(clock):
    told = []
    log = progress.Log(told.append)
    task = log.add_task("if", total=100, completed=60)
    clock[0] += 61
    log.advance(task, 20)
    assert (told[0]["done"], told[0]["left"]) == (80, 61)
    log.update(task, note="test 97 %")
    assert len(told) == 1
    clock[0] += 60
    log.update(task, note="test 98 %")
    assert progress.line(told[1]).endswith("left, test 98 %")


def test_a_terminal_has_a_bar_and_a_file_its_lines(tmp_path, clock):
    out = io.StringIO()
    for terminal in (True, False):
        with progress.progress(plain_console(file=out, force_terminal=terminal), tmp_path / "log.jsonl") as bar:
            task = bar.add_task("if", total=3)
            for _ in range(3):
                clock[0] += 11
                bar.advance(task, 1)
    lines = [json.loads(text) for text in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [entry["done"] for entry in lines] == [1, 2, 3, 1, 2, 3]
    assert set(lines[0]) == {"time", "task", "done", "total", "note", "seconds", "left"}
    assert "if: 3 of 3 (100 %), 0:00:33 gone" in out.getvalue()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_report_is_whole_whenever_it_is_stopped(tmp_path, monkeypatch, capsys, heeds_interrupts, sent):
    """The signal comes while the first file is written; all files are there, and the exit code tells it."""
    from snnfast.reports import report

    checkpoint = _checkpoint(tmp_path)
    kept = report.save_rows

    def stopped(path, rows):
        monkeypatch.setattr(report, "save_rows", kept)  # once
        os.kill(os.getpid(), sent)
        return kept(path, rows)

    monkeypatch.setattr(report, "save_rows", stopped)
    code = main(["eval", str(checkpoint), "--T", "4", "--images", "10", "--out", str(tmp_path / "out")])
    assert code == 128 + sent
    assert {"report.json", "report.csv", "accuracy.png"} <= {p.name for p in (tmp_path / "out").iterdir()}
    assert json.loads((tmp_path / "out/report.json").read_text())["complete"] is True
    assert "stops when the report is written; once more stops at once\nsnnfast: stopped\n" in capsys.readouterr().err


def test_a_second_signal_acts_at_once(heeds_interrupts):
    with pytest.raises(KeyboardInterrupt), put_off("it"):
        os.kill(os.getpid(), signal.SIGINT)
        reached = True
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second one waited too")
    assert reached
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_is_not_lost_where_writing_fails(heeds_interrupts):
    with pytest.raises(KeyboardInterrupt), put_off("it"):
        os.kill(os.getpid(), signal.SIGINT)
        raise OSError("the disk is full")


def test_a_log_that_cannot_be_written_is_told(tmp_path, capsys):
    line = ["eval", str(_checkpoint(tmp_path)), "--T", "2", "--images", "5", "--out", str(tmp_path / "out")]
    assert main([*line, "--log-json", str(tmp_path / "none" / "log.jsonl")]) == 2
    assert "log.jsonl" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def _checkpoint(folder):
    import snnfast

    net = snnfast.models.vgg11(width=0.05, num_classes=10, in_channels=1)
    snnfast.save_checkpoint(folder / "net.pt", net, data="digits")
    return folder / "net.pt"

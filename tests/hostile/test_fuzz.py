"""A few seconds of what `make test-hostile` does for minutes."""

import contextlib
import json
import signal
import subprocess
import sys
import types
from pathlib import Path

FUZZ = Path(__file__).with_name("fuzz.py")


def test_some_cases():
    run = subprocess.run([sys.executable, FUZZ, "--seconds", "4", "--seed", "1"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr[-2000:]
    many = [int(line.split()[1]) for line in run.stdout.splitlines() if "cases from seed 1 on" in line]
    assert len(many) == 2 and min(many) >= 1


def test_a_failure_is_told_with_its_seed(tmp_path, monkeypatch, capsys):
    sys.path.insert(0, str(FUZZ.parent))
    import fuzz

    monkeypatch.setattr(fuzz, "FOUND", tmp_path)
    monkeypatch.setattr(fuzz, "damaged", lambda data, rng: b"\x00" * 10)
    monkeypatch.setattr(fuzz, "originals", lambda folder: (folder / "x.pt").write_bytes(b"1") and {"x.pt": lambda path: 1 / 0})
    assert fuzz.main(["--seconds", "5", "--seed", "7", "--only", "files"]) == 1
    out = capsys.readouterr().out
    assert "FAILED: --only files --seed 7: x.pt: ZeroDivisionError" in out
    assert (tmp_path / "7-x.pt").read_bytes() == b"\x00" * 10 and (tmp_path / "7-files.json").exists()


def test_a_case_that_ends_the_process_is_known_afterwards(tmp_path, monkeypatch, capsys):
    program = "import os, signal, sys; sys.path.insert(0, sys.argv[1]); import pathlib, fuzz; fuzz.FOUND = pathlib.Path(sys.argv[2])\n"
    program += "fuzz.an_op = lambda seed: os.kill(os.getpid(), signal.SIGSEGV) if seed == 9 else None\n"
    program += "fuzz.originals = lambda folder: {}\nfuzz.main(['--seconds', '60', '--seed', '7', '--only', 'ops'])"
    ended = subprocess.run([sys.executable, "-c", program, FUZZ.parent, tmp_path], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGSEGV, ended.stderr[-2000:]
    assert json.loads((tmp_path / "running.json").read_text()) == dict(kind="ops", seed=9)
    monkeypatch.syspath_prepend(str(FUZZ.parent))
    import fuzz

    monkeypatch.setattr(fuzz, "FOUND", tmp_path)
    monkeypatch.setattr(fuzz, "originals", lambda folder: {})
    assert fuzz.main(["--seconds", "0", "--only", "ops"]) == 0
    assert 'the last run was ended inside a case: {"kind": "ops", "seed": 9}' in capsys.readouterr().out
    assert not (tmp_path / "running.json").exists()


def test_guided_inputs_reach_the_readers(tmp_path, monkeypatch):
    """Whole programs are read, and a changed one is refused for what it says, not for its checksum."""
    stub = types.SimpleNamespace(instrument_imports=lambda **how: contextlib.nullcontext())
    monkeypatch.setitem(sys.modules, "atheris", stub)
    monkeypatch.syspath_prepend(str(FUZZ.parent))
    import guided

    target, heard = guided.Target(tmp_path), []
    for name, reader in target.readers.items():

        def listen(path, name=name, reader=reader):
            try:
                heard.append((name, reader(path) is not None))
            except ValueError as error:
                heard.append((name, str(error)))
                raise

        target.readers[name] = listen
    for data in target.corpus():
        target(data)
    assert heard == [("own.pt", True), ("objects.pt", True)]
    target(b"\0" + b"cos\nsystem\n.")
    assert heard[-1][0] == "own.pt" and "os.system" in heard[-1][1]

"""A few seconds of what `make test-hostile` does for minutes."""

import subprocess
import sys
from pathlib import Path

FUZZ = Path(__file__).with_name("fuzz.py")


def test_some_cases():
    run = subprocess.run([sys.executable, FUZZ, "--seconds", "8", "--seed", "1"], capture_output=True, text=True)
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

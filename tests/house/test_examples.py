"""The examples: each is short, runs, and draws its picture."""

import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_it_is_short_and_runs(script, tmp_path, monkeypatch):
    assert len(script.read_text().splitlines()) <= 60
    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path / "out.png")])
    runpy.run_path(str(script), run_name="__main__")
    assert (tmp_path / "out.png").stat().st_size > 20_000

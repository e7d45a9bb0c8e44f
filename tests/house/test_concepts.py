"""The page of concepts: its blocks run one after the other, and its pictures are drawn by an example."""

import runpy
import sys
from pathlib import Path

import pytest
from test_readme import blocks

ROOT = Path(__file__).resolve().parents[2]


def test_the_blocks_run_one_after_the_other():
    scope, found = {}, blocks(ROOT / "docs/concepts.md", "python")
    assert len(found) >= 6
    for block in found:
        exec(block, scope)


@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short_and_runs(script, tmp_path, monkeypatch):
    assert len(script.read_text().splitlines()) <= 60
    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path / "out.png")])
    runpy.run_path(str(script), run_name="__main__")
    assert (tmp_path / "out.png").stat().st_size > 20_000

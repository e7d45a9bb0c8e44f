"""The pages of concepts and of recipes: their blocks run one after the other. Pictures are drawn by an example."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
from test_readme import blocks

import snnfast

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("page", ["concepts.md", "recipes.md"])
@pytest.mark.filterwarnings("default::UserWarning")  # as a reader would have it: a short run says that neurons are not idle yet
def test_the_blocks_run_one_after_the_other(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    snnfast.data.declare_operators()  # before torchvision is imported
    torch.manual_seed(0)
    scope, found = {}, blocks(ROOT / "docs" / page, "python")
    assert len(found) >= 6
    for block in found:
        exec(block, scope)


@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short_and_runs(script, tmp_path, monkeypatch):
    assert len(script.read_text().splitlines()) <= 60
    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path / "out.png")])
    runpy.run_path(str(script), run_name="__main__")
    assert (tmp_path / "out.png").stat().st_size > 20_000

"""The README and the pages of docs: every Python block of the README runs, every command parses, every name is public."""

import inspect
import re
from pathlib import Path

import pytest

import snnfast
from snnfast.cli.main import parser

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page, language):
    return [block for kind, block in re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.S | re.M) if kind == language]


def test_the_readme_runs(tmp_path, monkeypatch):
    """Block after block, as a reader would paste them."""
    monkeypatch.chdir(tmp_path)
    scope = {}
    found = blocks(PAGES[0], "python")
    assert len(found) == 2
    for block in found:
        exec(compile(block, "README.md", "exec"), scope)
    report = scope["report"]
    assert report.ann > 95 and report.accuracy[-1] > report.ann - 2 and report.at[-1] == 256
    assert (tmp_path / "runs/first/accuracy.png").is_file() and scope["s"].shape == (64, 8, 16, 32, 32)


def test_the_readme_is_short():
    lines = PAGES[0].read_text().splitlines()
    assert len(lines) <= 125


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_are_short(page):
    assert not [line for line in page.read_text().splitlines() if len(line) > 140 and not line.startswith("|")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_parse(page):
    for block in blocks(page, ""):
        for line in block.splitlines():
            words = line.split("#")[0].split()
            if words[:1] == ["torchrun"]:
                words = words[words.index("-m") + 1 :]
            if words:
                assert words[0] == "snnfast", line
                parser().parse_args(words[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_compile_and_name_what_is_public(page):
    text = page.read_text()
    for block in blocks(page, "python"):
        compile(block, page.name, "exec")
    for name in set(re.findall(r"\bsnnfast((?:\.\w+)+)", text)):
        first, *rest = name[1:].split(".")
        assert first in snnfast.__all__, f"snnfast{name} is not public"
        found = getattr(snnfast, first)
        for part in rest:
            found = getattr(found, part)


def test_the_signature_of_iaf():
    """The first block of docs/ops.md is the signature as it is."""
    scope = {}
    exec(blocks(ROOT / "docs/ops.md", "python")[0], scope)
    written, real = (inspect.signature(f).parameters for f in (scope["iaf"], snnfast.iaf))
    assert [(p.name, p.default, p.kind) for p in written.values()] == [(p.name, p.default, p.kind) for p in real.values()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        assert target.startswith("https:") or (page.parent / target).exists(), target

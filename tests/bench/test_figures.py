"""What the READMEs say is what the stored rows say; the tables, pictures and checks are made of rows alone."""

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "bench"))

import check  # noqa: E402
import stored  # noqa: E402
import tables  # noqa: E402


@pytest.mark.parametrize("page", tables.PAGES)
def test_numbers_are_those_of_the_stored_rows(page):
    text = (ROOT / page).read_text()
    assert tables.written(text) == text, "run `make figures`"
    assert tables.MARKED.findall(text)
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text):
        assert (ROOT / page).parent.joinpath(picture).is_file(), picture


def test_another_row_changes_the_table(monkeypatch):
    rows = stored.read("transformers", tables.AVX512)
    new = next(row for row in reversed(rows) if row["arch"] == "vit_tiny") | dict(ratio=3.21, time="2999-01-01T00:00:00Z")
    monkeypatch.setattr(stored, "read", lambda bench, machine=None, folder=None: [*rows, new])
    text = (ROOT / "bench/README.md").read_text()
    other = tables.MARKED.sub(lambda m: m[1] + (tables.transformers() if m[2] == "transformers" else "") + m[3], text)
    assert "| 3.21: missed |" in other and "3.21" not in text


def test_rows_are_appended_and_read(tmp_path):
    facts = dict(cpu="A cpu", time="2026-01-02T00:00:00Z")
    stored.append("ops", facts, [dict(op="a", share=1.0)], tmp_path)
    stored.append("peers", facts, [dict(work="b")], tmp_path)
    stored.append("ops", facts | dict(time="2026-01-03T00:00:00Z"), [dict(op="a", share=2.0)], tmp_path)
    (file,) = tmp_path.iterdir()
    assert len(file.read_text().splitlines()) == 3
    rows = stored.read("ops", folder=tmp_path)
    assert [row["share"] for row in rows] == [1.0, 2.0] and stored.last(rows, "op") == {("a",): rows[1]}
    (tmp_path / "conv-a.jsonl").write_text(json.dumps(dict(shape=[1, 2], time="2026")) + "\n")  # an older file
    assert stored.last(stored.read("conv", folder=tmp_path), "shape")[(1, 2),]["of"] == "a"


def row(share, spread=0.05, us=None):
    """us: by default in proportion."""
    return dict(share=share, p20=share - spread, p80=share + spread, us=us or 100 / share)


def test_a_slower_row_is_warned_of_and_a_much_slower_one_fails():
    before = {("a",): row(0.9), ("b",): row(0.9), ("c",): row(0.9), ("gone",): row(0.9)}
    calls = []

    def measure():
        calls.append(1)
        return {("a",): row(0.88), ("b",): row(0.7), ("c",): row(0.5 if len(calls) < 3 else 0.58), ("new",): row(1.0)}

    found = {key[0]: (factor, word) for key, _, _, factor, word in check.judged(before, measure)}
    assert set(found) == {"a", "b", "c"} and len(calls) == 3
    assert found["a"][1] == "ok" and found["b"][1] == "slower"
    assert found["c"] == (pytest.approx(0.9 / 0.58), "FAILED")
    calls.clear()
    noisy = {("a",): row(0.9, 0.3)}
    (only,) = check.judged(noisy, lambda: calls.append(1) or {("a",): row(0.65)})
    assert only[-1] == "ok" and len(calls) == 1  # the spread of both explains it
    (only,) = check.judged(before | {("a",): row(0.9, us=100)}, lambda: {("a",): row(0.5, us=95)})
    assert only[-1] == "ok"  # a faster copy beside it, not a slower op
    (only,) = check.judged({("a",): row(0.5, us=100)}, lambda: {("a",): row(0.9, us=190)})
    assert only[-1] == "ok"  # everything took longer


def test_pictures_are_drawn_from_rows(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    import plot

    monkeypatch.setattr(sys, "argv", ["plot.py", "--out", str(tmp_path)])
    plot.main()
    assert {p.name for p in tmp_path.iterdir()} == {f"{name}.png" for name in plot.PICTURES}
    assert {p.name for p in (ROOT / "bench/figures").iterdir()} == {f"{name}.png" for name in plot.PICTURES}

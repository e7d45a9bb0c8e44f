"""Results of earlier commands stay, unless somebody asks for the place; pictures are left out where nothing can draw them."""

import sys

from snnfast.cli.main import main


def commands(checkpoint, tmp_path):
    line = ["eval", str(checkpoint), "--images", "8", "--T", "2", "--out", str(tmp_path / "run")]
    assert main(line) == 0
    return {
        "trace": ([str(checkpoint), "--T", "2", "--neurons", "2", "--layers", "layer1.2"], "trace.npz"),
        "diagnose": ([str(checkpoint), "--T", "2", "--images", "4"], "diagnosis.csv"),
        "compare": ([str(tmp_path / "run")], "compare.csv"),
    }


def test_nothing_is_overwritten_unasked(checkpoint, tmp_path, capsys):
    for name, (given, result) in commands(checkpoint, tmp_path).items():
        line = [name, *given, "--out", str(tmp_path / name)]
        assert main(line) == 0
        (tmp_path / name / result).write_text("mine")
        assert main(line) == 2
        assert f"holds {result} already: --overwrite replaces it, --out names another folder" in capsys.readouterr().err
        assert (tmp_path / name / result).read_bytes() == b"mine"
        assert main([*line, "--overwrite"]) == 0 and (tmp_path / name / result).read_bytes() != b"mine"


def test_without_matplotlib_the_numbers_are_written(checkpoint, tmp_path, capsys, monkeypatch):
    given = commands(checkpoint, tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for name, (line, result) in given.items():
        capsys.readouterr()
        assert main([name, *line, "--out", str(tmp_path / name)]) == 0
        there = {p.name for p in (tmp_path / name).iterdir()}
        assert result in there and not [p for p in there if p.endswith((".png", ".pdf"))]
        assert "pictures are left out, matplotlib is not installed: pip install snnfast[demo]" in capsys.readouterr().out

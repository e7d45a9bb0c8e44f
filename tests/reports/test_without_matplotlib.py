"""Where matplotlib is missing the numbers are written all the same."""

import json
import sys

import pytest
import torch
from torch import nn

import snnfast


@pytest.fixture
def report(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    net = nn.Sequential(nn.Linear(4, 8), snnfast.nn.QCFS(8, 1.0), nn.Linear(8, 2))
    torch.manual_seed(0)
    return snnfast.evaluate(snnfast.convert(net), [(torch.randn(6, 4), torch.zeros(6, dtype=torch.long))], T=4, statistics=True)


def test_a_report_is_saved_without_its_pictures(report, tmp_path):
    with pytest.warns(UserWarning, match=r"pictures are left out, matplotlib is not installed: pip install snnfast\[demo\]"):
        wrote = report.save(tmp_path)
    assert sorted(wrote) == sorted(p.name for p in tmp_path.iterdir()) == [
        "citations.bib", "layers.csv", "profile.csv", "report.csv", "report.json", "report.tex",
    ]  # fmt: skip
    assert json.loads((tmp_path / "report.json").read_text())["accuracy"] == report.accuracy


def test_a_picture_alone_is_refused_in_one_line(report, tmp_path):
    snn = snnfast.convert(nn.Sequential(nn.Linear(4, 8), snnfast.nn.QCFS(8, 1.0), nn.Linear(8, 2)))
    found = snnfast.diagnose(snn, torch.randn(4, 4), T=4)
    for draw in (report.plot, found.save):
        with pytest.raises(ValueError, match="pictures want the package matplotlib: pip install matplotlib"):
            draw(tmp_path / "curve.png")
    assert not list(tmp_path.iterdir())

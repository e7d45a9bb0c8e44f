"""Reports and names of others: what a file says is data, for LaTeX, a spreadsheet, a terminal and an error alike."""

import csv
import json

import pytest

from snnfast.cli.main import main
from snnfast.reports.report import Report, load_report

GOOD = dict(at=[1, 2], accuracy=[50.0, 75.0], images=4, seconds=1.0)
EVIL = {
    "tex": "1\n\\input{/etc/passwd}\\immediate\\write18{id}",
    "terminal": "\x1b]0;owned\x07\x1b[2J",
    "bidi": "a\u202eb\u2028c",
    "long": "x" * 1_000_000,
}


def write(folder, **fields):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(GOOD | fields))
    return folder


def test_settings_of_others_stay_text(tmp_path, capsys):
    run = write(tmp_path / "run", settings=EVIL, method={"method": "if"}, machine=EVIL)
    other = write(tmp_path / "other")
    out = tmp_path / "out"
    name = "=cmd|' /C calc'!A0"
    assert main(["compare", f"@SUM(A1:A9)={run}", f"plain={other}", "--out", str(out)]) == 0
    tex = (out / "compare.tex").read_text()
    for line in tex.splitlines():
        if "input" in line or "write18" in line:
            assert line.startswith("%") and "\\input" not in line and "\\write18" not in line
    said = capsys.readouterr().out
    assert "\x1b" not in said + tex and "\u202e" not in said and len(said) < 20_000
    with (out / "compare.csv").open() as file:
        names = {row["name"] for row in csv.DictReader(file)}
    assert names == {"'@SUM(A1:A9)", "plain"} and name not in names
    lines = Report(**GOOD, settings=EVIL).notes()
    assert all("\n" not in line and "\x1b" not in line and len(line) < 2100 for line in lines)


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(at=[]), "at must be increasing steps >= 1"),
        (dict(at=[2, 1]), "at must be increasing steps >= 1"),
        (dict(at=[1, True]), "at must be increasing steps >= 1"),
        (dict(at="12"), "at must be list, got str"),
        (dict(accuracy=[1.0]), "accuracy must have a number for each of 2 steps"),
        (dict(accuracy=["a", "b"]), "accuracy must have a number for each of 2 steps"),
        (dict(accuracy=[]), "accuracy must have a number for each of 2 steps"),
        (dict(loss=[1.0, 2.0, 3.0]), "loss must have a number for each of 2 steps"),
        (dict(images="4"), "images must be int, got str"),
        (dict(images=0), "images must be >= 1, got 0"),
        (dict(images=4.5), "images must be int, got float"),
        (dict(seconds="1"), "seconds must be float, got str"),
        (dict(ann=[1]), "ann must be float or nothing, got list"),
        (dict(settings=[1]), "settings must be dict, got list"),
        (dict(energy=[1]), "energy must be a list of dictionaries"),
        (dict(accuracy=[1e308, -1e308]), "accuracy must be from 0 to 100 %"),
        (dict(accuracy=[10.0, 150.0]), "accuracy must be from 0 to 100 %"),
        (dict(complete="yes"), "complete must be bool, got str"),
    ],
)
def test_wrong_fields_are_named(tmp_path, fields, message, capsys):
    folder = write(tmp_path / "run", **fields)
    with pytest.raises(ValueError, match=f"report.json: {message}"):
        load_report(folder)
    assert main(["compare", str(folder), "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 6000, "{}", "[]", "null", "\x00", '{"at": [1], "accuracy": [1.0], "images": 1}'])
def test_what_is_no_report(tmp_path, text):
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(ValueError, match="report.json is not a report of snnfast"):
        load_report(tmp_path)


@pytest.mark.parametrize("share", ["abc", [1], None, True, float("nan"), 10**400, -0.5])
@pytest.mark.parametrize("method", [{"method": None}, {"method": 3, "arch": ["x"]}, {"method": "a\nb" * 1000, "arch": "v_g%g"}])
def test_a_foreign_report_is_saved_as_a_table_and_pictures(tmp_path, share, method):
    energy = [dict(t=1, energy_pJ=1.0, energy_ratio=share), dict(t=2, energy_pJ=2.0, energy_ratio=0.25)]
    totals = dict(energy_ac_pJ=0.9, energy_mac_pJ=4.6)
    folder = write(tmp_path / "run", energy=energy, method=method, totals=totals | dict(firing_rate=0.1, SOPs=1.0, MACs=1.0))
    report = load_report(folder)
    assert "0.25" in report.latex() and "nan" not in report.latex()
    assert {"report.tex", "accuracy.pdf"} <= set(report.save(tmp_path / "out")) and len(report.label()) < 200


def test_names_of_tensors_in_errors_are_cut_and_plain(tmp_path, capsys):
    import torch

    torch.save({"layer1.\x1b[31m" + "y" * 1_000_000 + ".weight": torch.zeros(2, 2)}, tmp_path / "m.pth")
    assert main(["eval", str(tmp_path / "m.pth"), "--levels", "4", "--arch", "vgg11", "--data", "digits"]) == 2
    said = capsys.readouterr().err
    assert "\x1b" not in said and len(said) < 3000


def test_a_name_that_is_mathematics_in_a_picture(tmp_path):
    from snnfast.reports import plots

    rows = [dict(t=t, energy_pJ=10.0 * t) for t in GOOD["at"]]
    report = Report(**GOOD, energy=rows, totals=dict(energy_ac_pJ=0.9, energy_mac_pJ=4.6, ann_energy_pJ=5.0))
    plots.energy({"$\\frac{$": report}, tmp_path / "energy.png")
    assert (tmp_path / "energy.png").exists()

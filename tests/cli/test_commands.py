"""The command line as people meet it: help, exit codes, one line per error, compare, trace."""

import csv
import json
import re
import subprocess
import sys
import time
from typing import Literal, Optional

import command
import numpy as np
import pytest
import torch

import snnfast
from snnfast.cli.main import main
from snnfast.evaluation.compare import group, latex, rows
from snnfast.reports import raster


def help_of(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--help"])
    assert stopped.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", ["", "demo", "train", "eval", "compare", "trace", "diagnose", "info"])
def test_help_fits_a_screen(capsys, name):
    lines = help_of(capsys, *([name] if name else [])).splitlines()
    assert len(lines) <= 60 and max(map(len, lines)) <= 120


BAD = [
    (["--T", "0"], "T must be >= 1, got 0"),
    (["--T", "-3"], "T must be >= 1, got -3"),
    (["--T", "4", "--at", "5"], "at must be increasing steps between 1 and T = 4, got [5]"),
    (["--T", "4", "--at", "0"], "at must be >= 1, got 0"),
    (["--at", "two"], "--at takes steps, or 'all', got two"),
    (["--batch-size", "0"], "batch must be >= 1, got 0"),
    (["--chunk", "0"], "chunk must be >= 1, got 0"),
    (["--images", "0"], "images must be >= 1, got 0"),
    (["--memory", "much"], "memory must be 'auto', a number of bytes or a text such as '8GiB' or '500MB', got 'much'"),
    (["--memory", "1MiB"], "memory 1.00 MiB is too small: 1 image and 1 step at a time need about"),
    (["--dtype", "tf32"], "dtype 'tf32' is a format of GPUs, and the device is cpu"),
    (["--device", "cuda:77"], "--device cuda:77"),
    (["--data", "cifar10"], "data 'cifar10' needs a folder: give --data-dir (root=)"),
    (["--data", "imagefolder", "--data-dir", "/nowhere"], "data folder /nowhere is not there"),
    (["--preprocessing", "half"], "digits have their own preprocessing, got preprocessing 'half'"),
    (["--tau", "4"], "tau is an option of other methods, not of 'if'"),
    (["--method", "cos", "--T", "2"], "T must be >= rho = 4"),
    (["--num-classes", "7"], "was saved with num_classes=10, not 7"),
    (["--workers", "-1"], "workers must be >= 0, got -1"),
    (["--workers", "1000000"], "workers must be at most"),
    (["--memory", "1e400GiB"], "memory must be below 2^63 bytes, got '1e400GiB'"),
    (["--T", str(1 << 40)], "T must be <= 2^24 = 16777216, up to which counts are exact"),
    (["--T", "16000000", "--at", "all"], "--at all reads every step, at most 1000000; --T is 16000000"),
    (["--device", "meta"], "--device meta: its tensors hold no numbers"),
]


@pytest.mark.parametrize("given, message", BAD, ids=[" ".join(g) for g, _ in BAD])
def test_wrong_arguments_are_told_in_one_line_and_leave_nothing(checkpoint, tmp_path, capsys, given, message):
    out = tmp_path / "e"
    assert main(["eval", str(checkpoint), "--out", str(out), *given]) == 2
    error = capsys.readouterr().err
    assert error.startswith("snnfast: ") and message in error and error.count("\n") == 1
    assert not out.exists()


def test_debug_shows_where(checkpoint, tmp_path):
    for arguments in (("--debug", "eval", checkpoint, "--T", 0), ("eval", checkpoint, "--T", 0, "--debug")):
        code, out, error = command.run(*arguments)
        assert code == 1 and "Traceback" in error and "T must be >= 1, got 0" in error


def test_unexpected_errors_are_one_line_too(checkpoint, tmp_path, monkeypatch, capsys):
    from snnfast.cli import evaluate

    def fail(args):
        raise RuntimeError("the roof\nfell in")

    monkeypatch.setattr(evaluate, "load", fail)
    assert main(["eval", str(checkpoint), "--out", str(tmp_path / "e")]) == 1
    assert capsys.readouterr().err == "snnfast: unexpected RuntimeError: the roof fell in (--debug shows where)\n"


def test_no_bar_where_there_is_no_terminal(checkpoint, tmp_path):
    code, out, error = command.run("eval", checkpoint, "--T", 2, "--images", 4, "--out", tmp_path / "e")
    assert code == 0 and error == "" and "\x1b" not in out and "\r" not in out and "left" not in out


def test_labels_outside_of_the_classes(checkpoint, tmp_path, capsys, monkeypatch):
    from snnfast.data import sets

    real = sets.digits

    def wrong():
        train, test = real()
        test.tensors[1][11] = 10
        return train, test

    monkeypatch.setattr(sets, "digits", wrong)
    assert main(["eval", str(checkpoint), "--T", "2", "--images", "20", "--batch-size", "4", "--out", str(tmp_path / "e")]) == 2
    assert capsys.readouterr().err == "snnfast: the label of image 11 is 10, but the network has 10 classes\n"


def test_reading_every_step(checkpoint, tmp_path):
    out = tmp_path / "e"
    assert main(["eval", str(checkpoint), "--T", "5", "--at", "all", "--images", "9", "--save-predictions", "--out", str(out)]) == 0
    report = command.report(out)
    assert report["at"] == [1, 2, 3, 4, 5]
    with np.load(out / "predictions.npz") as file:
        assert file["predicted"].shape == file["margin"].shape == (9, 5) and file["index"].tolist() == list(range(9))
        right = (file["predicted"] == file["label"][:, None]).mean(0)
        assert report["accuracy"] == pytest.approx(100 * right)
        assert (file["margin"] >= 0).all()
    table = list(csv.DictReader((out / "report.csv").open()))
    assert [int(r["t"]) for r in table] == report["at"] and [float(r["accuracy"]) for r in table] == report["accuracy"]
    assert "@inproceedings{bu2022optimal" in (out / "citations.bib").read_text() and report["bibtex"].startswith("@inproceedings")
    assert {"cpu", "torch", "snnfast", "commit", "threads"} <= set(report["machine"]) and report["settings"]["T"] == 5


@pytest.fixture(scope="module")
def evaluations(checkpoint, tmp_path_factory):
    """Runs by name: the plain method, COS, and two more seeds (other images' noise: other weights)."""
    root = tmp_path_factory.mktemp("runs")
    for name, options in (("if", []), ("cos", ["--method", "cos"]), ("snm", ["--method", "snm"])):
        assert main(["eval", str(checkpoint), "--T", "8", "--images", "60", "--out", str(root / name), "--statistics", *options]) == 0
    return root


def test_compare_by_hand(evaluations, tmp_path):
    from scipy import stats

    out = tmp_path / "c"
    assert main(["compare", *(str(evaluations / n) for n in ("if", "cos", "snm")), "--out", str(out)]) == 0
    table = list(csv.DictReader((out / "compare.csv").open()))
    reports = {n: command.report(evaluations / n) for n in ("if", "cos", "snm")}
    groups = {n: group(n, [evaluations / n]) for n in reports}
    assert len(table) == 3 * 4
    for row in table:
        report = reports[row["name"]]
        i = report["at"].index(int(row["t"]))
        assert float(row["mean"]) == report["accuracy"][i] and float(row["deviation"]) == 0
        if row["name"] != "if":
            a, b = (groups[n].right[0][:, i] for n in ("if", row["name"]))
            only = int((a & ~b).sum()), int((b & ~a).sum())
            expected = stats.binomtest(only[0], sum(only)).pvalue if sum(only) else 1.0
            assert float(row["p"]) == pytest.approx(expected) and row["test"] == "McNemar"
            assert float(row["difference"]) == pytest.approx(report["accuracy"][i] - reports["if"]["accuracy"][i])
    for name in ("compare.pdf", "compare.png", "energy.pdf", "citations.bib", "compare.tex"):
        assert (out / name).stat().st_size > 200
    assert (out / "compare.pdf").read_bytes()[:4] == b"%PDF"
    bib = (out / "citations.bib").read_text()
    assert bib.count("bu2022optimal") == 1 and "hao2023bridging" in bib and "wang2022signed" in bib


NO_COLUMNS = dict(error=[], top5=[], loss=[], distance=[], agreement=[])  # beside the accuracy


def test_compare_over_seeds_by_hand(evaluations, tmp_path):
    """Six reports with made-up accuracies: means, sample deviations, paired t tests."""
    from scipy import stats

    numbers = {"a": [[90.0, 95.0], [91.0, 95.5], [89.5, 94.0]], "b": [[91.5, 95.0], [91.7, 95.5], [91.2, 94.0]]}
    for name, runs in numbers.items():
        for i, accuracy in enumerate(runs):
            folder = tmp_path / f"{name}{i}"
            folder.mkdir()
            report = dict(command.report(evaluations / "if"), at=[1, 4], accuracy=accuracy, **NO_COLUMNS)
            (folder / "report.json").write_text(json.dumps(report))
    groups = [group(n, [tmp_path / f"{n}{i}" for i in range(3)]) for n in numbers]
    found = rows(groups)
    for row in found:
        i = [1, 4].index(row["t"])
        values = [r[i] for r in numbers[row["name"]]]
        assert (
            row["mean"] == pytest.approx(np.mean(values)) and row["deviation"] == pytest.approx(np.std(values, ddof=1)) and row["runs"] == 3
        )
    b1 = next(r for r in found if r["name"] == "b" and r["t"] == 1)
    assert b1["p"] == pytest.approx(stats.ttest_rel([91.5, 91.7, 91.2], [90.0, 91.0, 89.5]).pvalue) and b1["test"] == "t"
    assert next(r for r in found if r["name"] == "b" and r["t"] == 4)["p"] is None  # no difference at all: nothing to test
    text = latex(groups, found)
    assert r"1 & $90.17 \pm 0.76$ & $91.47 \pm 0.25" in text and text.count(r"\\") == 4
    arguments = [f"{n}=" + ",".join(str(tmp_path / f"{n}{i}") for i in range(3)) for n in numbers]
    assert main(["compare", *arguments, "--out", str(tmp_path / "c")]) == 0


def test_compare_refuses(evaluations, tmp_path, capsys):
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "report.json").write_text(json.dumps(dict(command.report(evaluations / "if"), complete=False, images=12)))
    other = tmp_path / "other"
    other.mkdir()
    (other / "report.json").write_text(json.dumps(dict(command.report(evaluations / "if"), images=61)))
    later = tmp_path / "later"
    later.mkdir()
    (later / "report.json").write_text(json.dumps(dict(command.report(evaluations / "if"), at=[16], accuracy=[50.0], **NO_COLUMNS)))
    (tmp_path / "text").mkdir()
    (tmp_path / "text/report.json").write_text("[1, 2")
    own = str(evaluations / "if")
    for given, message in (
        ([own, str(tmp_path / "none")], "none is not there: give the folder of an evaluation, or its report.json"),
        ([own, str(tmp_path / "text")], "report.json is not a report of snnfast"),
        ([own, str(cut)], "was stopped after 12 images: finish it with snnfast eval --resume first"),
        ([own, str(other)], "only evaluations of the same images can be compared"),
        ([own, str(later)], "there is no common T to compare at"),
        ([own, own], "two runs are called if: give names, such as A="),
        (["A="], "a run is a folder, or NAME=FOLDER,FOLDER..., got 'A='"),
    ):
        assert main(["compare", *given, "--out", str(tmp_path / "c")]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("method", ["if", "snm", "srp", "cos", "stbif"])
@pytest.mark.parametrize("parity", [False, True])
def test_trace_is_the_definition(tiny, method, parity):
    """u = v before + x (x / theta in normalised units), a spike where the rule says so, v = u - s."""
    net, x = tiny
    snn = snnfast.convert(net, method, parity=parity)
    found = raster.record(snn, x[:3], 9, neurons=0)
    assert list(found) == [name for name, _ in snn.neurons()]
    negative = False
    for name, neuron in snn.neurons():
        a = {k: torch.from_numpy(v) for k, v in found[name].items()}
        unit = neuron.options["unit"]
        theta = a["theta"]
        x_in = a["x"] / theta if unit == "normalised" else a["x"]
        jump = 1.0 if unit == "normalised" else theta
        assert torch.equal(a["v"][:-1] + x_in[1:], a["u"][1:]) or torch.allclose(a["v"][:-1] + x_in[1:], a["u"][1:], rtol=1e-5, atol=1e-6)
        if method in ("if", "cos"):
            # u is rebuilt from v, so that one rounding may lie between it and what was compared: 1e-5.
            assert (a["s"] == (a["u"] >= jump * 1.0)).float().mean() > 0.9999 and set(a["s"].unique().tolist()) <= {0, 1}
        negative = negative or bool((a["s"] == -1).any())
        assert torch.allclose(a["u"] - a["s"] * jump, a["v"], rtol=1e-5, atol=1e-6)
    assert negative == (method in ("snm", "stbif"))


@pytest.mark.parametrize("method", ["if", "snm", "srp", "cos"])
def test_traced_neurons_fire_as_in_the_network(tiny, method):
    """Bit for bit: what the network's layers emit, but for SRP's mask."""
    net, x = tiny
    snn, emitted = snnfast.convert(net, method), {}
    observe = lambda node, current, s: emitted.setdefault(node.target, []).append(s.flatten(2).clone())
    for _ in snn.chunks(x[:2], 7, 2, observe=observe):
        pass
    found = raster.record(snn, x[:2], 7, neurons=0)
    for name, layer in found.items():
        s = torch.cat(emitted[name]) / torch.from_numpy(layer["theta"])
        traced = torch.from_numpy(layer["s"]).float()
        if method == "srp":
            traced = torch.where(s.abs().amax(0) > 0, traced, 0)  # neurons that emit nothing are masked, or silent
        assert torch.equal(s.round(), traced)


def test_trace_of_chosen_neurons_is_a_part_of_all(tiny):
    net, x = tiny
    snn = snnfast.convert(net)
    whole, part = raster.record(snn, x[:2], 5, ["layer3.2"], 0), raster.record(snn, x[:2], 5, ["layer3.2"], 7)
    places = part["layer3.2"]["neuron"]
    assert len(set(places.tolist())) == 7
    for key in ("x", "u", "v", "s"):
        assert np.array_equal(whole["layer3.2"][key][:, :, places], part["layer3.2"][key])
    with pytest.raises(ValueError, match="layers names conv9, which is no neuron layer; they are layer1.2"):
        raster.record(snn, x, 5, ["conv9"])


def test_trace_command(checkpoint, tmp_path, capsys):
    out = tmp_path / "t"
    base = ["trace", str(checkpoint), "--T", "6", "--out", str(out)]
    assert main([*base, "--images", "3", "0", "--layers", "layer1.2", "classifier.2", "--method", "snm"]) == 0
    with np.load(out / "trace.npz") as file:
        assert file["layer1.2/s"].shape == (6, 2, 32) and file["layer1.2/s"].dtype == np.int8 and file["images"].tolist() == [3, 0]
        assert file["classifier.2/x"].dtype == file["classifier.2/u"].dtype == np.float32
    assert {p.name for p in out.glob("*.png")} == {f"{n}-image{i}.png" for n in ("layer1.2", "classifier.2") for i in (3, 0)}
    for wrong, message in (
        (["--images", "360"], "--images must be between 0 and 359, got 360"),
        (["--layers", "x"], "which is no neuron layer"),
    ):
        assert main([*base, *wrong, "--overwrite"]) == 2
        assert message in capsys.readouterr().err


def test_reports_come_back_as_they_were(tiny, tmp_path):
    from snnfast.reports.report import load_report

    net, x = tiny
    report = snnfast.evaluate(snnfast.convert(net, "srp"), [(x, torch.arange(6))], T=4, ann=net, statistics=True, start_stop=True)
    wrote = report.save(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == set(wrote) and len(wrote) == 13
    assert (tmp_path / "accuracy.pdf").read_bytes()[:5] == (tmp_path / "energy.pdf").read_bytes()[:5] == b"%PDF-"
    again = load_report(tmp_path)
    assert again == report and again.columns() == report.columns()
    table = (tmp_path / "report.tex").read_text().splitlines()
    heads = r"$T$ & accuracy (\%) & $\Delta$ ANN & $E_\mathrm{SNN}/E_\mathrm{ANN}$ \\"
    assert table[:3] == [r"\begin{tabular}{rccc}", r"\toprule", heads] and table[3] == rf"ANN & {report.ann:.2f} &  &  \\"
    share = report.energy[-1]["energy_ratio"]
    last = rf"4 & {report.accuracy[-1]:.2f} & ${report.accuracy[-1] - report.ann:+.2f}$ & {share:.3g} \\"
    assert table[table.index(r"\bottomrule") - 1] == last and any(line.startswith("% settings: method srp") for line in table)
    assert [line.split(":")[0] for line in report.notes()][-2:] == ["settings", "machine"]
    assert re.search(r"peak memory [0-9.]+ [MG]iB; estimated [0-9.]+ [MG]iB", "\n".join(report.notes()))


def test_a_number_for_a_name_in_a_checkpoint(checkpoint, tmp_path, capsys):
    file = torch.load(checkpoint)
    file["state_dict"][7] = torch.zeros(2)
    torch.save(file, tmp_path / "net.pt")
    assert main(["eval", str(tmp_path / "net.pt"), "--out", str(tmp_path / "e")]) == 2
    assert "net.pt is damaged" in capsys.readouterr().err


def test_extract_onto_a_folder(checkpoint, tmp_path, capsys):
    assert main(["extract", str(checkpoint), str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"snnfast: {tmp_path} is a folder: name the file to write\n"


def test_an_output_that_nobody_reads(checkpoint, tmp_path):
    """As in `snnfast eval ... | head -1`: one line, not a traceback."""
    command_line = [sys.executable, "-m", "snnfast", "eval", str(checkpoint), "--T", "4", "--out", str(tmp_path / "e")]
    process = subprocess.Popen(command_line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    _, error = process.communicate(timeout=120)
    assert process.returncode == 2 and error.endswith("snnfast: the output was closed before its end\n") and "Traceback" not in error


def test_runs_of_many_steps_are_compared_in_seconds(tmp_path, capsys):
    steps = 30_000  # which took a minute and a half
    report = snnfast.Report(at=list(range(1, steps + 1)), accuracy=[50.0] * steps, images=10, seconds=1.0, ann=60.0)
    for name in ("a", "b"):
        report.save(tmp_path / name)
    began = time.process_time()
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "c")]) == 0
    assert time.process_time() - began < 20
    out = capsys.readouterr().out
    assert "60 of 30000 steps, all of them in compare.csv" in " ".join(out.split())
    assert len((tmp_path / "c/compare.csv").read_text().splitlines()) == 1 + 2 * steps


def test_flags_are_the_fields_of_inputs_and_methods(capsys, monkeypatch):
    """Those of a method of one's own too, as soon as it is registered."""
    import dataclasses

    from snnfast.cli.arguments import conversion_flags
    from snnfast.conversion import method

    assert set(conversion_flags()) == {"amplitude", "seed", "input_steps", "v0", "parity", "tau", "mask", "rho", "max_shift", "m"}
    monkeypatch.setattr(method, "REGISTRY", dict(method.REGISTRY))
    monkeypatch.setattr("snnfast.cli.arguments.REGISTRY", method.REGISTRY)

    @method.register("late")
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Late(method.Method):
        """Starts late.

        Args:
            wait: steps before the first, >= 0; none is usual.
            share: at most 50 % of them.
            needed: a number that must be given.
        """

        wait: int = 3
        share: Optional[float] = None
        order: Literal[1, 2] = 1
        quiet: bool = True
        needed: float

    assert conversion_flags()["wait"] == dict(metavar="N", type=int, help="Late: steps before the first, >= 0 (3)")
    told = " ".join(help_of(capsys, "eval").split())
    for part in (
        "Late: steps before the first",
        "Late: at most 50 % of them",
        "Late: 1, 2: order (1)",
        "--no-quiet",
        "a number that must be given --",
    ):
        assert part.removesuffix(" --") in told, part
    assert "MISSING" not in told


def test_poisson_input_on_the_command_line(tmp_path):
    from snnfast.cli.main import main

    net = snnfast.models.vgg11(width=0.05, in_channels=1, activation="qcfs", image_size=32)
    snnfast.save_checkpoint(tmp_path / "net.pt", net, data="digits", image_size=32, preprocessing="standardised")
    how = ["eval", str(tmp_path / "net.pt"), "--T", "2", "--images", "4", "--inputs", "poisson"]
    assert main([*how, "--amplitude", "2.5", "--seed", "7", "--out", str(tmp_path / "a")]) == 0
    settings = json.loads((tmp_path / "a/report.json").read_text())["method"]
    assert (settings["input"], settings["amplitude"], settings["seed"]) == ("poisson", 2.5, 7)
    assert main([*how, "--input-steps", "3", "--out", str(tmp_path / "b")]) == 2  # of rate input

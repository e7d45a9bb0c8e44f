"""What each layer loses, and why: planted faults are found under their own names, and the numbers are those of a simulation by hand."""

import pytest
import torch

import snnfast
from snnfast import nn
from snnfast.conversion import Percentile, methods
from snnfast.evaluation.diagnosis import FIELDS, PARTS


def small(relu=torch.nn.ReLU):
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(12, 40), relu(), torch.nn.Linear(40, 40), relu(), torch.nn.Linear(40, 40), relu(), torch.nn.Linear(40, 6)
    )
    return net, torch.randn(64, 12) * 3


def test_planted_faults_are_found():
    net, x = small()
    snn = snnfast.convert(net, "quanta", m=64, calibrate=Percentile(x, q=100.0))
    found = snnfast.diagnose(snn, x, T=4)
    assert found.agreement == 100 and all(row[part] < 0.05 for row in found.rows for part in ("error", *PARTS))
    dict(snn.neurons())["3"].theta /= 6  # a threshold that is too low
    found = snnfast.diagnose(snn, x, T=4)
    assert found.worst() == ("3", "clipped") and found.at("1", "error") < 0.05 < found.at("5", "inherited")
    assert (
        "3, " in found.advice()[0]
        and "more calibration images" in found.advice()[0]
        and "1 of 3 layers clip more than 1 %" in found.advice()[1]
    )
    # too few quanta in one step: rounding; steps at the wrong times: unevenness
    coarse = snnfast.diagnose(snnfast.convert(net, "group", m=3, calibrate=Percentile(x, q=100.0)), x, T=1)
    assert coarse.worst()[1] == "rounded" and coarse.at("1", "uneven") < 1e-6
    uneven = snnfast.diagnose(snnfast.convert(net, "if", calibrate=Percentile(x, q=100.0)), x, T=24)
    assert uneven.worst()[1] == "uneven" and uneven.at("1", "uneven") < 1e-6 < uneven.at("3", "uneven")


@pytest.mark.parametrize("method", ["if", "stbif", "quanta", "power", "group"])
@pytest.mark.parametrize("relu", [torch.nn.ReLU, torch.nn.ReLU6])
def test_numbers_by_hand(method, relu):
    net, x = small(relu)
    net, x = net.double(), x.double()  # in fp32 a potential on a rung fires or not by the order of its current's sum
    snn = snnfast.convert(net, method, calibrate=Percentile(x, q=98.0))
    found = snnfast.diagnose(snn, x, T=5)
    with torch.no_grad():
        wanted, s = net[1](net[0](x)), x.expand(5, -1, -1)
        for row, (_, layer), linear, activation, after in zip(found.rows, snn.neurons(), net[::2], net[1::2], net[2::2]):
            current = linear(s)
            s = layer(current)
            X, Y, ceiling = current.mean(0), s.mean(0), layer.theta * layer.most
            c = activation(X).clamp(max=float(ceiling))
            q = snnfast.qcfs(X, ceiling, 5 * layer.most)
            parts = activation(X) - wanted, c - activation(X), q - c, Y - q
            for name, part in zip(PARTS, parts):
                assert row[name] == pytest.approx(float(part.norm() / wanted.norm()), abs=2e-5), name
            assert row["error"] == pytest.approx(float((Y - wanted).norm() / wanted.norm()), abs=2e-5)
            assert torch.allclose(sum(parts), Y - wanted, atol=1e-5)
            assert row["firing_rate"] == pytest.approx(float((s != 0).double().mean()))
            silent = (wanted > 0) & ~(s != 0).any(0)
            assert row["silent"] == pytest.approx(100 * float(silent.sum() / (wanted > 0).sum()))
            wanted = activation(after(wanted)) if row is not found.rows[-1] else wanted
    assert tuple(found.rows[0]) == FIELDS


def test_quantised_networks_and_transformers(tmp_path):
    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.Linear(6, 20), nn.QCFS(8, 1.0), torch.nn.Linear(20, 20), nn.QCFS(8, 1.0), torch.nn.Linear(20, 3))
    found = snnfast.diagnose(snnfast.convert(net, "group", m=8), torch.randn(40, 6), T=1)
    assert all(row["error"] < 1e-6 and row["values_clipped"] is None for row in found.rows)
    vit = snnfast.models.vit_tiny(image_size=16, patch_size=8, dim=16, depth=1, heads=2, num_classes=5, levels=8).eval()
    with torch.no_grad():
        for p in vit.parameters():
            if p.dim() > 1:
                p.normal_(0, p[0].numel() ** -0.5)
    images = torch.randn(2, 3, 16, 16)
    with pytest.warns(UserWarning, match="T is too small"):
        early = snnfast.diagnose(snnfast.convert(vit, mode="differential"), images, 2)
    late = snnfast.diagnose(snnfast.convert(vit, methods.SignedQuanta(m=8), mode="differential"), images, 60)
    assert max(r["error"] for r in early.rows) > 0.1 and max(r["error"] for r in late.rows) < 1e-3
    for name in ("a.csv", "a.png"):
        early.save(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 500
    assert f"T = {early.T}, 2 images" in str(early) and len(str(early).splitlines()) == len(early.rows) + 3


def test_the_command(tmp_path, capsys, monkeypatch):
    from snnfast.cli.main import main

    monkeypatch.chdir(tmp_path)
    net = snnfast.models.vgg11(width=0.0625, in_channels=1, num_classes=10, levels=4)
    net.facts = dict(data="digits")
    snnfast.save_checkpoint(tmp_path / "net.pt", net)
    assert main(["diagnose", "net.pt", "--T", "3", "--images", "5", "--data", "digits"]) == 0
    told = capsys.readouterr().out
    assert "T = 3, 5 images" in told and "most is lost in" in told and (tmp_path / "runs/diagnose/diagnosis.png").exists()
    assert main(["diagnose", "net.pt", "--T", "0", "--data", "digits"]) == 2 and "T must be >= 1, got 0" in capsys.readouterr().err


def test_wrong_calls():
    net, x = small()
    snn = snnfast.convert(net, calibrate=x)
    for given, message in (((net, x, 4), "snn must be what snnfast.convert returned"), ((snn, [1, 2], 4), "images must be a torch.Tensor, got list"),
                           ((snn, x, 0), "T must be >= 1, got 0")):  # fmt: skip
        with pytest.raises((TypeError, ValueError), match=message):
            snnfast.diagnose(*given)

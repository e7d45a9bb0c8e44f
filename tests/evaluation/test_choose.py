"""The method that is chosen on images: what is taken, why, what is told, what is refused."""

import os
import signal

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import images, network

import snnfast
from snnfast.cli.main import main
from snnfast.conversion import Percentile
from snnfast.conversion.choice import Trial
from snnfast.evaluation.choose import CANDIDATES, DIFFERENTIAL, choose


@pytest.fixture(scope="module")
def digits():
    return pytest.importorskip("sklearn.datasets").load_digits()


@pytest.fixture(scope="module")
def trained(digits):
    """(a ReLU network, its images)"""
    x, y = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)
    torch.manual_seed(3)
    layers = nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10)
    net = nn.Sequential(*layers)
    optimiser = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(60):
        optimiser.zero_grad()
        F.cross_entropy(net(x[:900]), y[:900]).backward()
        optimiser.step()
    return net, x


def test_the_simplest_spike_that_keeps_the_answers(trained):
    net, x = trained
    taken = {}
    for T in (1, 64):
        snn = snnfast.convert(net, calibrate=x[:200], T=T)
        taken[T] = snn.choice.taken
        trials = snn.choice.trials
        assert [(t.method, t.options) for t in trials] == list(CANDIDATES[: len(trials)])
        assert trials[-1] is taken[T]  # the search ends there
        assert taken[T].share >= 0.99 > max([t.share for t in trials[:-1]], default=0)
        assert snn.method.name == taken[T].method
        # What was measured on half of the images holds for others.
        with torch.no_grad():
            same = (snn(x[900:], T=T).argmax(1) == net(x[900:]).argmax(1)).float().mean()
        low, high = taken[T].interval()
        assert low / 100 - 0.02 <= same <= 1, (T, low, same)
    assert taken[1].method == "quanta"
    assert taken[64].method == "if"


def test_it_measures_on_images_that_set_no_threshold(trained):
    """By hand: thresholds from every second image, agreement on the others."""
    net, x = trained
    trial = snnfast.convert(net, calibrate=x[:40], T=2).choice.trials[0]
    by_hand = snnfast.convert(net, "if", calibrate=x[:40:2])
    with torch.no_grad():
        same = by_hand(x[1:40:2], T=2).argmax(1) == net(x[1:40:2]).argmax(1)
    assert (trial.agreement, trial.images) == (int(same.sum()), 20)
    report = snnfast.evaluate(by_hand, [(x[1:40:2], torch.zeros(20, dtype=torch.long))], T=2, statistics=True)
    assert trial.energy_ratio == pytest.approx(report.totals["energy_ratio"], rel=1e-6)


def test_thresholds_of_the_one_that_is_taken_come_from_all_images(trained):
    net, x = trained
    snn = snnfast.convert(net, calibrate=x[:40], T=64)
    expected = snnfast.convert(net, snn.choice.taken.method, calibrate=x[:40], **snn.choice.taken.options)
    for (_, a), (_, b) in zip(snn.neurons(), expected.neurons()):
        assert torch.equal(a.theta, b.theta)


def test_an_energy_that_is_asked_for_is_kept(trained):
    net, x = trained
    free = snnfast.convert(net, calibrate=x[:200], T=4).choice
    assert free.taken.energy_ratio > 0.6
    held = snnfast.convert(net, calibrate=x[:200], T=4, energy=0.6).choice
    assert held.taken.energy_ratio <= 0.6
    assert held.taken.share == max(t.share for t in held.trials if t.energy_ratio <= 0.6)
    assert "within 0.6 of the network's energy" in held.why()
    assert held.falls_short() == (
        "no method reached 99 % of the network's answers at T = 4 within 0.6 times its energy; "
        f"{held.taken.name} has {held.taken.agreement} of {held.taken.images}, for {held.taken.energy_ratio:.2g} times the network's energy"
    )
    assert snnfast.convert(net, calibrate=x[:200], T=64).choice.falls_short() == ""
    with pytest.raises(ValueError, match=r"no method stays within energy=0.001 of the network's: the least is \w+ with 0\.\d+"):
        snnfast.convert(net, calibrate=x[:200], T=4, energy=0.001)


def test_other_thresholds_are_tried_where_nothing_is_good_enough(trained):
    net, x = trained
    told = []
    snn = choose(net, x[:100], 4, energy=0.6, on_trial=told.append)
    assert told == snn.choice.trials
    assert [t.options for t in told[-3:]] == [{"per_channel": True}, {"percentile": 100.0}, {"percentile": 99.0}]
    for asked in (dict(calibrate=Percentile(x[:100], q=99.5)), dict(calibrate=x[:100], percentile=99.5)):
        trials = snnfast.convert(net, T=4, energy=0.6, **asked).choice.trials
        assert len(trials) == len(CANDIDATES)  # the caller's thresholds stay


def test_a_transformer_is_chosen_for_in_mode_differential():
    ann = network("vit")
    x = images(ann, 12)
    snn = snnfast.convert(ann, calibrate=x, T=64)
    assert snn.clock.differential
    assert [(t.method, t.options) for t in snn.choice.trials] == list(DIFFERENTIAL[: len(snn.choice.trials)])
    assert snn.choice.taken.share == 1


def test_images_of_a_generator_and_of_batches(trained):
    net, x = trained
    expected = snnfast.convert(net, calibrate=x[:40], T=4)
    for given in ((x[i : i + 8] for i in range(0, 40, 8)), [(x[:16], None), (x[16:40], None)]):
        snn = snnfast.convert(net, calibrate=given, T=4)
        assert str(snn.choice) == str(expected.choice)
        for (_, a), (_, b) in zip(snn.neurons(), expected.neurons()):
            assert torch.equal(a.theta, b.theta)


def test_one_answer_says_little():
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        net[2].weight.zero_()
    assert "which all have one answer and so say little" in str(snnfast.convert(net, calibrate=torch.rand(20, 4), T=1).choice)


def test_it_is_told(trained):
    net, x = trained
    choice = snnfast.convert(net, calibrate=x[:200], T=4).choice
    text = str(choice)
    assert text.count("\n> ") == 1
    assert f"{choice.taken.agreement} of {choice.taken.images} images that set no threshold have the network's answer at T = 4" in text
    assert "on other images of the kind expect" in text
    assert "most is lost in " in text


def test_wilson():
    """Newcombe, Statistics in Medicine 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    for k, n, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)):
        assert Trial("if", {}, k, n).interval() == pytest.approx((100 * low, 100 * high), abs=0.01)


@pytest.mark.parametrize(
    "message, options",
    [
        ("T and energy choose a method: give no method", dict(method="if", T=4)),
        ("T and energy choose a method: give no fields of one with them, got m", dict(T=4, m=8)),
        ("energy is of a number of steps: give T", dict(energy=0.5)),
        ("T chooses the method by images: give calibrate=", dict(T=4, calibrate=None)),
        ("T must be >= 1, got 0", dict(T=0)),
        ("energy must be > 0, a share of the network's energy, got -1", dict(T=4, energy=-1)),
        ("calibrate must be at least 4 images", dict(T=4, calibrate=torch.rand(3, 1, 8, 8))),
        ("chosen by the agreement of classes.*two at least", dict(T=4, net=nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(64, 1)))),
        ("chosen by the agreement of classes", dict(T=4, net=nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Conv2d(3, 3, 1)))),
        ("net has no quantised activation", dict(T=4, net=nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))),
    ],
)
def test_refused_by_name(trained, message, options):
    net, x = trained
    options = dict(net=net, calibrate=x[:20]) | options
    with pytest.raises(ValueError, match=message):
        snnfast.convert(options.pop("net"), options.pop("method", None), **options)


def test_on_the_command_line(tmp_path, capsys, digits):
    net = snnfast.models.vgg11(width=0.05, num_classes=10, in_channels=1)
    snnfast.save_checkpoint(tmp_path / "net.pt", net, data="digits")
    line = ["convert", str(tmp_path / "net.pt"), "--T", "8", "--images", "20", "--out", str(tmp_path / "out" / "snn.pt")]
    assert main(line) == 0
    told = capsys.readouterr().out
    assert "> " in told and "on other images of the kind expect" in told and "these are training images" in told
    snn = snnfast.load_checkpoint(tmp_path / "out/snn.pt")
    assert snn.saved["T"] == 8 and snn.saved["chosen"] in told and snn.saved["data"] == "digits"
    # The last line is what the browser shows beside the state of the run, where the choice falls short.
    assert told.splitlines()[-1].startswith("note: no method reached 99 %" if "none reached" in told else "wrote ")
    assert snn(torch.rand(2, 1, 32, 32), T=8).shape == (2, 10)
    assert main(line) == 2
    assert "is there already: --overwrite replaces it" in capsys.readouterr().err
    assert main([*line, "--overwrite", "--method", "srp"]) == 0
    assert snnfast.load_checkpoint(tmp_path / "out/snn.pt").method.name == "srp"
    assert main([*line, "--overwrite", "--method", "cos", "--rho", "9"]) == 2
    assert "T must be >= rho = 9" in capsys.readouterr().err
    assert main([*line, "--overwrite", "--tau", "2"]) == 2
    assert "give no fields of one with them, got tau" in capsys.readouterr().err
    assert main([*line, "--overwrite", "--method", "srp", "--energy", "1"]) == 2
    assert "--energy chooses a method" in capsys.readouterr().err


def test_stopped_it_leaves_no_file(tmp_path, monkeypatch, digits, heeds_interrupts):
    net = snnfast.models.vgg11(width=0.05, num_classes=10, in_channels=1)
    snnfast.save_checkpoint(tmp_path / "net.pt", net, data="digits")
    from snnfast.cli import convert

    monkeypatch.setattr(convert, "choose", lambda *args, **options: os.kill(os.getpid(), signal.SIGINT))
    assert main(["convert", str(tmp_path / "net.pt"), "--T", "8", "--out", str(tmp_path / "snn.pt")]) == 130
    assert not (tmp_path / "snn.pt").exists()

"""Images that leave early: each with the answer of the whole run at its step, in less time, by a rule from other images."""

import time

import pytest
import torch
from conftest import threads
from torch import nn
from torch.nn import functional as F
from transformers import NETS, images, network

import snnfast

torch.manual_seed(0)
X = torch.rand(9, 3, 10, 10)


def net(pool=nn.MaxPool2d):
    torch.manual_seed(1)
    layers = nn.Conv2d(3, 6, 3, padding=1), snnfast.nn.QCFS(8, 1.0), pool(2), nn.Conv2d(6, 6, 3), snnfast.nn.QCFS(8, 0.7)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(54, 5))


WAYS = (
    {}, dict(method="srp", tau=3), dict(method="cos", rho=3), dict(method="stbif"), dict(method="snm"), dict(method="srp+stbif", tau=2),
    dict(method="quanta", m=4), dict(method="group", m=4), dict(mode="differential"), dict(mode="differential", inputs="rate", input_steps=5),
    dict(inputs="poisson"), dict(maxpool="gated"), dict(maxpool="average"),
)  # fmt: skip


def between(snn, x, T):
    """A rule by which some images leave at each of several steps."""
    at = [t for t in (4, 7, 11) if t < T] + [T]
    sure = torch.stack([y.double().softmax(1).amax(1) for _, y in snn.means(x, T, at)], 1)
    return snnfast.ExitRule(tuple(at), float(sure[:, :-1].flatten().quantile(0.7)), 0.0, 0.0, 1), at


def check(snn, x, T, **close):
    rule, at = between(snn, x, T)
    outputs, steps = snnfast.answer_early(snn, x, rule)
    whole = dict(zip(at, snn.logits(x, T, at=at)))
    assert len(steps.unique()) > 1
    for i, t in enumerate(steps.tolist()):
        if close:
            torch.testing.assert_close(outputs[i], whole[t][i], **close)
        else:
            assert torch.equal(outputs[i], whole[t][i]), (i, t)
        sure = [whole[s][i].double().softmax(0).max() >= rule.threshold for s in at]
        assert t == next((s for s, is_sure in zip(at, sure) if is_sure), T)


@pytest.mark.filterwarnings("ignore:T is too small")
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_outputs_are_those_of_the_whole_run(way):
    check(snnfast.convert(net(), **way), X, 16)


@pytest.mark.filterwarnings("ignore:T is too small")
@pytest.mark.parametrize("name", [n for n in NETS if n != "mst"])
def test_transformers_and_windows(name):
    ann = network(name)
    # Products by libraries may sum in another order for another batch.
    check(snnfast.convert(ann, mode="differential"), images(ann, 8), 16, rtol=1e-4, atol=1e-4)


def test_masks_and_poisson_numbers_go_with_the_image():
    layers = nn.Linear(6, 16), snnfast.nn.QCFS(8, 1.0), snnfast.nn.SpikeMask(0.3), nn.Linear(16, 4)
    snn = snnfast.convert(nn.Sequential(*layers), inputs="poisson", mode="per_step")
    check(snn, 3 * torch.randn(12, 6), 16)


def test_masks_in_front_of_the_neurons_stay_those_of_the_image():
    layers = snnfast.nn.SpikeMask(0.3), nn.Linear(6, 16), snnfast.nn.QCFS(8, 1.0), nn.Linear(16, 4)
    snn, x, y = snnfast.convert(nn.Sequential(*layers)), 3 * torch.randn(12, 6), torch.zeros(12, dtype=torch.long)
    check(snn, x, 16)
    rule, at = between(snn, x, 16)
    found = [snnfast.evaluate_early(snn, data, rule) for data in ([(x, y)], [(x[:5], y[:5]), (x[5:], y[5:])])]
    assert found[0].left_at == found[1].left_at and found[0].accuracy == found[1].accuracy


def test_poisson_images_keep_their_numbers_in_any_batches():
    snn, x = snnfast.convert(net(), inputs="poisson"), torch.rand(24, 3, 10, 10)
    rules = [snnfast.calibrate_exit(snn, data, 8, 0.1) for data in (x, x.split(5))]
    assert rules[0] == rules[1]
    found = snnfast.evaluate_early(snn, [(part, torch.zeros(len(part), dtype=torch.long)) for part in x.split(7)], rules[0])
    assert found.mean_steps == pytest.approx(rules[0].mean_steps)


def test_every_threshold_is_tried():
    from snnfast.evaluation.early import _lowest

    answers, sure = torch.zeros(2000, 3, dtype=torch.long), torch.zeros(2000, 3, dtype=torch.float64)
    sure[:, 0] = torch.arange(2000) * 1e-4
    sure[:, 1] = sure[:, 0] + 0.5
    answers[1999, 1] = 1  # who leaves there is wrong
    rule = _lowest(answers, sure, (1, 2, 8), 0.0)
    assert rule.threshold > float(sure[1999, 1]) and rule.error == 0 and rule.mean_steps == 8
    assert _lowest(answers, sure, (1, 2, 8), 1 / 2000).threshold == 0


@pytest.mark.parametrize("threshold", [0.0, None])
def test_currents_that_are_not_finite_are_told_once(threshold):
    """As many neurons as the whole run tells, whether the image leaves at once or others leave before it."""
    snn, x = snnfast.convert(net()), X.clone()
    x[3] = float("nan")
    rule = between(snnfast.convert(net()), X, 16)[0] if threshold is None else snnfast.ExitRule((4, 16), threshold, 0.0, 4.0, 1)
    with pytest.warns(UserWarning, match="currents were NaN or infinite") as whole:
        snn(x, T=16)
    with pytest.warns(UserWarning, match="currents were NaN or infinite") as found:
        snnfast.answer_early(snn, x, rule)
    layers = lambda told: str(told[0].message).split(", the output")[0].split(" (neurons)")[0]
    assert layers(found) == layers(whole)


def test_the_rule_by_hand():
    """Every threshold that occurs is tried: the rule's is the lowest above which all keep to the error."""
    snn = snnfast.convert(net())
    x = torch.rand(60, 3, 10, 10)
    for error in (0.0, 0.05, 0.2):
        rule = snnfast.calibrate_exit(snn, x, 16, error)
        assert rule.at == (1, 2, 4, 8, 16)
        means = torch.stack(list(snn.logits(x, 16, at=list(rule.at))), 1).double()  # [n, steps, classes]
        sure, answers = means.softmax(2).max(2)

        def left(threshold, sure=sure, answers=answers, at=rule.at):
            steps = [next((k for k, s in enumerate(row[:-1]) if s >= threshold), len(row) - 1) for row in sure.tolist()]
            wrong = sum(int(a[k] != a[-1]) for a, k in zip(answers, steps)) / len(steps)
            return wrong, sum(at[k] for k in steps) / len(steps)

        fits = [t for t in sorted(sure[:, :-1].flatten().tolist()) + [float("inf")]]
        lowest = next(t for i, t in enumerate(fits) if all(left(above)[0] <= error for above in fits[i:]))
        assert rule.threshold == lowest
        assert (rule.error, rule.mean_steps) == pytest.approx(left(lowest))
        outputs, steps = snnfast.answer_early(snn, x, rule)
        assert float(steps.double().mean()) == pytest.approx(rule.mean_steps)
        assert float((outputs.argmax(1) != answers[:, -1]).double().mean()) == pytest.approx(rule.error)


def test_digits_leave_early_and_take_less_time():
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    x, y = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)
    torch.manual_seed(3)
    ann = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10)
    )
    optimiser = torch.optim.Adam(ann.parameters(), 2e-3)
    for _ in range(40):
        optimiser.zero_grad()
        F.cross_entropy(ann(x[:900]), y[:900]).backward()
        optimiser.step()
    snn, T = snnfast.convert(ann, calibrate=x[:300]), 64
    rule = snnfast.calibrate_exit(snn, x[300:500], T, error=0.01)
    test = [(x[900:1100], y[900:1100])]
    found = snnfast.evaluate_early(snn, test, rule)
    full = snnfast.evaluate(snn, test, T, [T])
    assert rule.error <= 0.01
    assert abs(found.accuracy - full.accuracy[-1]) <= 3
    assert found.mean_steps < T / 2
    assert sum(found.left_at.values()) == found.images == 200
    assert sum(t * n for t, n in found.left_at.items()) / 200 == pytest.approx(found.mean_steps)
    never = snnfast.ExitRule((T,), 1.0, 0.0, T, 1)
    spent = lambda rule: min(_cpu(lambda: snnfast.evaluate_early(snn, test, rule)) for _ in range(2))
    with threads(1):  # which wait for nobody
        early, whole = spent(rule), spent(never)
    assert early < 0.75 * whole  # of CPU time
    assert f"{found.accuracy:.2f} % of 200 images" in str(found)


def _cpu(call):
    began = time.process_time()
    call()
    return time.process_time() - began


@pytest.mark.parametrize(
    "message, call",
    [
        (r"error must be in \[0, 1\), got 1", lambda snn: snnfast.calibrate_exit(snn, X, 4, error=1)),
        ("T must be >= 1, got 0", lambda snn: snnfast.calibrate_exit(snn, X, 0)),
        ("at must be increasing steps", lambda snn: snnfast.calibrate_exit(snn, X, 4, at=[3, 2])),
        ("snn must be what snnfast.convert returned", lambda snn: snnfast.calibrate_exit(net(), X, 4)),
        ("images must be a torch.Tensor, got int", lambda snn: snnfast.calibrate_exit(snn, [1, 2], 4)),
        ("images gave no images", lambda snn: snnfast.calibrate_exit(snn, X[:0], 4)),
        ("rule must be what snnfast.calibrate_exit returned", lambda snn: snnfast.evaluate_early(snn, [(X, X)], 0.9)),
        ("rule must be what snnfast.calibrate_exit returned", lambda snn: snnfast.answer_early(snn, X, None)),
        (
            r"labels must be a tensor \[B\]",
            lambda snn: snnfast.evaluate_early(snn, [(X, X[:, :1, 0, 0].long())], snnfast.calibrate_exit(snn, X, 2)),
        ),
        ("labels must be whole numbers", lambda snn: snnfast.evaluate_early(snn, [(X, X[:, 0, 0, 0])], snnfast.calibrate_exit(snn, X, 2))),
        ("first must have a number for each", lambda snn: snnfast.answer_early(snn, X, snnfast.calibrate_exit(snn, X, 2), torch.arange(4))),
        ("threshold must be a number", lambda snn: snnfast.ExitRule((4,), float("nan"), 0.0, 2.0, 1)),
        ("labels are needed", lambda snn: snnfast.evaluate_early(snn, [X], snnfast.calibrate_exit(snn, X, 2))),
        ("loader gave no images", lambda snn: snnfast.evaluate_early(snn, [], snnfast.calibrate_exit(snn, X, 2))),
        ("at must be increasing steps", lambda snn: snnfast.ExitRule((4, 2), 0.9, 0.0, 2.0, 1)),
        (
            "T must be >= rho = 4",
            lambda snn: snnfast.answer_early(snnfast.convert(net(), "cos", rho=4), X, snnfast.ExitRule((2, 8), 0.9, 0.0, 2.0, 1)),
        ),
        ("x must be a batch of images", lambda snn: snnfast.answer_early(snn, X[:, :1], snnfast.calibrate_exit(snn, X, 2))),
        ("one output of classes", lambda snn: snnfast.calibrate_exit(snnfast.convert(net()[:5]), X, 2)),
    ],
)
def test_refused_by_name(message, call):
    with pytest.raises((ValueError, TypeError), match=message):
        call(snnfast.convert(net()))

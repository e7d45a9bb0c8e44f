"""Every number of a report, from the outputs of each step; and that none depends on batch, chunk, order or process."""

import math

import numpy as np
import pytest
import torch
from conftest import threads
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import snnfast
from snnfast.evaluation import per_image
from snnfast.evaluation.statistics import Statistics

AT = [1, 2, 5, 8]


@pytest.fixture(scope="module")
def case(tiny):
    net, x = tiny
    x = torch.cat([x, x.flip(-1), x.roll(5, -1)])
    labels = torch.arange(len(x)) * 7 % 10
    snn = snnfast.convert(net)
    return net, snn, x, labels, snn.logits(x, 8)


def test_columns_against_the_outputs(case):
    net, snn, x, labels, y = case
    report = snnfast.evaluate(snn, [(x, labels)], T=8, at=AT, ann=net)
    with torch.no_grad():
        ann = net(x)
    for i, t in enumerate(AT):
        mean = y[:t].double().mean(0)
        assert report.accuracy[i] == 100 * int((mean.argmax(1) == labels).sum()) / 18
        assert report.top5[i] == 100 * int((mean.topk(5).indices == labels[:, None]).any(1).sum()) / 18
        # The mean is rounded to fp32 once, 6e-8 relative, before these are taken of it.
        assert report.loss[i] == pytest.approx(float(F.cross_entropy(mean, labels)), rel=1e-5)
        assert report.distance[i] == pytest.approx(float((mean - ann.double()).square().mean(1).sqrt().mean()), rel=1e-5)
        assert report.agreement[i] == 100 * int((mean.argmax(1) == ann.argmax(1)).sum()) / 18
        share = report.accuracy[i] / 100
        assert report.error[i] == pytest.approx(100 * math.sqrt(share * (1 - share) / 18))
    assert report.ann == 100 * int((ann.argmax(1) == labels).sum()) / 18


def test_start_stop_against_the_outputs(case):
    net, snn, x, labels, y = case
    found = snnfast.evaluate(snn, [(x, labels)], T=8, at=AT, start_stop=True).start_stop
    assert found["first_step"] == [1, 2, 3, 6] and found["last_step"] == AT
    for i, first in enumerate(found["first_step"]):
        for j, last in enumerate(AT):
            if first > last:
                assert found["accuracy"][i][j] is None
            else:
                right = y[first - 1 : last].double().sum(0).argmax(1) == labels
                assert found["accuracy"][i][j] == 100 * int(right.sum()) / 18


def test_early_exit_against_the_outputs(case):
    net, snn, x, labels, y = case
    report = snnfast.evaluate(snn, [(x, labels)], T=8, at=AT)
    means = torch.stack([y[:t].double().mean(0) for t in AT])
    sure = means.softmax(2).amax(2)
    for row in report.early_exit:
        steps, right = 0, 0
        for n in range(18):
            k = next((k for k in range(4) if sure[k, n] >= row["threshold"] or k == 3), 3)
            steps, right = steps + AT[k], right + int(means[k, n].argmax() == labels[n])
        assert (row["mean_steps"], row["accuracy"]) == (steps / 18, 100 * right / 18)
    assert report.early_exit[0]["mean_steps"] == 1 and report.early_exit[-1]["threshold"] == 1.0


def test_energy_at_t_is_that_of_a_run_of_t_steps(case):
    net, snn, x, labels, _ = case
    for method in ("if", "stbif", "cos"):
        snn = snnfast.convert(net, method)
        report = snnfast.evaluate(snn, [(x[:9], labels[:9]), (x[9:], labels[9:])], T=13, chunk=3, statistics=True)
        assert [row["t"] for row in report.energy] == [t for t in (1, 2, 4, 8, 13) if t >= snn.method.least_T]
        # Means of whole numbers over two batches and over one: the same sums, divided in another place. 1e-12 is some roundings in fp64.
        for row in report.energy:
            alone = snnfast.evaluate(snn, [(x, labels)], T=row["t"], statistics=True).totals
            assert (row["spikes"], row["SOPs"], row["MACs"]) == pytest.approx((alone["spikes"], alone["SOPs"], alone["MACs"]), rel=1e-12)


def plain(report):
    return {k: v for k, v in vars(report).items() if k not in ("seconds", "speed", "memory", "profile", "machine", "record", "facts")}


@pytest.mark.parametrize("method", ["if", "srp", "cos"])
def test_reports_do_not_depend_on_batch_and_chunk(case, method):
    """Fixed shapes: equal to the last bit, losses and distances included, whatever the batches."""
    net, _, x, labels, _ = case
    snn = snnfast.convert(net, method)
    options = dict(T=8, at=AT, ann=net, deterministic=True, statistics=True, start_stop=True)
    whole = snnfast.evaluate(snn, [(x, labels)], chunk=8, **options)
    for sizes, chunk in (((5, 1, 12), 4), ((18,), 5), ((1,) * 18, 4)):
        parts = list(zip(x.split(list(sizes)), labels.split(list(sizes))))
        assert plain(snnfast.evaluate(snn, parts, chunk=chunk, **options)) == plain(whole)
    data = TensorDataset(x, labels)
    assert plain(snnfast.evaluate(snn, data, batch=4, **options)) == plain(whole)
    with threads(3 - min(torch.get_num_threads(), 2)):
        assert plain(snnfast.evaluate(snn, data, batch=7, **options)) == plain(whole)


def test_poisson_depends_on_the_image_not_on_the_batch(case):
    net, _, x, labels, _ = case
    snn = snnfast.convert(net, inputs="poisson", amplitude=3.0)
    whole = snnfast.evaluate(snn, [(x, labels)], T=4, deterministic=True)
    cut = snnfast.evaluate(snn, TensorDataset(x, labels), T=4, batch=5, deterministic=True)
    assert plain(whole) == plain(cut)


def test_statistics_add_up_in_any_order(case):
    net, snn, x, labels, _ = case
    whole, parts = Statistics(snn), []
    for _ in snn.means(x, 8, [8], statistics=whole):
        pass
    for piece in x.split(7):
        part = whole.empty()
        for _ in snn.means(piece, 8, [8], statistics=part):
            pass
        parts.append(part.state())
    total = Statistics(snn)
    for state in reversed(parts):
        total.add(state)
    assert total.rows() == whole.rows() and total.over_time() == whole.over_time()
    with pytest.raises(ValueError, match="statistics of T = 8 cannot take in a run of T = 4"):
        list(snn.means(x, 4, [4], statistics=total))


def test_an_image_counts_once():
    one = dict(index=np.array([3, 1]), label=np.array([0, 1]))
    two = dict(index=np.array([1, 0]), label=np.array([1, 5]))
    assert per_image.joined([one, two])["index"].tolist() == [0, 1, 3]
    assert per_image.joined([one, two])["label"].tolist() == [5, 1, 0]
    assert per_image.from_bytes(per_image.to_bytes(one))["index"].tolist() == [3, 1]


def test_two_classes_and_one(tiny):
    """Fewer than five classes: all of them are among the five largest."""
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), snnfast.nn.QCFS(4, 1.0), torch.nn.Linear(4, 2))
    report = snnfast.evaluate(snnfast.convert(net), [(torch.randn(6, 3), torch.tensor([0, 1] * 3))], T=4)
    assert report.top5 == [100.0] * 3
    one = torch.nn.Sequential(torch.nn.Linear(3, 4), snnfast.nn.QCFS(4, 1.0), torch.nn.Linear(4, 1))
    assert snnfast.evaluate(snnfast.convert(one), [(torch.randn(6, 3), torch.zeros(6, dtype=torch.long))], T=2).accuracy == [100.0, 100.0]

"""What a stranger's evaluation ran into once, each with the number or message it should give."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

import snnfast
from snnfast import nn
from snnfast.evaluation import fingerprint
from snnfast.evaluation.evaluation import Evaluation
from snnfast.evaluation.statistics import Statistics
from snnfast.reports import raster
from snnfast.runtime.execution import Execution

Q = nn.QCFS


def small(*layers):
    """Every layer with weights of its own, the same in each call."""
    generator = torch.Generator().manual_seed(0)
    net = torch.nn.Sequential(*layers).eval()
    with torch.no_grad():
        for p in (p for m in layers if not isinstance(m, Q) for p in m.parameters()):
            p.copy_(torch.randn(p.shape, generator=generator) / p[0].numel() ** 0.5)
    return net


def mlp():
    """Widths at which a library's small products were seen to depend on where a row lies in memory."""
    return small(torch.nn.Linear(147, 33), Q(4, 1.0), torch.nn.Linear(33, 77), Q(4, 1.0), torch.nn.Linear(77, 10))


@pytest.mark.parametrize("make, shape", [
    (mlp, (147,)),
    (lambda: small(torch.nn.Conv2d(1, 12, 3), Q(4, 1.0), torch.nn.Flatten(), torch.nn.Linear(300, 33), Q(4, 1.0), torch.nn.Linear(33, 10)),
     (1, 7, 7)),
    (lambda: small(torch.nn.ConvTranspose2d(2, 5, 3), Q(4, 1.0), torch.nn.Flatten(), torch.nn.Linear(5 * 49, 10)), (2, 5, 5)),
    (lambda: small(torch.nn.LayerNorm(19), torch.nn.Linear(19, 31), Q(4, 1.0), torch.nn.Linear(31, 3)), (19,)),
    (lambda: small(torch.nn.Conv1d(3, 7, 3), Q(4, 1.0), torch.nn.Flatten(), torch.nn.Linear(7 * 9, 5)), (3, 11)),
])  # fmt: skip
@pytest.mark.parametrize("products", ["sparse", "dense"])
def test_fixed_shapes_whatever_the_layer(make, shape, products):
    snn, x = snnfast.convert(make()), torch.randn(37, *shape)
    run = lambda x, c: torch.cat(list(snn.chunks(x, 9, c, execution=Execution(snn.gm, deterministic=True, products=products))))
    whole = run(x, 8)
    for batch, chunk in ((1, 1), (5, 3), (16, 8), (37, 2)):
        assert torch.equal(torch.cat([run(part, chunk) for part in x.split(batch)], 1), whole), (batch, chunk)


def test_networks_that_differ_in_a_setting_are_not_the_same():
    """Weights and code are equal in each pair; results are not."""
    conv = lambda mode: small(torch.nn.Conv2d(1, 2, 3, padding=1, padding_mode=mode), Q(4, 1.0), torch.nn.Flatten(), torch.nn.Linear(98, 3))
    pools = lambda: small(torch.nn.Conv2d(1, 2, 3), Q(4, 1.0), torch.nn.MaxPool2d(2), torch.nn.Flatten(), torch.nn.Linear(18, 3))
    hashes = [
        fingerprint.of_network(snnfast.convert(net, **options))
        for net, options in [(pools(), dict(maxpool=form)) for form in ("difference", "gated", "average")]
        + [(_levels(n), {}) for n in (4, 8)]
        + [(_levels(4), dict(method="snm", caps=(-1, 5))), (_levels(4), dict(method="snm", caps=(-2, 5)))]
    ]
    hashes += [fingerprint.of_network(snnfast.convert(conv(mode))) for mode in ("zeros", "circular")]
    assert len(set(hashes)) == len(hashes)
    assert fingerprint.of_network(snnfast.convert(_levels(4))) == fingerprint.of_network(snnfast.convert(_levels(4)))


def _levels(n):
    return small(torch.nn.Linear(3, 4), Q(n, 1.0), torch.nn.Linear(4, 2))


def test_data_that_differ_in_a_label_or_an_image_are_not_the_same():
    x, y = torch.randn(1000, 3), torch.arange(1000) % 7
    other = y.clone()
    other[501] = 3 - other[501]
    moved = x.clone()
    moved[0] += 1
    sets = [TensorDataset(x, y), TensorDataset(x, other), TensorDataset(moved, y), TensorDataset(x[:999], y[:999])]
    assert len({fingerprint.of_data(s) for s in sets}) == 4
    assert fingerprint.of_data(torch.utils.data.Subset(sets[0], range(999))) == fingerprint.of_data(sets[3])


def plain():
    return small(torch.nn.Linear(6, 12), Q(4, 1.0), torch.nn.Linear(12, 7)), torch.randn(23, 6), torch.arange(23) % 7


def test_statistics_count_once():
    net, x, y = plain()
    snn = snnfast.convert(net)
    evaluation = Evaluation(snn, TensorDataset(x, y), 8, statistics=True)
    evaluation.run()
    assert evaluation.report().totals == evaluation.report().totals and evaluation.report().totals["images"] == 23
    own = Statistics(snn)
    for many in (1, 2):
        report = snnfast.evaluate(snn, TensorDataset(x, y), T=8, statistics=own)
        assert report.totals["images"] == 23 and own.totals()["images"] == 23 * many
    with pytest.raises(ValueError, match="statistics of T = 8 cannot take in a run of T = 4"):
        Evaluation(snn, TensorDataset(x, y), 4, statistics=own)  # before anything is run


def test_weights_that_are_not_finite_are_told():
    """Those of a spiking network that were changed after it was converted; `convert` refuses others by name."""
    net, x, y = plain()
    snn = snnfast.convert(net)
    with torch.no_grad():
        next(p for p in reversed(list(snn.parameters())) if p.shape == net[2].bias.shape)[3] = torch.nan
    with pytest.raises(ValueError, match="the outputs of image 0 are not finite after 1 steps: is it, or are the weights?"):
        snnfast.evaluate(snn, [(x, y)], T=4)


def test_equal_outputs_count_in_the_order_of_the_classes():
    """A network that answers 0 for every class: top-5 then holds the first five, as top-1 holds the first."""
    net = small(torch.nn.Linear(3, 4), Q(4, 1.0), torch.nn.Linear(4, 9))
    with torch.no_grad():
        net[2].weight.zero_(), net[2].bias.zero_()
    report = snnfast.evaluate(snnfast.convert(net), [(torch.randn(9, 3), torch.arange(9))], T=2)
    assert report.accuracy == [pytest.approx(100 / 9)] * 2 and report.top5 == [pytest.approx(500 / 9)] * 2


def test_a_finished_run_is_let_go(tmp_path):
    net, x, y = plain()
    snn, data = snnfast.convert(net), TensorDataset(x, y)
    first = snnfast.evaluate(snn, data, T=4, progress=tmp_path)
    assert snnfast.evaluate(snn, data, T=4, progress=tmp_path, resume=True).loss == first.loss

    class Broken(Dataset):
        def __len__(self):
            return 23

        def __getitem__(self, i):
            if i == 11:
                raise OSError("a broken picture")
            return x[i], y[i]

    with pytest.raises(OSError) as kept:  # and the exception is kept, as a notebook does
        snnfast.evaluate(snn, Broken(), T=4, batch=5, progress=tmp_path / "b")
    assert "a broken picture" in str(kept.value)
    with pytest.raises(OSError, match="a broken picture"):
        snnfast.evaluate(snn, Broken(), T=4, batch=5, progress=tmp_path / "b", resume=True)


def test_a_folder_that_is_removed_is_told_at_the_next_batch(tmp_path):
    import shutil

    net, x, y = plain()
    gone = []

    def on_chunk(n):
        if not gone:
            gone.append(shutil.rmtree(tmp_path / "p"))

    with pytest.raises(OSError, match="progress.sqlite was removed while the run went on"):
        snnfast.evaluate(snnfast.convert(net), TensorDataset(x, y), T=4, batch=5, progress=tmp_path / "p", on_chunk=on_chunk)


@pytest.mark.parametrize("kind", ["numpy label", "numpy image", "list"])
def test_data_sets_that_torch_takes(kind, tmp_path):
    net, x, y = plain()

    class Own(Dataset):
        def __len__(self):
            return len(x)

        def __getitem__(self, i):
            pair = dict([("numpy label", (x[i], y[i].numpy())), ("numpy image", (x[i].numpy(), int(y[i]))), ("list", [x[i], int(y[i])])])
            return pair[kind]

    snn = snnfast.convert(net)
    expected = snnfast.evaluate(snn, TensorDataset(x, y), T=4).accuracy
    assert snnfast.evaluate(snn, Own(), T=4, progress=tmp_path).accuracy == expected
    assert snnfast.evaluate(snn, DataLoader(Own(), 5), T=4).accuracy == expected


def test_every_module_keeps_its_mode():
    net, x, y = plain()
    net.train()
    net[1].eval()
    snnfast.evaluate(snnfast.convert(net), [(x, y)], T=2, ann=net)
    assert [m.training for m in net.modules()] == [True, True, False, True]


BAD = [
    (lambda n, x, y: (n.double(), [(x, y)], {}), TypeError, "images have dtype float32, but the network's weights float64: convert one of them"),
    (lambda n, x, y: (n, [(x.double(), y)], {}), TypeError, "images have dtype float64, but the network's weights float32"),
    (lambda n, x, y: (n.double(), [(x.double(), y)], dict(dtype="bf16")), ValueError,
     "dtype 'bf16' is for networks in float32, and this one is in float64"),
    (lambda n, x, y: (n, [(x, y.numpy())], {}), TypeError, "labels must be a torch.Tensor, got ndarray"),
    (lambda n, x, y: (n, [(x, y[:4])], {}), ValueError, r"labels must be a tensor \[B\] beside images .*, got shape \(4,\)"),
    (lambda n, x, y: (n, [(x, y.float())], {}), TypeError, "labels must be whole numbers, got dtype float32"),
    (lambda n, x, y: (n, [(x, y - 1)], {}), ValueError, "the label of image 0 is -1, but the network has 7 classes"),
    (lambda n, x, y: (n, [(x, y)], dict(ann=torch.nn.Linear(6, 3))), ValueError, r"ann must give logits \[23, 7\], as snn does, got shape \(23, 3\)"),
    (lambda n, x, y: (n, [(torch.where(torch.arange(23)[:, None] == 5, torch.nan, x), y)], {}), ValueError,
     "image 5 has values that are not finite"),
    (lambda n, x, y: (n, [], {}), ValueError, "loader gave no images"),
    (lambda n, x, y: (n, 5, {}), TypeError, "loader must be a data set or an iterable of .images, labels., got int"),
    (lambda n, x, y: (n, [(x, y)], dict(resume=True)), ValueError, "resume and overwrite are of a folder of finished batches: give progress="),
    (lambda n, x, y: (n, [(x, y)], dict(T=300, at=list(range(1, 301)), start_stop=True)), ValueError, "give at= with at most 256 of them, got 300"),
]  # fmt: skip


@pytest.mark.parametrize("given, error, message", BAD, ids=range(len(BAD)))
def test_refused(given, error, message):
    net, loader, options = given(*plain())
    with pytest.raises(error, match=message):
        snnfast.evaluate(snnfast.convert(net), loader, **{"T": 4, **options})


def test_batch_and_chunk_beyond_the_data(tmp_path):
    net, x, y = plain()
    plans = []
    snnfast.evaluate(snnfast.convert(net), TensorDataset(x, y), T=4, batch=10**6, chunk=10**6, memory="4GiB", on_plan=plans.append)
    assert (plans[0].batch, plans[0].chunk) == (23, 4)


def test_many_delayed_readouts_are_planned_and_drawn(tmp_path):
    net, x, y = plain()
    plans = []
    report = snnfast.evaluate(
        snnfast.convert(net), TensorDataset(x, y), T=200, at=list(range(1, 201)), start_stop=True, on_plan=plans.append
    )
    assert plans[0].parts["outputs"] == 8 * 23 * 7 * 204 and len(report.start_stop["accuracy"]) == 200
    report.save(tmp_path)
    assert (tmp_path / "start_stop.png").stat().st_size < 300_000
    assert [row[-1] for row in report.start_stop["accuracy"]][0] == report.accuracy[-1]


def test_a_layer_that_is_used_twice_is_traced_at_both_places():
    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.c, self.f = torch.nn.Linear(4, 6), torch.nn.Linear(6, 6), torch.nn.Linear(6, 3), Q(4, 1.0)

        def forward(self, x):
            return self.c(self.f(self.b(self.f(self.a(x)))))

    found = raster.record(snnfast.convert(Twice()), torch.randn(2, 4), 5)
    assert len(found) == 2 and all(name.startswith("f@") for name in found)
    assert all(layer["x"].shape == layer["s"].shape == layer["v"].shape == (5, 2, 6) for layer in found.values())


def test_files_are_whole_or_not_there(tmp_path):
    from snnfast.reports.report import whole

    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(KeyError), whole(tmp_path / "a.txt") as part:
        part.write_text("ne")
        raise KeyError
    assert (tmp_path / "a.txt").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_reports_are_plain_json(tmp_path):
    net, x, y = plain()
    report = snnfast.evaluate(snnfast.convert(net), [(x, y)], T=4, statistics=True)
    report.save_json(tmp_path / "r.json")
    json.loads((tmp_path / "r.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert not dataclasses.asdict(report)["distance"] and np.isfinite(report.loss).all()

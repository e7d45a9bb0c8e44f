"""Networks whose neurons send several quanta a step: how near they come, what they cost, in files, in exact products, in mode "differential"."""

import pytest
import torch

import snnfast
from snnfast import nn
from snnfast.conversion import methods
from snnfast.evaluation.statistics import Statistics


def small():
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Conv2d(8, 8, 3, padding=1), torch.nn.ReLU(),
        torch.nn.AvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(32, 5),
    )  # fmt: skip
    return net, torch.randn(24, 3, 8, 8)


@pytest.mark.parametrize("kind", [methods.SignedQuanta(), methods.SignedQuanta(ladder="power"), methods.Group(m=32)], ids=lambda m: m.name)
def test_few_steps_come_near(kind):
    """One step of 32 quanta is nearer than 16 of the plain neuron; each halving of the error takes twice the steps, on a constant image."""
    net, x = small()
    wanted = net(x).detach()
    error = lambda method, T: float((snnfast.convert(net, method, calibrate=x, percentile=100)(x, T=T) - wanted).norm() / wanted.norm())  # noqa: E731
    plain = error("if", 16)
    if kind.name == "power":  # amplitudes are coarse: a few steps
        assert error(kind, 4) < plain and error(kind, 16) < 0.03
    else:
        assert error(kind, 1) < plain and error(kind, 8) < 0.012
    assert error(kind, 32) < error(kind, 1) / 3


def test_a_quantised_network_in_one_step():
    """Group neurons with the levels of the activations are the quantised network at T = 1, and so is "quanta" in both modes."""
    torch.manual_seed(1)
    net = torch.nn.Sequential(
        torch.nn.Linear(6, 20), nn.QCFS(8, 1.3), torch.nn.Linear(20, 20), nn.CQCFS(20, 8, 0.9), torch.nn.Linear(20, 3)
    )
    x = torch.randn(50, 6)
    for method in (methods.Group(m=8), methods.SignedQuanta(m=8)):
        assert torch.allclose(snnfast.convert(net, method)(x, T=1), net(x), atol=1e-5)
    snn = snnfast.convert(net, methods.SignedQuanta(m=8), mode="differential")
    found = snn.logits(x, 6, at=[1, 2, 6])
    assert torch.allclose(found[0], net(x), atol=1e-5) and torch.allclose(found[2], net(x), atol=1e-5)
    # fewer quanta a step: the same answer later
    found = snnfast.convert(net, methods.SignedQuanta(m=2), mode="differential").logits(x, 12, at=[1, 12])
    assert not torch.allclose(found[0], net(x), atol=1e-2) and torch.allclose(found[1], net(x), atol=1e-5)


@pytest.mark.parametrize("T", [1, 2, 5])
def test_what_it_costs(T):
    """By hand, neuron by neuron: a spike is a step with any quanta; its products are multiplications, or shifts on the ladder "power"."""
    torch.manual_seed(2)
    net = torch.nn.Sequential(torch.nn.Linear(4, 6), nn.QCFS(8, 1.0), torch.nn.Linear(6, 5), nn.QCFS(8, 1.0), torch.nn.Linear(5, 3))
    x = torch.randn(7, 4)
    for method, per_sop in (
        (methods.Group(m=8), 4.6),
        (methods.SignedQuanta(m=8), 4.6),
        (methods.SignedQuanta(m=8, ladder="power"), 0.9),
        ("if", 0.9),
    ):
        snn = snnfast.convert(net, method)
        seen = []
        for (_, layer), source in zip(snn.neurons(), (net[0], net[2])):
            current = source(x).expand(T, -1, -1) if not seen else source(seen[-1])
            seen.append(layer(current))
        spikes = [int((s != 0).sum()) for s in seen]
        stats = Statistics(snn)
        snnfast.evaluate(snn, [(x, torch.zeros(7, dtype=torch.long))], T=T, statistics=stats)
        image, *rows = stats.rows()
        assert [r["spikes"] * 7 for r in rows] == pytest.approx(spikes) and [r["SOPs"] * 7 for r in rows] == pytest.approx(
            [spikes[0] * 5, spikes[1] * 3]
        )
        assert [r["theta_max"] for r in rows] == pytest.approx([1.0, 1.0]) and rows[0]["firing_rate"] == pytest.approx(
            spikes[0] / (7 * 6 * T)
        )
        sops, total = spikes[0] * 5 + spikes[1] * 3, stats.totals()
        assert total["energy_pJ"] * 7 == pytest.approx(sops * per_sop + 7 * 24 * 4.6) and stats.over_time()[-1][
            "energy_pJ"
        ] == pytest.approx(total["energy_pJ"])
        graded = 0 if method == "if" else sops
        operations = total["neurobench"]["synaptic_operations"]
        assert operations["Effective_MACs"] * 7 == pytest.approx(7 * 24 + graded) and operations["Effective_ACs"] * 7 == pytest.approx(
            sops - graded
        )


def test_unevenness_counts_quanta():
    """With m = levels and one step a group neuron is right everywhere; "if" in one step is not."""
    torch.manual_seed(3)
    net = torch.nn.Sequential(torch.nn.Linear(4, 60), nn.QCFS(8, 1.0), torch.nn.Linear(60, 3))
    data = [(torch.randn(30, 4), torch.zeros(30, dtype=torch.long))]
    right = {}
    for method in (methods.Group(m=8), "if"):
        (_, row) = snnfast.evaluate(snnfast.convert(net, method), data, T=1, statistics=True).layers
        right[getattr(method, "name", method)] = row["right_zero"] + row["right_above"]
        assert row["right_zero"] + row["right_above"] + row["case1"] + row["case2"] + row["case3"] == pytest.approx(100)
    assert right["group"] == pytest.approx(100) and right["if"] < 95


@pytest.mark.parametrize(
    "method", [methods.SignedQuanta(m=32), methods.SignedQuanta(m=16, ladder="power"), methods.Group(m=7)], ids=lambda m: m.name
)
def test_exact_products(method):
    """Integers times whole spikes: the same bits for every chunk, within fp32's rounding of the sparse ones; average pooling fits a byte for
    m = 16 and 7, and for m = 32, where it does not, the layer behind it stays sparse."""
    net, x = small()
    data = [(x, torch.zeros(len(x), dtype=torch.long))]
    sparse = snnfast.convert(net, method, calibrate=x)(x, T=6)
    reports = [
        snnfast.evaluate(snnfast.convert(net, method, calibrate=x), data, T=6, products="exact", chunk=chunk, batch=batch, ann=net)
        for chunk, batch in ((6, None), (1, None), (2, 5))
    ]
    assert len({tuple(r.distance) for r in reports[:2]}) == 1 and reports[0].accuracy == reports[2].accuracy
    assert reports[0].distance == pytest.approx(reports[2].distance, rel=1e-6)
    exact = reports[0].settings["exact_layers"]
    assert "3" in exact and ("7" in exact) == (method.m * 4 <= 127)
    by_sparse = snnfast.evaluate(snnfast.convert(net, method, calibrate=x), data, T=6, ann=net)
    assert by_sparse.distance == pytest.approx(reports[0].distance, rel=1e-3) and sparse.isfinite().all()


@pytest.mark.parametrize("method", [methods.SignedQuanta(m=9, caps=(0, 40)), methods.SignedQuanta(m=8, ladder="power"), methods.Group()],
                         ids=lambda m: m.name)  # fmt: skip
def test_files(tmp_path, method):
    net, x = small()
    snn = snnfast.convert(net, method, calibrate=x)
    snnfast.save_checkpoint(tmp_path / "snn.pt", snn)
    again = snnfast.load_checkpoint(tmp_path / "snn.pt")
    assert torch.equal(again(x, T=3), snn(x, T=3)) and again.method == method and again.facts() == snn.facts()
    assert [type(n) for _, n in again.neurons()] == [nn.Quanta] * 2


def test_transformers_take_few_steps():
    """A ViT of LSQ activations in mode "differential": with more quanta a step the answer of the quantised network comes earlier."""
    torch.manual_seed(4)
    net = snnfast.models.vit_tiny(image_size=16, patch_size=8, dim=16, depth=2, heads=2, num_classes=5, levels=8).eval()
    x = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        for p in net.parameters():
            if p.dim() > 1:
                p.normal_(0, p[0].numel() ** -0.5)
    wanted = net(x).detach()
    steps = {}
    for m in (1, 8):
        snn = snnfast.convert(net, methods.SignedQuanta(m=m), mode="differential")
        near = [float((y - wanted).abs().max()) < 1e-4 for y in snn.logits(x, 48, at=list(range(1, 49)))]
        assert near[-1]
        steps[m] = near.index(True) + 1
    assert steps[8] < steps[1] / 2, steps


def test_refused():
    net, x = small()
    for given, message in (
        (dict(method="power", mode="differential"), "method 'stbif' or 'quanta', got 'power'"),
        (dict(method="group", mode="differential"), "method 'stbif' or 'quanta', got 'group'"),
        (dict(method="quanta", m=0), "m must be >= 1, got 0"),
        (dict(method="power", m=12), "m must be a power of two where ladder is 'power', got 12"),
        (dict(method="group", caps=(0, 3)), "caps is an option of other methods, not of 'group'"),
        (dict(method="if", m=4), "m is an option of other methods, not of 'if'"),
        (dict(method="quanta", ladder="power"), "ladder is an option of other methods|unexpected options: ladder"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            snnfast.convert(net, calibrate=x, **given)


def test_a_transformer_takes_quanta_in_the_mode_that_converges():
    from transformers import images, network

    ann = network("vit")
    x = images(ann)
    for method in ("quanta", "stbif"):
        snn = snnfast.convert(ann, method)
        assert snn.clock.differential and snn.method.name == method
        torch.testing.assert_close(snn(x, T=64), ann(x), rtol=1e-3, atol=1e-3)  # sums of another order
    with pytest.raises(ValueError, match="say mode='differential'"):
        snnfast.convert(ann, "srp")

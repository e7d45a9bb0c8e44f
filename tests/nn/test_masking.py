"""Random spike masking: a share of the spikes, from a counter."""

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset
from transformers import images, network

import snnfast
from snnfast import models, nn
from snnfast.nn.over_time import Moment
from snnfast.nn.random import uniform


def test_a_mask_keeps_what_its_numbers_say():
    layer = nn.SpikeMask(0.3, seed=5, layer=2).eval()
    x = torch.randn(4, 3, 50)
    y = layer(x)
    kept = uniform(x.shape, 5 * (1 << 20) + 2, 0, 0, "cpu") > 0.3
    assert torch.equal(y, torch.where(kept, x, 0)) and torch.equal(layer(x), y)  # without rescaling; the same again
    assert abs(float(kept.float().mean()) - 0.7) < 0.05
    other = nn.SpikeMask(0.3, seed=5, layer=3).eval()
    assert not torch.equal(other(x), y) and not torch.equal(nn.SpikeMask(0.3, seed=6, layer=2).eval()(x), y)
    assert torch.equal(nn.SpikeMask(0.0).eval()(x), x)
    layer.train()
    assert not torch.equal(layer(x), layer(x))
    x.requires_grad_()
    layer.eval()(x).sum().backward()
    assert torch.equal(x.grad, kept.float())


def test_over_time_every_cut_gives_the_same():
    layer, x = nn.SpikeMask(0.4, seed=1), torch.randn(6, 5, 7)
    masked = lambda x, t, first: layer.over_time([x], None, Moment(t, first))[0]  # noqa: E731
    whole = masked(x, 0, 0)
    assert torch.equal(torch.cat([masked(x[:2], 0, 0), masked(x[2:], 2, 0)]), whole)
    assert torch.equal(torch.cat([masked(x[:, :2], 0, 0), masked(x[:, 2:], 0, 2)], 1), whole)
    assert torch.equal(masked(x[:, [3, 1]], 0, torch.tensor([3, 1])), whole[:, [3, 1]])
    assert torch.equal(layer.differentiable([x], None, Moment(0, 0))[0], whole)
    share = (whole == 0).float().mean()
    assert abs(float(share) - 0.4) < 0.15 and not torch.equal(whole[0] == 0, whole[1] == 0)


NETS = {
    "vgg": lambda p: models.vgg11(width=0.0625, in_channels=1, theta=1.0, masking=p),
    "resnet": lambda p: models.resnet20(width=0.25, in_channels=1, theta=1.0, masking=p),
    "mst": lambda p: network("mst", masking=p, seed=1, activation="s-qcfs"),
    "vit": lambda p: network("vit", masking=p, seed=1, activation="s-qcfs"),
}


@pytest.mark.parametrize("name", NETS)
def test_networks(name):
    torch.manual_seed(1)
    net = NETS[name](0.25)
    size = net.config.get("image_size", 32)
    x = torch.randn(5, 2 if name in ("mst", "vit") else 1, size, size)
    for _ in range(2):
        net.train()(x)
    net.eval()
    masks = [m for m in net.modules() if isinstance(m, nn.SpikeMask)]
    acts = [m for m in net.modules() if nn.is_quantised(m)]
    many = len(acts) if name in ("vgg", "resnet") else 3 * sum(n.endswith(".attn") for n, _ in net.named_modules())
    assert len(masks) == many == len({m.layer for m in masks})
    # The masks too. torch's softplus of many thresholds and of one may differ in the last bit.
    assert torch.allclose(snnfast.to_channelwise(net)(x), net(x), atol=1e-6)
    snn = snnfast.convert(net, "if", mode="per_step")
    assert sum(isinstance(m, nn.SpikeMask) for m in snn.gm.modules()) == many
    whole = snn.logits(x, 8)
    assert torch.allclose(torch.cat(list(snn.chunks(x, 8, chunk=3))), whole, atol=1e-4)  # as above
    tail = torch.cat(list(snn.chunks(x[2:], 8, first=2)))
    assert torch.allclose(tail, whole[:, 2:], atol=1e-4)  # a library's sums may follow the batch and the chunk
    assert not torch.allclose(torch.cat(list(snn.chunks(x[2:], 8))), whole[:, 2:], atol=1e-4)  # other images see other masks
    free = snnfast.convert(models.build({**net.config, "masking": 0.0}).eval(), "if", mode="per_step")
    assert not any(isinstance(m, nn.SpikeMask) for m in free.gm.modules())


def test_a_mask_in_a_network_of_ones_own():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 8), nn.QCFS(4, 1.0), nn.SpikeMask(0.5, seed=3), torch.nn.Linear(8, 3)).double().eval()
    x, T = torch.randn(4, 6, dtype=torch.float64), 6
    y = snnfast.convert(net).logits(x, T)
    current = net[0](x)
    s, _ = snnfast.iaf(current, 1.0, T=T)
    kept = torch.stack([net[2].kept(s[0].shape, t, 0, "cpu") for t in range(T)])
    assert torch.allclose(y, net[3](s * kept), rtol=1e-12)


@pytest.mark.parametrize("deterministic", [False, True])
def test_the_quantised_network_of_an_evaluation_masks_images_not_rows(deterministic):
    net = network("mst", masking=0.5, seed=1, dtype=torch.float64)
    x, y = torch.randn(7, 2, net.config["image_size"], net.config["image_size"], dtype=torch.float64), torch.arange(7) % 3
    snn, found = snnfast.convert(net), []
    for batch in (7, 3, 1):
        statistics = snnfast.evaluation.statistics.Statistics(snn)
        report = snnfast.evaluate(snn, TensorDataset(x, y), T=4, ann=net, batch=batch, deterministic=deterministic, statistics=statistics)
        found.append((report.record["ann"], report.record["distance"], [row["case1"] for row in statistics.rows()]))
    for prediction, distance, cases in found[1:]:
        assert (prediction == found[0][0]).all() and np.allclose(distance, found[0][1], atol=1e-9) and cases == found[0][2]
    with torch.no_grad():
        assert (torch.as_tensor(found[0][0]) == net(x).argmax(1)).all()  # rows are images there


def test_masks_do_not_go_with_differential_sums():
    net = network("mst", masking=0.5)
    assert not snnfast.convert(net).clock.differential
    with pytest.raises(ValueError, match="random masks take spikes that a sum never gets back"):
        snnfast.convert(net, mode="differential")
    assert snnfast.convert(network("mst")).clock.differential
    snn = snnfast.convert(net)
    assert torch.isfinite(snn(images(net), T=4)).all()
    from snnfast.runtime.cuda_graphs import Graphs
    from snnfast.runtime.run import Run

    assert "random masks" in Graphs().why_not(Run(snn.gm, images(net), snn.method, snn.clock))


@pytest.mark.parametrize("masking", [-0.1, 1.0, float("nan"), "half"])
def test_shares(masking):
    with pytest.raises((ValueError, TypeError), match="masking must be"):
        nn.SpikeMask(masking)

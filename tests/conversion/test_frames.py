"""Networks that take a frame of events for each step run chunk by chunk, as they answer when they are called."""

import pytest
import torch

import snnfast
from snnfast.models.direct import DirectNetwork, EachStep, Spikes
from snnfast.runtime.cuda_graphs import Graphs
from snnfast.runtime.run import Run

NETS = {
    "sew_dvs_gesture": lambda: snnfast.models.sew_dvs_gesture(num_classes=3),
    "sew_cifar10dvs": lambda: snnfast.models.sew_cifar10dvs(connect="IAND", num_classes=3),
    "sdt_dvs": lambda: snnfast.models.sdt_dvs(depth=1, dim=32, heads=4, num_classes=3, pooling="1111"),
}


def made(name, dtype=torch.float64):
    torch.manual_seed(0)
    net = NETS[name]().to(dtype).eval()
    for m in net.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.running_var.fill_(0.05)
    return net


def frames(B=2, T=4, size=128, dtype=torch.float64):
    return torch.poisson(torch.full((B, T, 2, size, size), 0.3), generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("name", NETS)
def test_it_answers_as_the_network_does(name):
    """In fp64, where rounding moves no spike."""
    net, x = made(name), frames()
    snn = snnfast.convert(net)
    with torch.no_grad():
        every = net.logits(x)
        assert every.any() and (snn.logits(x, 4) - every).abs().max() <= 1e-12 * every.abs().max()
        assert torch.equal(snn.logits(x, 4, chunk=3), snn.logits(x, 4)) and torch.equal(snn.logits(x[1:], 4), snn.logits(x, 4)[:, 1:])
        assert torch.equal(snn.logits(x, 2), snn.logits(x, 4)[:2])  # more frames than steps: the first ones
        assert not torch.equal(snn.logits(x.flip(1), 4), snn.logits(x, 4))
    assert snn.facts()["input"] == "frames"


def test_gradients_are_those_of_the_network():
    net, x = made("sdt_dvs"), frames(size=64)
    one, other = (x.clone().requires_grad_() for _ in range(2))
    snnfast.convert(net)(one, 4).square().sum().backward()
    net(other).square().sum().backward()
    assert one.grad.any() and (one.grad - other.grad).abs().max() <= 1e-10 * other.grad.abs().max()


def data(many=6, dtype=torch.float32, **how):
    return torch.utils.data.TensorDataset(frames(many, dtype=dtype, **how), torch.arange(many) % 3)


def test_an_evaluation():
    net, given = made("sdt_dvs", torch.float32), data(size=64)
    snn = snnfast.convert(net)
    whole = snnfast.evaluate(snn, given, T=4, statistics=True, start_stop=True, at=[1, 2, 3, 4])
    parts = snnfast.evaluate(snn, given, T=4, batch=2, chunk=3, at=[1, 2, 3, 4], memory="4GiB")
    assert whole.accuracy == parts.accuracy and whole.loss == pytest.approx(parts.loss)
    with torch.no_grad():
        every = net.logits(given.tensors[0])
    hits = [float((every[:t].mean(0).argmax(1) == given.tensors[1]).float().mean()) * 100 for t in (1, 2, 3, 4)]
    assert whole.accuracy == pytest.approx(hits)
    # The inputs of the first layer are counts, so they are multiplied at each step: 2 x 4 channels, 3 x 3 places without the borders.
    assert whole.totals["MACs"] == 4 * 2 * 4 * (3 * 64 - 2) ** 2 and whole.layers[0]["SOPs"] == 0


def test_images_leave_early():
    snn, given = snnfast.convert(made("sdt_dvs", torch.float32)), data(size=64)
    rule = snnfast.calibrate_exit(snn, given.tensors[0], T=4)
    report = snnfast.evaluate_early(snn, [given.tensors], rule)
    assert report.images == 6


def test_a_run_that_looks_for_graphs_and_steps():
    snn, x = snnfast.convert(made("sdt_dvs")), frames(size=64)
    assert Graphs().why_not(Run(snn.gm, x, snn.method, snn.clock)) == "every step has a frame of its own"
    with pytest.raises(ValueError, match="snn gets its image as spikes, in frames or over several steps"):
        snnfast.Steps(snn)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda snn, x: snn(x, 5), r"x must be frames \[B, 5 or more, ...\], one for each of T = 5 steps, got shape \(2, 4, 2, 64, 64\)"),
        (lambda snn, x: snn(x[:, 0], 2), r"x must be frames \[B, T, 2, H, W\], with B >= 1, got shape \(2, 2, 64, 64\)"),
        (lambda snn, x: snn(x[:, :, :1], 2), r"x must be frames \[B, T, 2, H, W\], with B >= 1, got shape \(2, 4, 1, 64, 64\)"),
        (lambda snn, x: snn(x[0, 0, 0, 0], 2), r"x must be frames \[B, T, ...\], one for each step, got shape \(64,\)"),
        (lambda snn, x: snnfast.evaluate(snn, [(x[:, 0], torch.zeros(2).long())], T=2), r"images must be frames \[B, T, 2, H, W\]"),
        (lambda snn, x: snn(x.float(), 2), "x has dtype float32, but the network's weights float64"),
        (lambda snn, x: snnfast.convert(made("sdt_dvs"), sample=x[:, 0]), r"x must be frames \[B, T, 2, H, W\]"),
        (lambda snn, x: snnfast.models.sew_dvs_gesture()(x.float()), "x must be frames of 128 to 255 pixels a side"),
    ],
)
def test_refused_by_name(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call(snnfast.convert(made("sdt_dvs")), frames(size=64))


class Small(DirectNetwork):
    """Frames through a convolution and a neuron, without a maximum, which NIR does not know."""

    frames = True

    def __init__(self):
        super().__init__("small", 1, 3, 2)
        self.conv, self.spikes, self.fc = EachStep(torch.nn.Conv2d(2, 4, 3, padding=1)), Spikes(tau=2.0), torch.nn.Linear(4 * 36, 3)

    def features(self, x, T):
        return self.spikes(self.conv(x)).flatten(-3)


def test_an_image_shape_says_what_frames_look_like():
    net = Small()
    net.image_shape = (2, 6, 6)
    assert snnfast.convert(net.eval())(frames(size=6, dtype=torch.float32), 4).shape == (2, 3)


def test_nir_there_and_back():
    torch.manual_seed(0)
    snn, x = snnfast.convert(Small().eval()), frames(size=6, dtype=torch.float32)
    again = snnfast.import_nir(snnfast.export_nir(snn, x[:, :1]))
    assert again.clock.frames and torch.equal(again.logits(x, 4), snn.logits(x, 4)) and snn.logits(x, 4).any()

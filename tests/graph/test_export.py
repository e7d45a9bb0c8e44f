"""Networks captured by torch.export: what people write, in every spelling, gives the network; what would mix images is refused by name."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import snnfast
from snnfast.graph import trace
from snnfast.graph.prepare import prepared

X = torch.randn(12, 3, 6, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


class Own(nn.Module):
    """Layers by name, and a forward given as a function."""

    def __init__(self, body, **layers):
        super().__init__()
        self.body = body
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.body(self, x)


def conv(inputs=3, outputs=4, **how):
    return nn.Conv2d(inputs, outputs, 3, padding=1, **how)


def layers(features=144):
    torch.manual_seed(0)
    return dict(a=conv(), b=conv(4), r=nn.ReLU(), h=nn.Linear(features, 3))


def error(net, x=X, T=512, **how):
    """Largest difference of T steps and the network, as a share of its largest output."""
    net = net.double().eval()
    snn = snnfast.convert(net, **({"calibrate": x, "percentile": 100} | how))
    with torch.no_grad():
        wanted = net(x)
        return float((snn(x, T=T) - wanted).abs().max() / wanted.abs().max())


def spikes(s, x):
    return F.relu(s.b(s.r(s.a(x))))


def _mask(h):
    mask = h.new_zeros((6, 6))
    mask[1:, :4] = 1
    return mask


BODIES = {
    "view by the size of the batch": lambda s, h: s.h(h.view(h.size(0), -1)),
    "len": lambda s, h: s.h(h.reshape(len(h), -1)),
    "view by -1": lambda s, h: s.h(h.view(-1, 144)),
    "a product of sizes": lambda s, h: s.h(h.reshape(h.shape[0], h.size(1) * h.size(2) * h.shape[3])),
    "sizes multiplied in a loop": lambda s, h: s.h(h.reshape(-1, h.shape[1:].numel())),
    "shuffled channels": lambda s, h: s.h(h.view(h.size(0), 2, 2, 6, 6).transpose(1, 2).reshape(h.size(0), 4, 6, 6).flatten(1)),
    "windows as rows": lambda s, h: s.h(
        F.avg_pool2d(h.unfold(2, 3, 3).unfold(3, 3, 3).permute(0, 2, 3, 1, 4, 5).reshape(-1, 4, 3, 3), 1).reshape(h.size(0), 4 * 36)
    ),
    "tokens first": lambda s, h: s.h(h.flatten(2).permute(2, 0, 1).relu().permute(1, 2, 0).flatten(1)),
    "a slice written": lambda s, h: s.h(F.pad(h[:, :, 1:], (0, 0, 1, 0)).flatten(1)),
    "half of the channels written in place": lambda s, h: s.h(torch.cat([h[:, :2].mul(2.0), h[:, 2:]], 1).flatten(1)),
    "a masked map": lambda s, h: s.h((h * (torch.arange(6) % 2)).flatten(1)),
    "a constant of each image": lambda s, h: s.h(torch.cat([h, torch.ones(h.size(0), 1, 6, 6, dtype=h.dtype)], 1)[:, 1:].flatten(1)),
    "tokens before images": lambda s, h: s.h(
        s.b(h).flatten(2).permute(2, 0, 1).reshape(-1, 4).mul(2.0).view(36, -1, 4).permute(1, 2, 0).flatten(1)
    ),
    "zeros made of the dtype alone, and written to": lambda s, h: s.h((h * _mask(h)).flatten(1)),
    "another way for more images than cuDNN takes": lambda s, h: s.h((h if h.size(0) <= 65535 else h * 2).flatten(1)),
    "double and back": lambda s, h: s.h(h.double().to(h.dtype).flatten(1)),
    "an assertion": lambda s, h: (torch._assert(h.shape[1] == 4, "channels"), s.h(h.flatten(1)))[1],
    "a module made in forward": lambda s, h: s.h(nn.Flatten()(nn.ReLU()(h))),
    "a clipped activation": lambda s, h: s.h(s.b(h).clamp(0, 1.5).flatten(1)),
    "relu, then a bound": lambda s, h: s.h(F.relu(s.b(h)).clamp(max=0.7).flatten(1)),
    "hardtanh from 0": lambda s, h: s.h(F.hardtanh(s.b(h), 0.0, 2.0).flatten(1)),
    "maximum with zeros": lambda s, h: s.h(torch.maximum(s.b(h), torch.zeros(1, dtype=h.dtype)).flatten(1)),
    "einsum with a constant": lambda s, h: s.h(torch.einsum("bchw,cd->bdhw", h, s.b.weight.sum((2, 3))).flatten(1)),
    "turned, rolled, repeated": lambda s, h: s.h(h.flip(3).roll(1, 2).repeat(1, 2, 1, 1)[:, 2:6].flatten(1)),
    "a functional batch norm": lambda s, h: s.h(F.batch_norm(h, torch.zeros(4).to(h), torch.ones(4).to(h) * 4, training=False).flatten(1)),
    "padding by reflection": lambda s, h: s.h(F.pad(h, (1, 1, 1, 1), mode="reflect")[..., 1:-1, 1:-1].flatten(1)),
    "adaptive max pooling": lambda s, h: s.h(F.adaptive_max_pool2d(h, 6).flatten(1)),
    "the largest value": lambda s, h: s.h(h.amax((2, 3), keepdim=True).expand(-1, -1, 6, 6).flatten(1)),
}


@pytest.mark.parametrize("body", BODIES)
def test_what_people_write_converges(body):
    assert error(Own(lambda s, x: BODIES[body](s, spikes(s, x)), **layers())) < 0.02


MIXED = {
    r"mean .* does not give a value per image": lambda s, h: s.h((h - h.mean(0)).flatten(1)),
    r"softmax .* works along the images": lambda s, h: s.h(h.flatten(1)).softmax(0) * 2,
    r"flip .* works along the images": lambda s, h: s.h(h.flip(0).flatten(1)),
    r"cat .* works along the images": lambda s, h: s.h(torch.cat([h, h])[: h.size(0)].flatten(1)),
    r"view .* cuts through the images": lambda s, h: s.h(h.transpose(0, 1).reshape(-1, 36).view(-1, 144)),
    r"cumsum .* works along the images": lambda s, h: s.h(h.cumsum(0).flatten(1)),
    r"dropout .* draws random numbers": lambda s, h: s.h(F.dropout(h, 0.5, training=True).flatten(1)),
    r"round .* has no spiking form": lambda s, h: s.h(h.round().flatten(1)),
    r"works with the number of images|does not give a value per image": lambda s, h: s.h(h.flatten(1) * h.size(0)),
    "net does not run on an image of calibrate=": lambda s, h: s.h(h.view(2, 144)),
    "goes by the values of the image": lambda s, h: s.h(h.flatten(1)) if h.sum() > 0 else s.h(h.flatten(1)) * 2,
    "output 1 of net is no tensor; read= names": lambda s, h: (s.h(h.flatten(1)), "text"),
    "net must return a row for each image": lambda s, h: s.h(h.flatten(1)).t(),
}


@pytest.mark.parametrize("message", MIXED)
def test_what_mixes_images_is_refused_by_name(message):
    net = Own(lambda s, x: MIXED[message](s, spikes(s, x)), **layers()).double().eval()
    with pytest.raises(ValueError, match=message):
        snnfast.convert(net, calibrate=X)


class Optional(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.h = conv(), nn.Linear(144, 3)

    def forward(self, x, mask=None, features=False, **more):
        h = F.relu(self.a(x))
        h = h if mask is None else h * mask
        return h if features else self.h(h.flatten(1))


@pytest.mark.parametrize(
    "wrapped",
    [lambda n: n, nn.DataParallel, torch.compile, torch.optim.swa_utils.AveragedModel],
    ids=["none", "parallel", "compiled", "ema"],
)
def test_wrappers_and_optional_arguments(wrapped):
    net = Optional().double().eval()
    snn = snnfast.convert(wrapped(net), calibrate=X, percentile=100)
    with torch.no_grad():
        assert (snn(X, T=512) - net(X)).abs().max() < 0.02
    assert not net.a._forward_hooks and "forward" not in vars(net.a)


def plain():
    torch.manual_seed(0)
    bn = nn.BatchNorm2d(4)
    bn.running_mean.uniform_(-1, 1), bn.running_var.uniform_(0.5, 2)
    quantised = snnfast.nn.CSQCFS(4, 8, 2.0)
    return (
        nn.Sequential(conv(), bn, snnfast.nn.QCFS(8, 2.0), conv(4), quantised, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 3))
        .double()
        .eval()
    )


@pytest.mark.parametrize(
    "make", [plain, lambda: snnfast.models.resnet20(activation="qcfs", width=0.25).double().eval()], ids=["plain", "resnet20"]
)
@pytest.mark.parametrize("method", ["if", "srp"])
def test_both_front_ends_give_the_same_bits(make, method):
    """torch.fx records where no images are given, torch.export where some are."""
    net = make()
    x = X if isinstance(net, nn.Sequential) else torch.randn(4, 3, 32, 32, dtype=torch.float64)
    by_fx, by_export = snnfast.convert(net, method), snnfast.convert(net, method, sample=x)
    assert [n for n, _ in by_fx.neurons()] == [n for n, _ in by_export.neurons()]
    assert torch.equal(by_fx.logits(x, 16), by_export.logits(x, 16))


def test_names_and_shared_weights():
    """A module called twice is one, a function's weight stays that of its layer, and folding changes no other use of it."""
    torch.manual_seed(0)
    bn = nn.BatchNorm2d(4)
    bn.running_var.uniform_(0.2, 0.5)
    body = lambda s, x: s.n(s.c(s.r(s.c(s.r(s.a(x)))))) + F.conv2d(s.a(x).relu(), s.c.weight, padding=1)
    net = Own(lambda s, x: s.h(body(s, x).flatten(1)), n=bn, c=conv(4, bias=False), **layers())
    gm = prepared(net.double(), [X[:1], X[1:2]])
    names = {n.target for n in gm.graph.find_nodes(op="call_module")}
    assert {"a", "c", "r", "n", "h"} <= names and error(net) < 0.02


def test_nothing_of_the_network_is_changed():
    net = plain().train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    prepared(net, [X[:1]])
    assert net.training and all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all("forward" not in vars(m) for m in net.modules())


def test_images_of_another_size_are_refused():
    snn = snnfast.convert(Own(lambda s, x: s.h(spikes(s, x).flatten(1)), **layers()).double(), calibrate=X)
    with pytest.raises(
        ValueError, match=r"x must be a batch of images \[B, 3, 6, 6\], as net was captured with, with B >= 1, got shape \(2, 3, 8, 8\)"
    ):
        snn(torch.zeros(2, 3, 8, 8, dtype=torch.float64), T=2)


def test_fx_names_the_way_out():
    with pytest.raises(ValueError, match="give sample=, images"):
        trace.prepared(Own(lambda s, x: s.h(spikes(s, x)) if x.mean() > 0 else x, **layers()))

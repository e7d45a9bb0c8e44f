"""Spikes kept as bits: what comes back is what was kept, to the last bit, and gradients are those without."""

import contextlib
import gc

import pytest
import torch
from torch import nn

import snnfast
from snnfast.training.kept_spikes import Bits, Kept, _pack, _unpack

DTYPES = torch.float16, torch.bfloat16, torch.float32, torch.float64


def words(t):
    return t.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[t.element_size()])


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("value", [1.0, 0.7, -0.3, float("inf")])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_comes_back(dtype, value, signed):
    """Of any shape and memory order, 1,024 values and more, whether they fill bytes or not."""
    g = torch.Generator().manual_seed(0)
    for shape in ((1024,), (1031,), (7, 3, 300), (4, 8, 10, 10), (5000,)):
        s = (torch.rand(shape, generator=g) < 0.3).to(dtype)
        s = s * torch.where(torch.rand(shape, generator=g) < 0.5, -1, 1) if signed else s
        s = torch.where(s == 0, torch.zeros((), dtype=dtype), s * torch.tensor(value, dtype=dtype))
        for t in (s, s.to(memory_format=torch.channels_last)) if s.dim() == 4 else (s, s.transpose(0, -1)):
            kept = _pack(t)
            assert isinstance(kept, Bits) and (kept.negative is not None) == (signed or value < 0)
            assert sum(b.numel() for b in (kept.fired, kept.negative) if b is not None) <= (1 + (signed or value < 0)) * (
                t.numel() // 8 + 1
            )
            back = _unpack(kept)
            assert torch.equal(words(back), words(t)) and back.stride() == t.stride() and back.dtype == t.dtype


def of_other_values():
    """{what it is: a tensor that is no spikes}"""
    rest, late = torch.zeros(9000), torch.zeros(9000)
    rest[5::7] = 0.5
    late[8000], late[8001] = 2.0, 1.0
    both, minus, larger = rest.clone(), rest.clone(), rest.clone()
    both[4], minus[4], larger[4], larger[6] = -0.25, -0.0, -0.5, -1.0
    ordinary = torch.randn(2000)
    return {
        "numbers": ordinary, "a second value, seen late": late, "a negative one of another size": both, "a -0": minus,
        "a second one, larger": larger,
        "all of -0": -torch.zeros(2000), "NaN beside": torch.where(rest == 0, torch.nan, rest), "few": torch.ones(1023),
        "integers": torch.ones(2000, dtype=torch.int64),
        "truth values": torch.ones(2000, dtype=torch.bool), "with gaps": torch.zeros(100, 40)[:, ::2], "expanded": torch.ones(1, 50).expand(40, 50),
        "sparse": torch.eye(50).to_sparse(), "complex": torch.ones(2000, dtype=torch.complex64), "own class": nn.Parameter(torch.ones(2000)),
    }  # fmt: skip


@pytest.mark.parametrize("what", of_other_values())
def test_what_is_kept_as_it_is(what):
    t = of_other_values()[what]
    kept = _pack(t)
    assert isinstance(kept, Kept)
    back = _unpack(kept)
    assert back.data_ptr() == t.data_ptr() if what != "sparse" else torch.equal(back.to_dense(), t.to_dense())


def convolutional():
    return nn.Sequential(
        snnfast.nn.LIF(2.0), Folded(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)), snnfast.nn.LIF(2.0), Folded(nn.Conv2d(8, 8, 3, padding=1)),
        snnfast.nn.IF(theta=0.5, negative="stbif"), Folded(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8 * 36, 5)),
    )  # fmt: skip


class Folded(nn.Sequential):
    """Layers that take steps and samples as one batch."""

    def forward(self, x):
        return super().forward(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def gradients(net, x, context):
    for p in net.parameters():
        p.grad = None
    with context:
        loss = net(x).square().mean()
    loss.backward()
    return [loss.detach(), *(p.grad for p in net.parameters())]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gradients_are_the_same(dtype):
    torch.manual_seed(0)
    net, x = convolutional().to(dtype), 2 * torch.rand(6, 4, 3, 12, 12, dtype=dtype)
    a, b = (gradients(net, x, context()) for context in (contextlib.nullcontext, snnfast.spikes_as_bits))
    assert all(map(torch.equal, a, b)) and all(g.any() for g in b[1:])


@pytest.mark.parametrize("arch", ["ms_resnet18", "sew_resnet18", "spikingformer_cifar"])
def test_networks(arch):
    """The published networks: the same bits, and what is kept is a quarter less at least."""
    torch.manual_seed(0)
    net = getattr(snnfast.models, arch)(num_classes=10)
    net.T, x = 2, torch.rand(2, 3, 32, 32)
    sizes = {}

    def bytes_of(pack, name):
        def counted(t):
            kept = pack(t)
            for part in kept if isinstance(kept, Bits) else (kept,):
                if isinstance(part, torch.Tensor) and not (t.is_leaf and t.requires_grad):
                    sizes.setdefault(name, {})[part.data_ptr()] = part.nbytes, part
            return kept

        return counted

    def step(pack, unpack, name):
        net.zero_grad()
        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(bytes_of(pack, name), unpack):
            loss = net.logits(x).mean(0).square().mean()
        loss.backward()
        return [p.grad.clone() for p in net.parameters() if p.grad is not None]

    net.eval()  # batch norms that do not move between the two
    a, b = step(lambda t: t.detach(), lambda t: t, "plain"), step(_pack, _unpack, "bits")
    assert len(a) == len(b) > 10 and all(map(torch.equal, a, b))
    plain, bits = (sum(n for n, _ in sizes[name].values()) for name in ("plain", "bits"))
    assert bits < 0.75 * plain, (bits, plain)


def test_through_time_and_twice():
    """Inside of `backward_through_time`, and derivatives of derivatives."""
    torch.manual_seed(0)
    net, x = convolutional(), 2 * torch.rand(12, 2, 3, 12, 12)
    net[1][1] = nn.Identity()
    expected = gradients(net, x, contextlib.nullcontext())
    with snnfast.spikes_as_bits():
        net.zero_grad()
        y = snnfast.backward_through_time(net, x, chunk=4).square().mean()
        y.backward()
    for a, p in zip(expected[1:], net.parameters()):
        assert torch.allclose(a, p.grad, rtol=1e-5, atol=1e-7)  # sums over chunks, in another order
    w = torch.randn(2000, dtype=torch.float64, requires_grad=True)
    s = (torch.rand(2000) < 0.5).double()
    with snnfast.spikes_as_bits():
        (g,) = torch.autograd.grad((w * s).pow(3).sum(), w, create_graph=True)
        (h,) = torch.autograd.grad(g.sum(), w)
    assert torch.equal(h, 6 * w.detach() * s)


def test_neurons_of_spikingjelly():
    functional, neuron = (pytest.importorskip(f"spikingjelly.activation_based.{name}") for name in ("functional", "neuron"))
    torch.manual_seed(0)
    net = nn.Sequential(neuron.LIFNode(2.0, step_mode="m"), nn.Linear(400, 300), neuron.IFNode(step_mode="m"), nn.Linear(300, 7))
    x, found = 3 * torch.rand(5, 16, 400), []
    for context in (contextlib.nullcontext, snnfast.spikes_as_bits):
        functional.reset_net(net)
        found.append(gradients(net, x, context()))
    assert all(map(torch.equal, *found)) and all(g.any() for g in found[1][1:])


def test_what_was_written_to_since_is_refused():
    x = torch.randn(2000, requires_grad=True)
    with snnfast.spikes_as_bits():
        y = x * 2
        z = y * y
    y.detach().add_(1)
    with pytest.raises(RuntimeError, match=r"a tensor of shape \(2000,\) that the gradient needs was written to since the forward"):
        z.sum().backward()
    w = torch.randn(2000, requires_grad=True)
    s = torch.ones(2000)
    with snnfast.spikes_as_bits():
        y = (w * s).sum()
    s.zero_()  # a spike's bits are a copy
    y.backward()
    assert torch.equal(w.grad, torch.ones(2000))


def test_nothing_is_kept_for_ever():
    torch.manual_seed(0)
    net, x, alive = convolutional(), torch.rand(6, 4, 3, 12, 12), []
    for _ in range(3):
        with snnfast.spikes_as_bits():
            y = net(x).expand(9, 6, 4, 5).exp().square().mean()  # of exp the result is kept
        del y
        gc.collect()
        alive.append(sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects()))
    assert alive[0] == alive[1] == alive[2]

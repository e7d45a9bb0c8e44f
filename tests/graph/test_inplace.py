"""Networks that write over their values compute the same converted, or are refused by name."""

import pytest
import torch

import snnfast


class Net(torch.nn.Module):
    """A linear layer, an activation, `between`, a linear layer."""

    def __init__(self, between):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.q, self.c, self.between = torch.nn.Linear(6, 8), snnfast.nn.QCFS(8), torch.nn.Linear(8, 3), between

    def forward(self, x):
        return self.c(self.between(self.q(self.a(x))))


def add(h, much=1):
    h += much
    return h


def other(h, view):
    """What `view` made of h reads, after h changed."""
    v = view(h)
    add(h)
    return v


def base(h, view):
    """h, after what `view` made of it changed."""
    add(view(h))
    return h


def halves(h):
    a, b = h.chunk(2, 1)
    a += 1
    return torch.cat((a, b), 1)


def results(h):
    h -= 0.5
    h *= 2
    h /= 4
    return h


def sizes(h):
    """Numbers are other ones after += ."""
    shape = h.shape
    n = shape[1]
    m = n
    n += 1
    return h.view(-1, m).view(-1, shape[1])


SAME = {
    "sizes": sizes,
    "add": add, "halves": halves, "results": results, "methods": lambda h: h.mul_(2).add_(1), "function": torch.neg_,
    "a view that nobody reads": lambda h: add(h.flatten(1)), "a size": lambda h: add(h).view(h.shape[0], -1),
}  # fmt: skip
REFUSED = {
    "flatten": (lambda h: other(h, lambda h: h.flatten(1)), "in place on q, a part or a view of flatten"),
    "narrow": (lambda h: base(h, lambda h: h.narrow(1, 0, 4)), "in place on narrow, a part or a view of q"),
    "swapaxes": (lambda h: base(h, lambda h: h.swapaxes(0, 1)), "a part or a view of q"),
    "T": (lambda h: base(h, lambda h: h.T), "a part or a view of q"),
    "a view of a view": (lambda h: base(h, lambda h: h.view(-1, 2, 4).flatten(1)), "in place on flatten, a part or a view of q"),
    "a part of a list": (lambda h: base(h, lambda h: h.chunk(2, 1)[0]), "a part or a view of q"),
    "two views": (lambda h: base(h.flatten(1), lambda v: v[:, :3]), "a part or a view of flatten"),
    "out": (lambda h: torch.add(h, 1, out=h), "writes into out="),
    "copy_": (lambda h: h.copy_(h * 2), r"copy_.* writes over a value"),
    "zero_": (lambda h: h.zero_(), r"zero_.* writes over a value"),
}


@pytest.mark.parametrize("what", SAME)
def test_the_same_function(what):
    net, x = Net(SAME[what]).double(), torch.randn(5, 6, dtype=torch.float64)
    with torch.no_grad():
        for mode, T in (("per_step", net.q.levels), ("differential", 32)):  # both are exact behind one activation
            y = snnfast.convert(net, mode=mode).logits(x, T, at=[T])[0]
            assert (y - net(x)).abs().max() < 1e-12


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what):
    between, why = REFUSED[what]
    with pytest.raises(ValueError, match=why):
        snnfast.convert(Net(between))

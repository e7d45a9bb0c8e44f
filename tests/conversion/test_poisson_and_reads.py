"""Poisson input says what it cannot tell; what a forward reads below an activation, and clamps of whole numbers, stay what they are."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import snnfast

X = torch.rand(8, 6, generator=torch.Generator().manual_seed(0))


def chain(*between):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 6), *between, nn.Linear(6, 4)).eval()


FUNCTIONS = {
    "layer norm in front": (nn.LayerNorm(6), nn.Linear(6, 6), nn.ReLU()),
    "layer norm behind": (nn.ReLU(), nn.LayerNorm(6)),
    "leaky ReLU in front": (nn.LeakyReLU(), nn.Linear(6, 6), nn.ReLU()),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_poisson_input_does_not_ask_for_functions_step_by_step(name):
    """A function of random spikes is not one of their mean: as with a current it is refused, unless the mode is said."""
    net = chain(*FUNCTIONS[name])
    with pytest.raises(ValueError, match="has no spiking form that commutes with rates"):
        snnfast.convert(net, calibrate=X, inputs="poisson")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        snn = snnfast.convert(net, calibrate=X, inputs="poisson", mode="per_step")
    assert snn.analog == (["1 (LeakyReLU)"] if "leaky" in name else [])


def test_an_activation_in_front_is_told_with_poisson_input():
    with pytest.warns(UserWarning, match=r"stays analog.*1 \(LeakyReLU\)"):
        snnfast.convert(chain(*FUNCTIONS["leaky ReLU in front"]), calibrate=X, inputs="poisson", mode="per_step")
    with pytest.raises(ValueError, match=r"stays analog.*1 \(LeakyReLU\)"):
        snnfast.convert(chain(*FUNCTIONS["leaky ReLU in front"]), calibrate=X, inputs="poisson", mode="per_step", strict=True)


def test_images_above_the_amplitude_are_told():
    snn = snnfast.convert(chain(snnfast.nn.QCFS(8, 1.0)), inputs="poisson", amplitude=2.0)
    with pytest.warns(UserWarning, match="images have values up to 3, and Poisson input of amplitude 2 fires at every step"):
        snn(3 * X / X.max(), T=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        snn(2 * X / X.max(), T=4)


class Reads(nn.Module):
    """Divides by the threshold of its own activation."""

    def __init__(self):
        super().__init__()
        self.a, self.act, self.c = nn.Linear(6, 6), snnfast.nn.QCFS(64, 2.0), nn.Linear(6, 4)

    def forward(self, x):
        return self.c(self.act(self.a(x)) / self.act.thresh)


class Whole(nn.Module):
    """Clamps whole numbers, which are no activations."""

    def __init__(self, embed):
        super().__init__()
        self.a, self.c, self.e = nn.Linear(6, 6), nn.Linear(6, 4), nn.Embedding(4, 6) if embed else None

    def forward(self, x):
        i = (x * 5).long().clamp(0, 3)
        h = i.to(x.dtype) if self.e is None else self.e(i).mean(1)
        return self.c(F.relu(self.a(h)))


@pytest.mark.parametrize("captured", [False, True])
def test_a_tensor_below_an_activation_is_still_read(captured, tmp_path):
    torch.manual_seed(0)
    net = Reads().eval()
    snn = snnfast.convert(net, **(dict(sample=X) if captured else {}))
    assert (snn(X, T=512) - net(X)).norm() < 0.05 * net(X).norm()
    snnfast.save_checkpoint(tmp_path / "snn.pt", snn)
    assert torch.equal(snnfast.load_checkpoint(tmp_path / "snn.pt")(X, T=16), snn(X, T=16))


@pytest.mark.parametrize("embed", [False, True])
def test_whole_numbers_are_clamped_and_do_not_spike(embed):
    torch.manual_seed(0)
    net = Whole(embed).eval()
    snn = snnfast.convert(net, calibrate=X, percentile=100.0)
    assert (snn(X, T=512) - net(X)).norm() < 0.01 * net(X).norm() and len(snn.neurons()) == 1

"""Networks of several inputs, through conversion, runs, evaluation and files."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import snnfast

G = torch.Generator().manual_seed(0)
IMAGE, OTHER, IDS = torch.rand(6, 3, 8, 8, generator=G), torch.rand(6, 5, generator=G), torch.randint(0, 7, (6, 4), generator=G)


class Several(nn.Module):
    """An image, a vector and the numbers of words."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc, self.words, self.head = nn.Conv2d(3, 4, 3), nn.Linear(5, 8), nn.Embedding(7, 8), nn.Linear(8, 3)
        self.mix = nn.Linear(4, 8)

    def forward(self, image, other=None, ids=None):
        h = self.mix(F.relu(self.conv(image)).mean((2, 3))) + self.fc(other) + self.words(ids).mean(1)
        return self.head(F.relu(h))


NAMED = {"image": IMAGE, "ids": IDS, "other": OTHER}


@pytest.mark.parametrize("inputs", [(IMAGE, OTHER, IDS), NAMED], ids=["a tuple", "a dictionary"])
def test_it_converts_runs_and_is_kept(inputs, tmp_path):
    net = Several().eval()
    expected = net(IMAGE, OTHER, IDS)
    one = snnfast.nn.JoinedInputs(net, inputs).eval()
    x = one.joined(inputs)
    assert torch.equal(one(x), expected) and x.shape == (6, 3 * 64 + 5 + 4)
    snn = snnfast.convert(one, calibrate=x, percentile=100.0)
    assert len(snn.neurons()) == 2 and (snn(x, T=1024) - expected).norm() < 0.01 * expected.norm()
    report = snnfast.evaluate(snn, [(x, expected.argmax(1))], T=256, ann=one, statistics=True)
    assert report.ann == 100.0 and report.accuracy[-1] == 100.0
    assert torch.equal(torch.cat([snn(x[i : i + 1], T=8) for i in range(6)]).round(decimals=4), snn(x, T=8).round(decimals=4))
    snnfast.save_checkpoint(tmp_path / "snn.pt", snn)
    assert torch.equal(snnfast.load_checkpoint(tmp_path / "snn.pt")(x, T=16), snn(x, T=16))


def test_in_double():
    net = Several().eval().double()
    inputs = {k: t.double() if t.is_floating_point() else t for k, t in NAMED.items()}
    one = snnfast.nn.JoinedInputs(net, inputs)
    assert one.joined(inputs).dtype == torch.float64 and torch.equal(one(one.joined(inputs)), net(**inputs))


@pytest.mark.parametrize("dtype, most", [(torch.float16, 1 << 11), (torch.bfloat16, 1 << 8), (torch.float32, 1 << 24)])
def test_whole_numbers_fit_the_dtype(dtype, most):
    for number in (most, most + 1):
        inputs = torch.zeros(2, 3, dtype=dtype), torch.full((2, 2), number)
        if number == most:
            one = snnfast.nn.JoinedInputs(nn.Bilinear(3, 2, 1), inputs)
            assert one.joined(inputs)[:, 3:].to(torch.int64).eq(number).all()
            continue
        with pytest.raises(ValueError, match=r"inputs\[1\] holds whole numbers beyond 2\^"):
            snnfast.nn.JoinedInputs(nn.Bilinear(3, 2, 1), inputs)


WRONG = {
    "a tensor": (lambda: snnfast.nn.JoinedInputs(Several(), IMAGE), "inputs must be a tuple of tensors, got Tensor"),
    "an entry": (lambda: snnfast.nn.JoinedInputs(Several(), (IMAGE, 3)), r"inputs\[1\] must be a torch.Tensor of real or whole numbers, got int"),
    "batches": (lambda: snnfast.nn.JoinedInputs(Several(), (IMAGE, OTHER[:3])), r"inputs\[1\] must be \[B, ...\] with the B of the others"),
    "nothing": (lambda: snnfast.nn.JoinedInputs(Several(), ()), "inputs must hold at least one tensor"),
    "dtypes": (lambda: snnfast.nn.JoinedInputs(Several(), (IMAGE, OTHER.double())), "inputs must be of one floating dtype, got float32 and float64"),
    "large numbers": (lambda: snnfast.nn.JoinedInputs(Several(), (IMAGE, IDS + (1 << 25))), r"inputs\[1\] holds whole numbers beyond 2\^24"),
    "another shape": (lambda: snnfast.nn.JoinedInputs(Several(), (IMAGE, OTHER)).joined((IMAGE, OTHER[:, :3])), r"inputs\[1\] must be \[B, 5\]"),
    "one too few": (lambda: snnfast.nn.JoinedInputs(Several(), (IMAGE, OTHER)).joined((IMAGE,)), "inputs must be 2 tensors, got 1"),
    "other names": (lambda: snnfast.nn.JoinedInputs(Several(), NAMED).joined({"image": IMAGE}), "inputs must be a dictionary of .* got image"),
    "not joined": (lambda: snnfast.convert(Several(), sample=IMAGE), "does not run on an image|several inputs goes into snnfast.nn.JoinedInputs"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(name):
    make, message = WRONG[name]
    with pytest.raises((ValueError, TypeError), match=message) as error:
        make()
    assert "\n" not in str(error.value)

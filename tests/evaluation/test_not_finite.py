"""What is not finite is refused where it can be known before, and told by layer where it comes up in a run."""

import math
import warnings

import pytest
import torch

import snnfast


def small():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.BatchNorm2d(4), snnfast.nn.QCFS(4, 1.0), torch.nn.Flatten(), torch.nn.Linear(4 * 25, 8),
        snnfast.nn.QCFS(4, 1.0), torch.nn.Linear(8, 3),
    ).eval()  # fmt: skip


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("0.weight", math.nan, "0.weight of net has 1 of 36 numbers that are not finite"),
        ("0.bias", math.inf, "0.bias of net has 1 of 4 numbers that are not finite"),
        ("1.running_var", -1.0, "1.running_var of net has 1 of 4 variances below 0"),
        ("1.running_var", math.nan, "1.running_var of net has 1 of 4 numbers that are not finite"),
        ("1.running_mean", -math.inf, "1.running_mean of net has 1 of 4 numbers that are not finite"),
        ("6.weight", math.nan, "6.weight of net has 1 of 24 numbers that are not finite"),
    ],
)
def test_weights_are_refused_by_name(name, value, message):
    net = small()
    net.state_dict()[name].view(-1)[0] = value
    with pytest.raises(ValueError, match=message):
        snnfast.convert(net)


class Shifted(torch.nn.Module):
    """Adds a constant that no module registers, and has a weight that is computed."""

    def __init__(self, shift):
        super().__init__()
        self.linear, self.act, self.shift = torch.nn.Linear(4, 4), snnfast.nn.QCFS(4, 1.0), torch.tensor(shift)

    def forward(self, x):
        return self.act(self.linear(x) + self.shift)


def test_what_a_capture_finds_is_refused_by_name():
    with pytest.raises(ValueError, match="shift of the captured network has 1 of 4 numbers that are NaN"):
        snnfast.convert(Shifted([0.0, math.nan, 0.0, 0.0]))
    snnfast.convert(Shifted([0.0, -math.inf, 0.0, 0.0]))  # as masks are
    net = Shifted([0.0] * 4)
    net.register_buffer("unused", torch.tensor([math.nan]))
    net.register_buffer("sparse", torch.eye(4).to_sparse())
    net.register_buffer("small", torch.zeros(3).to(torch.float8_e4m3fn))
    snnfast.convert(net)  # nothing reads them
    torch.nn.utils.parametrizations.weight_norm(net.linear)
    with torch.no_grad():
        net.linear.parametrizations.weight.original1.zero_()  # 0 / |0|
    with pytest.raises(ValueError, match="linear.weight of the captured network has 16 of 16 numbers that are not finite"):
        snnfast.convert(net)


def test_a_checkpoint_is_refused_by_name(tmp_path):
    from snnfast.cli.main import main

    net = snnfast.models.vgg11(width=0.05, in_channels=1)
    with torch.no_grad():
        net.layer1[0].weight[0, 0, 0, 0] = math.nan
    snnfast.save_checkpoint(tmp_path / "net.pt", net, data="digits", image_size=32, preprocessing="standardised")
    with pytest.raises(ValueError, match="layer1.0.weight of .*net.pt has 1 of .* numbers that are not finite"):
        snnfast.load_checkpoint(tmp_path / "net.pt")
    assert main(["eval", str(tmp_path / "net.pt"), "--T", "2", "--out", str(tmp_path / "out")]) == 2


def test_a_flipped_byte_is_told(tmp_path):
    """Wherever it lies in the weights: the checksum of the entry does not fit any more."""
    path = tmp_path / "net.pt"
    snnfast.save_checkpoint(path, snnfast.models.vgg11(width=0.05))
    whole = path.read_bytes()
    weights = torch.load(path)["state_dict"]["layer1.0.weight"].numpy().tobytes()
    place = whole.index(weights[:16])
    for offset in (0, 1, 37):
        damaged = bytearray(whole)
        damaged[place + offset] ^= 0x40
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged: the checksum of .* does not fit"):
            snnfast.load_checkpoint(path)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_current_inside_of_a_run_is_told_by_layer(value):
    snn, x = snnfast.convert(small()), torch.randn(3, 1, 5, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        snn.logits(x, 4)
    x[1, 0, 2, 2] = value
    with pytest.warns(UserWarning, match=r"currents were NaN or infinite in 2 \(36\)"):  # the kernel's nine places in four channels
        snn.logits(x, 4)


def test_an_overflow_in_an_evaluation_is_told_by_layer():
    """Finite weights and images, whose products are not."""
    net, zeros = small(), torch.zeros(3, dtype=torch.long)
    clean = snnfast.evaluate(snnfast.convert(net), torch.utils.data.TensorDataset(torch.ones(3, 1, 5, 5), zeros), T=4)
    assert clean.not_finite == {} and not any("infinite" in line for line in clean.notes())
    with torch.no_grad():
        net[0].weight[0] = 3e38
    report = snnfast.evaluate(snnfast.convert(net), torch.utils.data.TensorDataset(torch.full((3, 1, 5, 5), 2.0), zeros), T=4, batch=2)
    assert report.not_finite["2"] == 3 * 25 and report.complete  # channel 0 of three images
    assert any("currents were NaN or infinite in 2 (75)" in line for line in report.notes())


@pytest.mark.parametrize("gradients", [False, True])
def test_an_infinite_current_that_a_reset_forgets_is_told(gradients):
    """A hard reset sets an infinite potential to 0: nothing of it is left at the end."""
    net = snnfast.models.sew_resnet18(num_classes=3, T=2).eval()
    with torch.no_grad():
        net.bn1.weight[0], net.bn1.running_mean[0], net.bn1.running_var[0] = 3e38, -10.0, 1.0
    with pytest.warns(UserWarning, match="infinite in sn1"):  # on the image that a conversion is compared on
        snn = snnfast.convert(net)
    snn.requires_grad_(gradients)
    with pytest.warns(UserWarning, match="currents were NaN or infinite in sn1"):
        logits = snn.logits(torch.ones(2, 3, 32, 32), 4, [4], chunk=2) if not gradients else snn.logits(torch.ones(2, 3, 32, 32), 4)
    assert torch.isfinite(logits).all()

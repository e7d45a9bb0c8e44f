"""Networks whose products skip zeros: the same bits in any batch, chunk and number of threads; which layers; what may be asked for."""

import command
import pytest
import torch
from conftest import isas, threads
from test_execution import outputs, trained_looking
from torch.utils.data import TensorDataset

import snnfast
from snnfast import nn
from snnfast.cli.main import main
from snnfast.runtime import sparse_products
from snnfast.runtime.execution import Execution


@pytest.mark.parametrize("arch", ["vgg11", "resnet18", "resnet50"])
@pytest.mark.parametrize("method", ["if", "cos", "srp"])
def test_the_same_bits_in_any_batch_chunk_and_number_of_threads(arch, method):
    """Without asking for anything: every convolution and linear layer is computed row by row."""
    snn, x = snnfast.convert(trained_looking(arch), method), torch.randn(11, 3, 32, 32)
    whole = torch.cat(list(snn.chunks(x, 6, 6)))
    assert (whole != 0).any()
    for many, batch, chunk in ((1, 1, 4), (3, 4, 1), (2, 7, 2)):
        with threads(many):
            assert torch.equal(torch.cat([torch.cat(list(snn.chunks(part, 6, chunk))) for part in x.split(batch)], 1), whole)


@pytest.mark.parametrize("isa", isas(), indirect=True)
def test_every_instruction_set_gives_the_same_network(isa):
    net = snnfast.models.vgg11(width=0.0625, theta=1.0)
    torch.manual_seed(4)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=p[0].numel() ** -0.5) if p.dim() > 1 else None
    y = snnfast.convert(net.eval()).logits(torch.randn(3, 3, 32, 32), T=5)
    EVERYWHERE.setdefault("y", y)
    assert torch.equal(y, EVERYWHERE["y"]) and (y != 0).any()


EVERYWHERE = {}


@pytest.mark.parametrize("arch", ["vgg11", "resnet18"])
def test_against_dense_products(arch):
    """The same sums in another order: in fp64 no spike moves; in fp32 one may, where a potential ends at its threshold."""
    net, x = trained_looking(arch), torch.randn(5, 3, 32, 32)
    snn = snnfast.convert(net.double())
    a, b, c = (outputs(snn, x.double(), 9, None, Execution(snn.gm, products=kind)) for kind in ("sparse", "dense", "exact"))
    assert torch.allclose(a, b, rtol=0, atol=1e-12) and (a != 0).any()
    assert torch.equal(a, c)  # integers are of fp32 alone: in fp64 the layers are sparse
    snn = snnfast.convert(net.float())
    a, b, c = (outputs(snn, x, 9, None, Execution(snn.gm, products=kind)).mean(0) for kind in ("sparse", "dense", "exact"))
    assert (a - b).abs().max() <= 0.05 * b.abs().max() and (c - b).abs().max() <= 0.05 * b.abs().max()


def test_which_layers():
    conv = lambda **options: torch.nn.Conv2d(4, 4, 3, **{"padding": 1, **options})
    for module in (conv(stride=2, dilation=2), conv(groups=2), conv(groups=4), torch.nn.Linear(3, 4).double()):
        assert sparse_products.served(module)
    for module in (
        conv(padding="same"),
        conv(padding_mode="reflect"),
        conv().half(),
        torch.nn.Conv1d(3, 4, 3),
        torch.nn.ReLU(),
        None,
    ):
        assert not sparse_products.served(module)

    class Own(torch.nn.Linear):
        def forward(self, x):
            return -super().forward(x)

    assert not sparse_products.served(Own(3, 4))


def test_layers_that_are_not_served_stay_with_torch():
    torch.manual_seed(0)
    Q = nn.QCFS
    net = torch.nn.Sequential(
        torch.nn.Conv2d(2, 8, 3, padding="same"), Q(4, 0.5), torch.nn.Conv2d(8, 8, 3, groups=4), Q(4, 0.3),
        torch.nn.Conv2d(8, 6, 3, padding=1, padding_mode="circular"), Q(4, 0.2), torch.nn.Conv2d(6, 5, 1, stride=2), Q(4, 0.1),
        torch.nn.Flatten(), torch.nn.Linear(20, 3, bias=False),
    ).eval()  # fmt: skip
    snn, x = snnfast.convert(net), torch.randn(4, 2, 6, 6)
    execution = Execution(snn.gm)
    a = outputs(snn, x, 7, None, execution)
    served = [node.target for (node, _), product in execution.served.items() if product]
    assert served == [
        "2",
        "6",
        "9",
    ]  # the one in groups, the 1x1 convolution and the linear layer; fx puts the names of Sequential's layers
    assert torch.allclose(a.mean(0), outputs(snn, x, 7, None, Execution(snn.gm, products="dense")).mean(0), atol=1e-5)


def test_nothing_of_the_callers_changes():
    """Weights are laid out anew in the spiking network alone, and their values stay."""
    net, x = trained_looking("vgg11"), torch.randn(2, 3, 32, 32)
    before = {k: (t.clone(), t.stride(), t.data_ptr()) for k, t in net.state_dict().items()}
    snn = snnfast.convert(net)
    mine = {k: t.clone() for k, t in snn.state_dict().items()}
    snn.logits(x, 3)
    conv = next(m for m in list(snn.modules())[3:] if isinstance(m, torch.nn.Conv2d))
    assert conv.weight.permute(2, 3, 1, 0).is_contiguous()
    outputs(snn, x, 1, None, Execution(snn.gm, products="dense"))
    assert conv.weight.is_contiguous()
    assert all(torch.equal(t, before[k][0]) and (t.stride(), t.data_ptr()) == before[k][1:] for k, t in net.state_dict().items())
    assert all(torch.equal(t, mine[k]) for k, t in snn.state_dict().items())


def test_an_evaluation_says_which(tmp_path):
    net, data = trained_looking("vgg11"), TensorDataset(torch.randn(6, 3, 32, 32), torch.arange(6))
    reports = {
        kind: snnfast.evaluate(snnfast.convert(net), data, T=4, products=kind, statistics=True) for kind in (None, *sparse_products.KINDS)
    }
    assert [r.settings["products"] for r in reports.values()] == ["sparse", "sparse", "exact", "dense"]
    assert reports[None].accuracy == reports["sparse"].accuracy
    for options, message in (
        (dict(products="fast"), "products must be one of 'sparse', 'exact', 'dense'; got 'fast'"),
        (
            dict(products="sparse", dtype="bf16"),
            "products 'sparse' are in the format of the network, so they need dtype 'fp32', got 'bf16'",
        ),
        (dict(products="sparse", dtype="author"), "they need dtype 'fp32', got 'author'"),
    ):
        with pytest.raises(ValueError, match=message):
            snnfast.evaluate(snnfast.convert(net), data, T=4, **options)
    for dtype in ("bf16", "author"):
        assert snnfast.evaluate(snnfast.convert(net), data, T=2, dtype=dtype).settings["products"] == "dense"


def test_the_command(checkpoint, tmp_path, capsys):
    base = ["eval", str(checkpoint), "--T", "4", "--images", "20", "--out", str(tmp_path / "e"), "--products", "dense"]
    assert main(base) == 0 and command.report(tmp_path / "e")["settings"]["products"] == "dense"
    assert main([*base[:-2], "--resume"]) == 2 and "products was 'dense', is 'sparse'" in capsys.readouterr().err


def test_images_in_another_format_are_refused_by_name():
    snn = snnfast.convert(trained_looking("vgg11"))
    with pytest.raises(TypeError, match="x has dtype float64, but the network's weights float32"):
        snn.logits(torch.randn(2, 3, 32, 32).double(), 2)

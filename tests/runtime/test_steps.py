"""Steps: a spiking network's steps as a function of tensors, equal to a run's, and through torch.export for any number of images."""

import pytest
import torch
from shares import quick
from torch import nn

import snnfast
from snnfast.conversion.methods import SRP
from snnfast.runtime.execution import Execution

X = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(7))


def conv(inputs=4):
    return nn.Conv2d(inputs, 4, 3, padding=1)


def relus(*middle):
    torch.manual_seed(0)
    features = 64 if middle else 256
    return nn.Sequential(conv(3), nn.ReLU(), *middle, conv(), nn.ReLU(), nn.Flatten(), nn.Linear(features, 5)).eval()


def functions():
    torch.manual_seed(0)
    return nn.Sequential(conv(3), nn.GELU(), conv(), nn.ReLU(), nn.Flatten(), nn.LayerNorm(256), nn.Linear(256, 5), nn.Softmax(1)).eval()


def transformer():
    torch.manual_seed(0)
    return snnfast.models.vit_tiny(dim=24, depth=2, heads=3, patch_size=4, image_size=8, num_classes=5).eval()


def several():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = conv(3), conv(), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            h = torch.relu(self.a(x))
            return {"map": self.c(torch.relu(self.b(h))), "mean": h.mean((2, 3))}

    torch.manual_seed(0)
    return Two().eval()


DIRECT = dict(channels=(8, 8, 8), hidden=8, T=4)
NETWORKS = {
    "if": lambda: snnfast.convert(relus(), calibrate=X),
    "max pooling": lambda: snnfast.convert(relus(nn.MaxPool2d(2)), calibrate=X),
    "gated pooling": lambda: snnfast.convert(relus(nn.MaxPool2d(2)), calibrate=X, maxpool="gated"),
    "stbif": lambda: snnfast.convert(relus(), "stbif", calibrate=X),
    "snm": lambda: snnfast.convert(relus(), "snm", calibrate=X),
    "quanta": lambda: snnfast.convert(relus(), "quanta", m=4, calibrate=X),
    "power": lambda: snnfast.convert(relus(), "power", m=4, calibrate=X),
    "group": lambda: snnfast.convert(relus(), "group", calibrate=X),
    "several outputs": lambda: snnfast.convert(several(), calibrate=X),
    "functions": lambda: snnfast.convert(functions(), mode="differential", calibrate=X),
    "transformer": lambda: snnfast.convert(transformer(), mode="differential"),
    "direct": lambda: snnfast.convert(snnfast.models.csnn_cifar10(**DIRECT).eval(), sample=torch.randn(1, 3, 32, 32)),
}
pytestmark = pytest.mark.filterwarnings("ignore:T is too small")


def made(name):
    torch.manual_seed(1)
    return NETWORKS[name](), torch.randn(3, 3, 32, 32) if name == "direct" else X


def each_step(snn, x, T):
    """The outputs of a run with dense products, [T, B, ...]."""
    return torch.cat([y for y, _ in snn.run(x, T, 1, execution=Execution(snn.gm, "cpu", products="dense"))])


@pytest.mark.parametrize("name", NETWORKS)
def test_they_are_a_runs(name):
    snn, x = made(name)
    T, wanted = 6, each_step(*made(name), 6)
    # Softmax and layer norm are torch's here, and the run's kernels sum in another order: 1e-5 of values of about 1, where no spike moves.
    same = torch.equal if name not in ("functions", "transformer") else lambda a, b: torch.allclose(a, b, atol=1e-5)
    with torch.no_grad():
        y, *state = snnfast.Steps(snn)(x)
        later, outputs = snnfast.Steps(snn, first=False), [y]
        for _ in range(T - 1):
            given, before = state, [t.clone() for t in state]
            y, *state = later(x, *state)
            outputs.append(y)
            assert all(map(torch.equal, given, before))  # what goes in stays as it is
        assert same(torch.stack(outputs), wanted)
        total, *_ = snnfast.Steps(snn, T)(x)
        assert same(total, wanted.double().sum(0).to(total.dtype))
        answer = snnfast.Steps(snn, T, answer=True)(x)
    expected = snn.unpacked(snn.read(snn.clock.answer(wanted.double().sum(0), T).to(wanted.dtype)))
    for a, b in zip(torch.utils._pytree.tree_leaves(answer), torch.utils._pytree.tree_leaves(expected), strict=True):
        assert a.shape == b.shape and same(a, b)
    assert type(answer) is type(expected)


def exported(module, given):
    batch = torch.export.Dim("batch", min=1, max=4096)
    shapes = ({0: batch},) if len(given) == 1 else ({0: batch}, tuple({0: batch} for _ in given[1:]))
    return torch.export.export(module, given, dynamic_shapes=shapes).module()


@pytest.mark.parametrize("name", quick(NETWORKS, "max pooling", "functions"))
def test_exported_for_any_number_of_images(name):
    snn, x = made(name)
    first, later, whole = snnfast.Steps(snn), snnfast.Steps(snn, first=False), snnfast.Steps(snn, 3, answer=True)
    with torch.no_grad():
        _, *state = first(x)
        later(x, *state)
        for module, given in ((first, (x,)), (whole, (x,)), (later, (x, *state))):
            program = exported(module, given)
            for images in (x, x[:1], torch.cat([x, x])):
                many = [torch.cat([t, t])[: len(images)] for t in given[1:]]
                a, b = (torch.utils._pytree.tree_leaves(f(images, *many)) for f in (program, module))
                # One image, and six, in shapes for which torch's products may take another order of sums.
                assert all(torch.allclose(i.double(), j.double(), atol=1e-5) for i, j in zip(a, b, strict=True))


def test_operators_of_what_is_exported():
    """Without gradients torch's alone, so that a program runs where snnfast is not; with them the neurons, and their surrogate gradients."""
    snn, x = made("if")
    whole = snnfast.Steps(snn.requires_grad_(), 3, answer=True)
    ops = lambda program: {str(node.target).split(".")[0] for node in program.graph.nodes if node.op == "call_function"}
    with torch.no_grad():
        assert "snnfast" not in ops(torch.export.export(whole, (x,)))
    program = torch.export.export(whole, (x,))
    assert "snnfast" in ops(program)
    images = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(program.module()(images).sum(), images)
    (wanted,) = torch.autograd.grad(snn(images, T=3).sum(), images)
    assert torch.allclose(found, wanted, atol=1e-5) and bool(wanted.any())  # of products in another order


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["if", "max pooling", "transformer"])
def test_compiled_ahead_of_time(name, tmp_path):
    """AOTInductor compiles with one rounding for a product and a sum, so nothing is equal to the bit: 1e-4."""
    snn, x = made(name)
    with torch.no_grad():
        whole = snnfast.Steps(snn, 3, answer=True)
        package = torch._inductor.aoti_compile_and_package(torch.export.export(whole, (x,)), package_path=str(tmp_path / "net.pt2"))
        assert torch.allclose(torch._inductor.aoti_load_package(package)(x), whole(x), atol=1e-4)


def test_other_weights_and_autocast():
    """In every step the weights are those of the call, and the format is that of the network."""
    snn, _ = made("functions")
    whole = snnfast.Steps(snn, 6, answer=True)
    other = {name: p * 1.5 if "weight" in name else p for name, p in whole.named_parameters()}
    with torch.no_grad():
        before = whole(X)
        program = torch.export.export(whole, (X,)).module()
        given = torch.func.functional_call(whole, other, (X,))
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(whole(X), before) and snnfast.Steps(snn)(X)[0].dtype == torch.float32
        for name, p in whole.named_parameters():
            p.copy_(other[name])
        program.load_state_dict({name: other.get(name, t) for name, t in program.state_dict().items()})
        assert torch.equal(whole(X), given) and not torch.allclose(given, before, atol=1e-3)
        assert torch.allclose(program(X), given, atol=1e-5)  # of products in another order


class Renamed(SRP):
    """A method of phases under a name of its own."""


def masked():
    net = nn.Sequential(conv(3), snnfast.nn.QCFS(4, 1.0), snnfast.nn.SpikeMask(0.5), nn.Flatten(), nn.Linear(256, 5)).eval()
    return snnfast.convert(net, sample=X)


def test_what_it_does_not_take():
    snn, _ = made("if")
    for error, told, call in (
        (TypeError, "snn must be a network of snnfast.convert, got Linear", lambda: snnfast.Steps(nn.Linear(2, 2))),
        (ValueError, "steps must be >= 1, got 0", lambda: snnfast.Steps(snn, 0)),
        (ValueError, "answer=True is of a whole run", lambda: snnfast.Steps(snn, first=False, answer=True)),
        (TypeError, "first must be True or False", lambda: snnfast.Steps(snn, first=1)),
        (ValueError, "method 'srp', which looks at the first steps", lambda: snnfast.Steps(snnfast.convert(relus(), "srp", calibrate=X))),
        (ValueError, "method 'cos', which looks at the first steps", lambda: snnfast.Steps(snnfast.convert(relus(), "cos", calibrate=X))),
        (ValueError, "image as spikes", lambda: snnfast.Steps(snnfast.convert(relus(), calibrate=X, inputs="poisson", amplitude=9.0))),
        (ValueError, "method 'Renamed'", lambda: snnfast.Steps(snnfast.convert(relus(), Renamed(), calibrate=X))),
        (ValueError, "captured with, with B >= 1, got shape", lambda: snnfast.Steps(snn)(torch.randn(2, 3, 12, 12))),
        (ValueError, "for one image give x", lambda: snnfast.Steps(snn)(X[0])),
        (ValueError, "random masks", lambda: snnfast.Steps(masked())),
        (TypeError, "x has dtype float64, but the network's weights float32", lambda: snnfast.Steps(snn)(X.double())),
        (ValueError, "the first steps take no state", lambda: snnfast.Steps(snn)(X, X)),
        (ValueError, "later steps take the states", lambda: snnfast.Steps(snn, first=False)(X)),
        (ValueError, "state has 1 tensors, and the network's neurons and functions over time have 4", lambda: snnfast.Steps(snn, first=False)(X, X)),
    ):  # fmt: skip
        with pytest.raises(error, match=told):
            call()

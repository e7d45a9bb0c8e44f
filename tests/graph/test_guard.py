"""A captured network gives what the network gives, or is refused by name: hooks, shared weights, branches, one's own activations."""

import pytest
import torch
from torch.nn import functional as F

import snnfast
from snnfast.graph import drawn
from snnfast.graph.prepare import prepared

X = torch.randn(12, 3, 6, 6, generator=torch.Generator().manual_seed(5))


class Own(torch.nn.Module):
    """Layers by name, and a forward given as a function."""

    def __init__(self, body, **layers):
        super().__init__()
        torch.manual_seed(0)
        self.body = body
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.body(self, x)


def norm(channels):
    bn = torch.nn.BatchNorm2d(channels)
    bn.running_var.uniform_(0.2, 0.5)
    bn.running_mean.uniform_(-1, 1)
    return bn


def head(channels=4):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(channels * 36, 3))


def conv(inputs=3, **how):
    return torch.nn.Conv2d(inputs, 4, 3, padding=1, **how)


def near(net, x, **how):
    """How far 512 steps are from the network, as a share of its largest output."""
    net = net.double().eval()
    snn = snnfast.convert(net, **how)
    with torch.no_grad():
        wanted = net(x.double())
        return float((snn(x.double(), T=512) - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("where", ["network", "block", "layer"])
@pytest.mark.parametrize("before", [True, False], ids=["before", "behind"])
def test_hooks_are_a_part_of_the_network(where, before):
    net = Own(lambda s, x: s.h(s.b(x)), b=torch.nn.Sequential(conv(), snnfast.nn.QCFS(512, 4.0)), h=head())
    place = {"network": net, "block": net.b, "layer": net.h[1]}[where]
    if before:
        place.register_forward_pre_hook(lambda m, inputs: (inputs[0] * 0.5 + 0.25,))
    else:
        place.register_forward_hook(lambda m, inputs, y: y * 3)
    assert near(net, X) < 0.02


def test_a_hook_on_an_activation_is_refused():
    net = torch.nn.Sequential(conv(), snnfast.nn.QCFS(4, 1.0), head())
    net[1].register_forward_hook(lambda m, inputs, y: 2 * y)
    with pytest.raises(ValueError, match=r"1 \(QCFS\) has hooks, which its neuron would not have"):
        snnfast.convert(net)


def test_an_activation_with_a_forward_of_its_own_is_refused():
    class Halved(snnfast.nn.QCFS):
        def forward(self, x):
            return super().forward(x) * 0.5

    with pytest.raises(ValueError, match=r"1 \(Halved\) is not the activation of its levels: .* gives .*, and its neuron"):
        snnfast.convert(torch.nn.Sequential(conv(), Halved(4, 1.0), head()))

    class Named(snnfast.nn.QCFS):
        """Nothing but a name."""

    snnfast.convert(torch.nn.Sequential(conv(), Named(4, 1.0), head()))


@pytest.mark.parametrize("reads", ["weight of the convolution", "statistics of the norm"])
def test_a_batch_norm_is_not_folded_where_its_layers_are_read_elsewhere(reads):
    body = {
        "weight of the convolution": lambda s, x: s.h(s.a(s.n(s.c(x))) + s.b(F.conv2d(x, s.c.weight, padding=2, dilation=2))),
        "statistics of the norm": lambda s, x: s.h(s.a(s.n(s.c(x))) + s.b(s.c2(x) * s.n.weight.view(-1, 1, 1))),
    }[reads]
    layers = dict(c=conv(bias=False), n=norm(4), a=snnfast.nn.QCFS(512, 4.0), b=snnfast.nn.QCFS(512, 4.0), h=head(), c2=conv())
    assert near(Own(body, **layers), X, sample=X.double()) < 0.02


def test_a_folded_batch_norm_is_compared_as_it_runs():
    """Both kinds of it, with samples and without."""
    for kind in (torch.nn.BatchNorm2d, torch.nn.SyncBatchNorm):
        bn = kind(4)
        bn.load_state_dict(norm(4).state_dict())
        net = torch.nn.Sequential(conv(), bn, snnfast.nn.QCFS(512, 8.0), head())
        assert near(net, X) < 0.02 and near(net, X, sample=X.double()) < 0.02
        assert not any(isinstance(m, kind) for m in snnfast.convert(net, sample=X.double()).gm.modules())


def test_a_branch_on_values_is_refused():
    net = Own(lambda s, x: s.h(s.a(x)) if x.mean() > 0 else s.h(s.a(x) + 1.0), a=snnfast.nn.QCFS(4, 1.0), h=head(3)).eval()
    x = torch.cat([X.abs(), -X.abs()])
    with pytest.raises(ValueError, match=r"a branch or a number of Own.forward goes by the values of the image"):
        snnfast.convert(net, sample=x)
    with pytest.raises(ValueError, match=r"torch.fx cannot trace Own.forward .*; give sample=, images \[1 or more, ...\]"):
        snnfast.convert(net)


def test_a_branch_on_sizes_needs_a_sample_alone():
    net = Own(lambda s, x: s.h(s.a(x)) if x.shape[-1] > 3 else s.h(x), a=snnfast.nn.QCFS(512, 4.0), h=head(3))
    assert near(net, X, sample=X[:1].double()) < 0.02


def test_norms_that_mix_images_are_refused_in_front_of_the_neurons_too():
    net = torch.nn.Sequential(conv(), torch.nn.BatchNorm2d(4, track_running_stats=False), snnfast.nn.QCFS(4, 1.0), head())
    with pytest.raises(ValueError, match=r"1 \(BatchNorm2d\) has no running statistics: it would mix the images of a batch"):
        snnfast.convert(net)


@pytest.mark.parametrize(
    "sample, message",
    [
        (torch.zeros(()), "sample must be images"),
        (torch.zeros(0, 3), "sample must be images"),
        (torch.zeros(2, 4), r"net does not run on an image of sample= \(\[1, 4\], float32, on cpu\): mat1 and mat2"),
    ],
)
def test_samples_that_are_none(sample, message):
    with pytest.raises(ValueError, match=message):
        snnfast.convert(torch.nn.Sequential(torch.nn.Linear(3, 3), snnfast.nn.QCFS(4, 1.0), torch.nn.Linear(3, 2)), sample=sample)


def test_the_network_is_not_changed_by_a_comparison():
    net = torch.nn.Sequential(conv(), norm(4), torch.nn.Dropout(0.5), snnfast.nn.QCFS(4, 1.0), head()).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    prepared(net, [X[:1], X[5:6]])
    assert net.training and all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("where", ["on the input", "in a layer"])
def test_samples_are_not_written_to(where):
    first = torch.nn.ReLU(inplace=True) if where == "in a layer" else torch.nn.Identity()
    body = lambda s, x: s.h(s.q(s.c(s.f(x.mul_(2.0).sub_(1.0) if where == "on the input" else x))))  # noqa: E731
    net, x = Own(body, f=first, c=conv(), q=torch.nn.ReLU(), h=head()).eval(), X.clone()
    if where == "in a layer":
        snnfast.convert(net, calibrate=x)
        assert torch.equal(x, X)
    else:
        snnfast.convert(net, calibrate=x, sample=X.clone())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("levels", [1, 4, 16])
def test_rounding_refuses_nothing(dtype, levels):
    """Levels of quantised activations move by it, on flat images whole maps of them: the comparison is in fp64."""
    torch.manual_seed(levels)
    net = snnfast.models.resnet20(activation="qcfs", levels=levels, width=0.25)
    for m in net.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.running_mean.normal_(), m.running_var.uniform_(0.2, 2.0)
    x = torch.cat([torch.randn(2, 3, 32, 32), torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32)])
    snnfast.convert(net.to(dtype), sample=x.to(dtype))


def test_an_output_of_zeros_is_one():
    net = torch.nn.Sequential(
        conv(bias=False), torch.nn.BatchNorm2d(4), snnfast.nn.QCFS(4, 1.0), torch.nn.Flatten(), torch.nn.Linear(144, 3, bias=False)
    )
    snnfast.convert(net, sample=torch.zeros(2, 3, 6, 6))


def test_observing_hooks_change_no_name():
    net = torch.nn.Sequential(conv(), snnfast.nn.QCFS(4, 1.0), head())
    plain = snnfast.convert(net, v0={"1": 0.25})
    net.register_forward_hook(lambda m, inputs, y: None)
    hooked = snnfast.convert(net, v0={"1": 0.25})
    assert [n for n, _ in hooked.neurons()] == [n for n, _ in plain.neurons()] and len(net._forward_hooks) == 1
    assert list(hooked.state_dict()) == list(plain.state_dict()) and type(net) is torch.nn.Sequential


def test_layers_that_nothing_calls_are_left_alone():
    net = Own(lambda s, x: s.h(s.q(x)), q=snnfast.nn.QCFS(4, 1.0), h=head(3), aux=torch.nn.BatchNorm2d(3, track_running_stats=False))
    snnfast.convert(net)


def test_a_fold_that_is_wrong_is_named(monkeypatch):
    """Which of the two it was, the capture or the fold."""
    from snnfast.graph import prepare

    def wrong(gm):
        for m in gm.modules():
            if isinstance(m, torch.nn.Conv2d):
                m.weight.data.mul_(1.5)

    monkeypatch.setattr(prepare, "fold_batch_norms", wrong)
    with pytest.raises(ValueError, match=r"other outputs \(.*\): a batch norm cannot be folded"):
        snnfast.convert(torch.nn.Sequential(conv(), norm(4), snnfast.nn.QCFS(4, 1.0), head()), sample=X)


def test_without_images_what_was_recorded_is_compared_on_an_image_that_is_drawn():
    class Counts(torch.nn.Module):
        """What torch.fx records is the number at that moment."""

        def __init__(self, first, many):
            super().__init__()
            self.first, self.many = first, many
            self.act, self.last = snnfast.nn.QCFS(8, 1.0), torch.nn.Linear(many, 2)

        def forward(self, x):
            h = self.act(self.first(x)).flatten(1)
            factor = 1.0 if isinstance(x, torch.fx.Proxy) else 2.0
            return self.last(h[:, : self.many] * factor)

    for first, many in ((torch.nn.Linear(4, 6), 6), (torch.nn.Conv2d(3, 2, 3), 2 * 26**2), (torch.nn.Conv1d(2, 3, 2), 3 * 4)):
        net, state = Counts(first, many), torch.random.get_rng_state()
        with pytest.raises(ValueError, match="captured, it gives other outputs"):
            snnfast.convert(net)
        assert torch.equal(torch.random.get_rng_state(), state)


def test_without_images_a_network_that_takes_none_of_the_usual_is_told():
    class Odd(torch.nn.Sequential):
        def forward(self, x):
            return super().forward(x.reshape(-1, 7, 11)[:, :, :4])

    net = Odd(torch.nn.Linear(4, 8), snnfast.nn.QCFS(8, 1.0), torch.nn.Linear(8, 2))
    with pytest.raises(ValueError, match="no image was found that it takes.*; give sample="):
        snnfast.convert(net)
    x = torch.randn(2, 7, 11)
    assert snnfast.convert(net, sample=x)(x, 4).shape == (2, 7, 2)


@pytest.mark.parametrize("size", [23, 32, 224])
def test_the_size_of_an_image_is_found_by_the_layers_behind_it(size):
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3), snnfast.nn.QCFS(8, 1.0), torch.nn.Flatten(), torch.nn.Linear(2 * (size - 2) ** 2, 3)
    )
    assert drawn.image(net).shape == (1, 1, size, size)

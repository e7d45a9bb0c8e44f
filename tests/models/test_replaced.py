"""Quantised activations in place of the ReLUs of any network, written into a file and put there again."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import snnfast

X = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """Two convolutions that share a ReLU, one with a ReLU6 of its own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 6, 3)
        self.relu, self.last, self.head = nn.ReLU(inplace=True), nn.Hardtanh(0.0, 6.0), nn.Linear(24, 3)

    def forward(self, x):
        x = self.relu(self.b(self.relu(self.a(x))))
        return self.head(self.last(self.c(x)).flatten(1))


@pytest.mark.parametrize("kind", ["qcfs", "s-qcfs", "e-qcfs"])
def test_every_relu_gives_way(kind):
    net = Net().double().eval()
    new = snnfast.to_quantised(net, kind, 6, 1.5, sample=X.double())
    assert isinstance(net.relu, nn.ReLU) and type(new.relu) is type(new.last) and new.relu is not new.last
    h = X.double()
    for layer in (net.a, net.b, net.c):  # the definition: theta floor(L clamp(x/theta, 0, 1) + 1/2)/L
        h = 1.5 * torch.floor(6 * (layer(h) / 1.5).clamp(0, 1) + 0.5) / 6
    assert torch.allclose(new(X.double()), net.head(h.flatten(1)), atol=1e-12)  # theta is stored in fp32 first
    assert all(not m.training for m in new.modules())
    snn = snnfast.convert(new, mode="differential", sample=X.double())
    assert torch.allclose(snn(X.double(), T=64), new(X.double()), atol=1e-9)  # sums of several steps round otherwise


def test_a_relu_alone_and_one_in_a_list():
    assert isinstance(snnfast.to_quantised(nn.ReLU()), snnfast.nn.QCFS)
    new = snnfast.to_quantised(nn.Sequential(nn.Linear(2, 2), nn.ModuleList([nn.ReLU6()])[0]))
    assert isinstance(new[1], snnfast.nn.QCFS)


class Functions(Net):
    def forward(self, x):
        return super().forward(F.relu(x))


class Inside(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.block = nn.ReLU(), nn.Sequential(Clips())

    def forward(self, x):
        return self.block(self.first(x))


class Clips(nn.Module):
    def forward(self, x):
        return F.hardtanh(x, 0.0, 1.0).relu()


class Writes(Net):
    def forward(self, x):
        h = self.a(x)
        self.relu(h)
        return self.head(self.last(self.c(self.b(h))).flatten(1))


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (Functions(), r"relu in net \(Functions\)\. Make them layers"),
        (Inside(), r"hardtanh in block\.0 \(Clips\), relu in block\.0 \(Clips\)"),
        (Writes(), "net takes what a ReLU wrote in place, not what it gives, at one of relu"),
        (nn.Sequential(nn.Conv2d(2, 2, 3), nn.GELU()), "net has no ReLU layer"),
        (nn.Sequential(nn.Conv2d(2, 2, 3), nn.Hardtanh()), "net has no ReLU layer"),
        (nn.Sequential(nn.Conv2d(5, 2, 3), nn.ReLU()), r"net does not run on sample= \[3, 2, 8, 8\]"),
    ],
)
def test_what_would_stay_or_be_lost_is_refused(net, message):
    with pytest.raises(ValueError, match=message):
        snnfast.to_quantised(net, sample=X)


def test_other_functions_are_none_of_relus():
    net = nn.Sequential(nn.ReLU(), nn.Hardtanh(), nn.LeakyReLU(), nn.GELU(), snnfast.nn.QCFS(4, 1.0))
    new = snnfast.to_quantised(net, sample=X)
    assert [type(m).__name__ for m in new] == ["QCFS", "Hardtanh", "LeakyReLU", "GELU", "QCFS"]


@pytest.mark.parametrize(
    ("given", "message"), [(dict(activation="lsq"), "activation"), (dict(levels=0), "levels"), (dict(theta=-1.0), "theta")]
)
def test_wrong_arguments(given, message):
    with pytest.raises(ValueError, match=message):
        snnfast.to_quantised(Net(), **given)
    with pytest.raises(TypeError, match="net must be a torch.nn.Module, got int"):
        snnfast.to_quantised(3)


# ---- files


@pytest.mark.parametrize("finer", [False, True])
def test_a_file_puts_them_there_again(tmp_path, finer):
    new = snnfast.to_quantised(Net(), "s-qcfs", 6, 1.5).eval()
    if finer:
        net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5), nn.ReLU(), nn.Linear(5, 2))
        new = snnfast.to_channelwise(snnfast.to_quantised(net, "s-qcfs", 6, 1.5).eval(), sample=X)
    fresh = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5), nn.ReLU(), nn.Linear(5, 2)) if finer else Net()
    snnfast.save_checkpoint(tmp_path / "net.pt", new, data="digits")
    again = snnfast.load_weights(fresh.eval(), tmp_path / "net.pt")
    assert again is fresh and torch.equal(again(X), new(X))
    assert finer or again.relu is again._modules["relu"] and type(again.relu) is snnfast.nn.SQCFS
    assert torch.equal(snnfast.load_weights(again, tmp_path / "net.pt")(X), new(X))  # where they stand already
    with pytest.raises(
        ValueError, match=r"none of snnfast\.models \((Net|Sequential)\): build it, then snnfast\.load_weights\(net, path\)"
    ):
        snnfast.load_checkpoint(tmp_path / "net.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(activations=3), "is damaged: it does not say what its activations are"),
        (dict(activations={"relu": dict(kind="QCFS", levels=2**40, grad="qcfs", many=None)}), "has the number 1099511627776; at most"),
        (dict(activations={"relu": dict(kind="CQCFS", levels=4, grad="qcfs", many=2**40)}), "has the number 1099511627776; at most"),
        (dict(activations={"relu": dict(kind="Linear", levels=4, grad="qcfs", many=4)}), "relu: no activation can be put there"),
        (dict(activations={"gone": dict(kind="QCFS", levels=4, grad="qcfs", many=None)}), "gone: no activation can be put there"),
        (dict(activations={"a": dict(kind="QCFS", levels=4, grad="qcfs", many=None)}), r"a \(Conv2d\) is neither a ReLU nor"),
        (dict(activations={}), "relu.thresh is not of net"),
        (dict(state_dict={}), "holds no weights"),
    ],
)
def test_a_file_that_does_not_fit_changes_nothing(tmp_path, change, message):
    snnfast.save_checkpoint(tmp_path / "net.pt", snnfast.to_quantised(Net()))
    torch.save(torch.load(tmp_path / "net.pt") | change, tmp_path / "net.pt")
    net = Net()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        snnfast.load_weights(net, tmp_path / "net.pt")
    assert isinstance(net.relu, nn.ReLU) and all(torch.equal(t, before[name]) for name, t in net.state_dict().items())


def test_what_cannot_be_written_is_refused(tmp_path):
    class Extra(nn.Linear):
        def get_extra_state(self):
            return {"anything": object()}

    with pytest.raises(TypeError, match="no tensor under _extra_state"):
        snnfast.save_checkpoint(tmp_path / "net.pt", Extra(2, 2))
    with pytest.raises(TypeError, match="net must be a torch.nn.Module, got dict"):
        snnfast.save_checkpoint(tmp_path / "net.pt", {})
    assert not list(tmp_path.iterdir())

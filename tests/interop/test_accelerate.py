"""Drop-in acceleration: modules that behave as those of the QCFS, SRP and COS programs, and SpikingJelly's own, give the same bits after it.

The modules here are written from what SEMANTICS says their programs compute, with the attributes that they have.
"""

import copy
import importlib.util

import pytest
import torch

import snnfast

SJ = importlib.util.find_spec("spikingjelly") is not None


class Spike(torch.autograd.Function):
    """[a >= 0] with the triangle of width gama as its derivative."""

    @staticmethod
    def forward(ctx, a, gama):
        ctx.save_for_backward(a)
        ctx.gama = gama
        return (a >= 0).float()

    @staticmethod
    def backward(ctx, g):
        (a,) = ctx.saved_tensors
        return g * (ctx.gama - a.abs()).clamp(min=0) / ctx.gama**2, None


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.floor()

    @staticmethod
    def backward(ctx, g):
        return g


class IF(torch.nn.Module):
    """Like the QCFS program's."""

    def __init__(self, thresh, L=4, T=0, gama=1.0):
        super().__init__()
        self.thresh, self.L, self.T, self.gama, self.act = torch.nn.Parameter(torch.tensor([thresh])), L, T, gama, Spike.apply

    def forward(self, x):
        if not self.T:
            z = (x / self.thresh).clamp(0, 1)
            return Straight.apply(z * self.L + 0.5) / self.L * self.thresh
        theta, out = self.thresh.data, []
        x = x.view(self.T, -1, *x.shape[1:])
        v = theta * 0.5
        for t in range(self.T):
            v = v + x[t]
            s = self.act(v - theta, self.gama) * theta
            v = v - s
            out.append(s)
        return torch.stack(out).flatten(0, 1)


class Floor(torch.nn.Module):
    """Like the SRP, COS and CS-QCFS programs' activation."""

    def __init__(self, up, t=4, softplus=False):
        super().__init__()
        self.up, self.t, self.positive = torch.nn.Parameter(torch.as_tensor(up)), t, softplus

    def forward(self, x):
        theta = torch.nn.functional.softplus(self.up) if self.positive else self.up
        z = Straight.apply(x / theta * self.t + 0.5) / self.t
        return z.clamp(0, 1) * theta


class Node:
    """A neuron with one memory, as the older programs' library has it: threshold 1, soft reset."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.v = 0.0

    def __call__(self, x):
        self.v = self.v + x
        s = (self.v >= 1).to(x.dtype)
        self.v = self.v - s
        return s


class ScaledNeuron(torch.nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale, self.t, self.neuron = scale, 0, Node()

    def reset(self):
        self.t = 0
        self.neuron.reset()

    def forward(self, x):
        x = x / self.scale
        if self.t == 0:
            self.neuron(torch.full_like(x, 0.5))
        self.t += 1
        return self.neuron(x) * self.scale


class SRPLayer(torch.nn.Module):
    def __init__(self, v_threshold, presim_len, sim_len):
        super().__init__()
        self.v_threshold, self.presim_len, self.sim_len = v_threshold, presim_len, sim_len
        self.t, self.membrane_lower, self.neuron = 0, None, Node()

    @torch.no_grad()
    def forward(self, x):
        if self.t == 0:
            self.neuron.reset()
            self.neuron(torch.full_like(x, 0.5))
        y = self.neuron(x / self.v_threshold)
        self.t += 1
        if self.t == self.presim_len:
            self.membrane_lower = (self.neuron.v > 1e-3).to(x.dtype)
            self.neuron.reset()
            self.neuron(torch.full_like(x, 0.5))
        if self.t > self.presim_len:
            y = y * self.membrane_lower
        if self.t == self.presim_len + self.sim_len:
            self.t = 0
        return y * self.v_threshold


class COSLayer(torch.nn.Module):
    def __init__(self, v_threshold, presim_len, sim_len, batchsize):
        super().__init__()
        self.v_threshold, self.presim_len, self.sim_len, self.batchsize = v_threshold, presim_len, sim_len, batchsize
        self.t, self.snn_mode, self.neuron = 0, True, Node()

    @torch.no_grad()
    def forward(self, x):
        if not self.snn_mode:
            return x.relu()
        image = x.dim() == 4 and x.size(0) <= self.batchsize
        x = x.expand(self.sim_len, *x.shape) if image else x.view(self.sim_len, -1, *x.shape[1:])
        z, v0 = x / self.v_threshold, torch.full_like(x[0], 0.5)
        if self.presim_len:
            v, n, low, high = v0, 0, torch.full_like(v0, 1000.0), torch.full_like(v0, -1000.0)
            for zt in z[: self.presim_len]:
                u = v + zt
                s = (u >= 1).to(u.dtype)
                low, high = torch.where(s > 0, torch.minimum(low, u), low), torch.where(s > 0, high, torch.maximum(high, u))
                v, n = u - s, n + s
            v0 = v0 - ((v < 0) & (n > 1e-3)).to(v.dtype) * (low - 0.999).clamp(min=1)
            v0 = torch.where(v >= 1, 0.5 + (1.001 - high).clamp(min=1), v0)
        self.neuron.v = v0
        return torch.stack([self.neuron(zt) for zt in z]).flatten(0, 1) * self.v_threshold


def images(*shape, scale=1.0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(5)) * 0.8 * scale + 0.3 * scale


class Net(torch.nn.Module):
    def __init__(self, *acts):
        super().__init__()
        torch.manual_seed(2)
        self.a, self.b, self.fc = torch.nn.Conv2d(2, 4, 3), torch.nn.Conv2d(4, 4, 3), torch.nn.Linear(4, 3)
        self.act1, self.act2 = acts

    def set_T(self, T):
        for m in self.modules():
            if isinstance(m, IF):
                m.T = T

    def forward(self, x):
        return self.fc(self.act2(self.b(self.act1(self.a(x)))).mean((2, 3)))


def test_qcfs_program():
    net = Net(IF(0.75), IF(0.21432, L=8, gama=1.3))
    keys, expected = list(net.state_dict()), {}
    x = images(12, 2, 9, 9)
    for T in (0, 1, 4, 6):
        net.set_T(T)
        expected[T] = net(x)
    found = snnfast.accelerate(net)
    assert [r[:3] for r in found.replaced] == [("act1", "IF", "QCFS neuron"), ("act2", "IF", "QCFS neuron")] and not found.left
    assert list(net.state_dict()) == keys and isinstance(net.act1, IF)
    for T in (0, 1, 4, 6):
        net.set_T(T)
        assert torch.equal(net(x), expected[T])
    net.load_state_dict({k: v * 1.25 for k, v in net.state_dict().items()})
    found.undo()
    after = net(x)
    assert type(net.act1) is IF
    snnfast.accelerate(net)
    assert torch.equal(net(x), after) and torch.equal(copy.deepcopy(net)(x), after)
    assert not snnfast.accelerate(net).replaced, "what is fused is not fused again"


@pytest.mark.parametrize("T", [0, 4])
def test_gradients_of_the_qcfs_program(T):
    x, grads = images(8, 2, 9, 9), []
    for fuse in (False, True):
        net = Net(IF(0.75, T=T), IF(0.6, T=T))
        if fuse:
            assert len(snnfast.accelerate(net).replaced) == 2
        net(x).square().sum().backward()
        grads.append([p.grad for p in net.parameters()])
    for a, b in zip(*grads, strict=True):
        # They multiply by theta/L and L/theta, and sum in another order.
        assert (a is None) == (b is None) and (a is None or torch.allclose(a, b, rtol=2e-4, atol=1e-5 * float(b.abs().max())))


@pytest.mark.parametrize(
    "up, softplus", [([1.5], False), (0.8, True), (torch.rand(1, 4, 1, 1) + 0.4, False), (torch.randn(1, 4, 1, 1), True)]
)
def test_activations_of_the_older_programs(up, softplus):
    net = Net(Floor(up, softplus=softplus), Floor(up, 8, softplus))
    x, grads = images(5, 2, 9, 9), []
    expected = net(x)
    expected.sum().backward()
    grads = [p.grad.clone() for p in net.parameters()]
    found = snnfast.accelerate(net)
    assert len(found.replaced) == 2, str(found)
    net.zero_grad()
    y = net(x)
    assert torch.equal(y, expected)
    y.sum().backward()
    # They multiply by theta/L and L/theta, and sum in another order.
    assert all(torch.allclose(p.grad, g, rtol=2e-4, atol=1e-4) for p, g in zip(net.parameters(), grads, strict=True))


def test_neurons_step_by_step():
    for layer in (ScaledNeuron(0.21432), ScaledNeuron(1.7), SRPLayer(0.75, 4, 6), SRPLayer(0.3, 1, 3)):
        theirs, ours = copy.deepcopy(layer), copy.deepcopy(layer)
        found = snnfast.accelerate(ours)
        assert len(found.replaced) == 1, str(found)
        x = images(13, 2, 3, 4, scale=0.6)
        for t in range(13):
            assert torch.equal(ours(x[t]), theirs(x[t])), t
            assert ours.t == theirs.t and torch.equal(torch.as_tensor(ours.neuron.v), torch.as_tensor(theirs.neuron.v))
        if hasattr(layer, "reset"):
            ours.reset()
            theirs.reset()
            assert torch.equal(ours(x[0]), theirs(x[0]))


@pytest.mark.parametrize("presim", [0, 4])
def test_cos_program(presim):
    net = Net(COSLayer(0.75, presim, 6, 3), COSLayer(0.4, presim, 6, 3))
    x = images(3, 2, 9, 9)
    expected = net(x)
    found = snnfast.accelerate(net)
    assert len(found.replaced) == 2, str(found)
    assert torch.equal(net(x), expected) and torch.equal(net(x), expected)
    net.act1.snn_mode = False
    assert torch.equal(net.act1(x), x.relu())


class OtherIF(IF):
    """Looks like the QCFS program's, and is it for T = 0; with T > 0 it gets other currents."""

    def forward(self, x):
        return super().forward(x - 0.5 * self.thresh.data / self.T if self.T else x)


class ClampFirst(Floor):
    """Looks like the older programs' activation, and has another gradient."""

    def forward(self, x):
        return Straight.apply((x / self.up).clamp(0, 1) * self.t + 0.5) / self.t * self.up


class MyNeuron(torch.nn.Module):
    def forward(self, x):
        return x


class Broken(IF):
    def forward(self, x):
        raise RuntimeError("needs a GPU")


def test_what_is_left_is_said():
    net = torch.nn.Sequential(OtherIF(0.7, T=0), MyNeuron(), Broken(0.5), ClampFirst(0.5), snnfast.nn.QCFS(), torch.nn.ReLU())
    found = snnfast.accelerate(net)
    assert not found.replaced and [name for name, *_ in found.left] == ["0", "1", "2", "3"]
    assert "gradients differ" in found.left[3][2] and len(str(found).splitlines()) == 5
    assert (
        "outputs differ" in found.left[0][2]
        and "not a module of the QCFS" in found.left[1][2]
        and "RuntimeError: needs a GPU" in found.left[2][2]
    )
    assert type(net[0]) is OtherIF and "0 (OtherIF) is left" in str(found)
    with pytest.raises(TypeError, match="model must be a torch.nn.Module, got list"):
        snnfast.accelerate([])


needs_sj = pytest.mark.skipif(not SJ, reason="SpikingJelly is not installed")


def sj_nodes():
    from spikingjelly.activation_based import neuron, surrogate

    many = torch.tensor([0.5, 0.8, 1.1])
    return {
        "if soft": neuron.IFNode(0.7, None, step_mode="m"),
        "if hard": neuron.IFNode(0.7, -0.1, surrogate.ATan(), step_mode="m"),
        "half": neuron.HalfThresholdIFNode(0.7, step_mode="m"),
        "lif": neuron.LIFNode(2.3, True, 0.7, None, step_mode="m"),
        "lif hard": neuron.LIFNode(2.3, True, 0.7, 0.0, surrogate.ATan(), True, step_mode="m"),
        "lif no decay": neuron.LIFNode(2.3, False, 0.7, -0.2, step_mode="m"),
        "lif no decay soft": neuron.LIFNode(2.3, False, 0.7, None, step_mode="m"),
        "plif": neuron.ParametricLIFNode(2.3, True, 0.7, None, step_mode="m"),
        "plif hard": neuron.ParametricLIFNode(2.3, True, 0.7, 0.0, surrogate.ATan(), True, step_mode="m"),
        "plif no decay": neuron.ParametricLIFNode(2.3, False, 0.7, -0.2, step_mode="m"),
        "plif no decay soft": neuron.ParametricLIFNode(2.3, False, 0.7, None, step_mode="m"),
        "aware": neuron.ActivationAwareIFNode(many, many / 2, channel_dim=1, v_reset=None, step_mode="m"),
        "aware scalar": neuron.ActivationAwareIFNode(torch.tensor(0.8), torch.tensor(0.3), v_reset=None, step_mode="m"),
    }


@needs_sj
@pytest.mark.parametrize("which", range(13))
def test_spikingjelly(which):
    from spikingjelly.activation_based import functional

    name, node = list(sj_nodes().items())[which]
    theirs, ours = torch.nn.Sequential(copy.deepcopy(node)), torch.nn.Sequential(node)
    keys = list(ours.state_dict())
    found = snnfast.accelerate(ours)
    assert len(found.replaced) == 1, (name, str(found))
    assert list(ours.state_dict()) == keys
    x = images(2, 9, 2, 3, 5)
    with torch.no_grad():
        for part in x:  # the second call goes on from the first one's membrane
            assert torch.equal(ours(part), theirs(part)), name
            assert torch.equal(ours[0].v, theirs[0].v)
        functional.reset_net(ours)
        functional.reset_net(theirs)
        assert torch.equal(ours(x[0]), theirs(x[0]))
    grads = []
    for net in (theirs, ours):
        functional.reset_net(net)
        leaf = x[0].clone().requires_grad_()
        y = net(leaf)
        y.square().sum().backward()
        grads.append((y.detach(), leaf.grad, *(p.grad for p in net.parameters())))
    assert torch.equal(*(g[0] for g in grads))
    for theirs_, ours_ in zip(grads[0][1:], grads[1][1:], strict=True):
        assert torch.allclose(ours_, theirs_, rtol=1e-4, atol=1e-6)  # exp differs between libraries; y is divided by theta


@needs_sj
def test_spikingjelly_between_its_scalers_and_what_is_left():
    from spikingjelly.activation_based import neuron, surrogate
    from spikingjelly.activation_based.ann2snn.modules import VoltageScaler as scaler

    net = torch.nn.Sequential(
        scaler(1 / 1.7, "m"), neuron.ActivationAwareIFNode(torch.tensor(1.0), torch.tensor(0.5), v_reset=None, step_mode="m"), scaler(1.7, "m"),
        neuron.IFNode(step_mode="s"), neuron.LIFNode(surrogate_function=surrogate.PiecewiseQuadratic(), step_mode="m"),
        neuron.ActivationAwareIFNode(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.6]), channel_dim=1, v_reset=None, step_mode="m"),
        type("MyIFNode", (neuron.IFNode,), {"neuronal_charge": lambda self, x: None})(step_mode="m"),
        type("Defaults", (neuron.IFNode,), {"__init__": lambda self: neuron.IFNode.__init__(self, step_mode="m")})(),  # the same neuron
    )  # fmt: skip
    first, x = torch.nn.Sequential(*net[:3]), images(8, 3, 4, scale=1.7)
    expected = first(x)
    first[1].reset()
    found = snnfast.accelerate(net)
    assert [name for name, *_ in found.replaced] == ["1", "4", "7"] and [name for name, *_ in found.left] == ["0", "2", "3", "5", "6"]
    assert "no surrogate PiecewiseQuadratic" in found.replaced[1][3]
    reasons = ("one multiplication", "one multiplication", "single-step mode", "multiple", "subclass")
    assert all(reason in why for reason, (_, _, why) in zip(reasons, found.left, strict=True))
    assert torch.equal(first(x), expected)
    found.undo()
    assert type(net[1]) is neuron.ActivationAwareIFNode


@needs_sj
def test_offsets_loaded_later_go_the_old_way():
    from spikingjelly.activation_based import neuron

    theta = torch.tensor([0.5, 0.8, 1.1])
    ours = neuron.ActivationAwareIFNode(theta, theta / 2, channel_dim=1, v_reset=None, step_mode="m")
    theirs = copy.deepcopy(ours)
    assert snnfast.accelerate(ours).replaced
    state = {"v_threshold": theta, "v_offset": torch.tensor([0.1, 0.4, 0.3])}
    ours.load_state_dict(state)
    theirs.load_state_dict(state)
    x = images(7, 2, 3)
    assert torch.equal(ours(x), theirs(x))

"""Four ways to run a converted network for T steps, each a function (x [B, ...], T) -> mean logits [B, classes].

authors        the QCFS authors' program: time and batch in one tensor [T B, ...], their loop in every neuron
steps          one step at a time, each neuron keeps its potential
spikingjelly   SpikingJelly's IFNode in multi-step mode under `functional.chunk_multi_step_forward`, as its manual has it for large T
snnfast        `snnfast.evaluate`'s run
"""

import copy

import torch
from others import AuthorsIF

import snnfast
from snnfast import nn
from snnfast.runtime.execution import Execution

WAYS = ("authors", "steps", "spikingjelly", "snnfast")


def trained_looking(arch, width=1.0):
    """A network with batch norm statistics and fitting thresholds, which fires as a trained one does. Batch norms are folded, as all ways may do."""
    torch.manual_seed(0)
    net = snnfast.models.BY_NAME[arch](width=width, theta=2.0, activation="qcfs")
    for m in net.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.momentum = None  # the mean of all batches
    for _ in range(3):
        net.train()(torch.randn(32, 3, 32, 32))
    return net.eval()


def _with(net, neuron):
    """The network with batch norms folded and `neuron(theta)` in place of every activation."""
    net = copy.deepcopy(net)
    for m in list(net.modules()):
        children = list(m.named_children())
        for (_, conv), (name, norm) in zip(children, children[1:]):
            if isinstance(conv, torch.nn.Conv2d) and isinstance(norm, torch.nn.BatchNorm2d):
                fused = torch.nn.utils.fuse_conv_bn_eval(conv, norm)
                conv.weight, conv.bias = fused.weight, fused.bias
                setattr(m, name, torch.nn.Identity())
    for name, m in list(net.named_modules()):
        if isinstance(m, nn.Quantised):
            parent, _, child = name.rpartition(".")
            setattr(net.get_submodule(parent), child, neuron(m))
    return net.requires_grad_(False)


def authors(net, chunk):
    net = _with(net, lambda m: AuthorsIF(1, m.levels, float(m.thresh.detach())))

    def run(x, T):
        for m in net.modules():
            if isinstance(m, AuthorsIF):
                m.T = T
        return net(x.repeat(T, *[1] * (x.dim() - 1))).unflatten(0, (T, len(x))).mean(0)

    return run


class _StepIF(torch.nn.Module):
    def __init__(self, theta):
        super().__init__()
        self.theta, self.v = theta, None

    def forward(self, x):
        self.v = x + 0.5 * self.theta if self.v is None else self.v.add_(x)
        s = (self.v >= self.theta).to(x.dtype).mul_(self.theta)
        self.v.sub_(s)
        return s


def steps(net, chunk):
    net = _with(net, lambda m: _StepIF(float(m.thresh.detach())))

    def run(x, T):
        for m in net.modules():
            if isinstance(m, _StepIF):
                m.v = None
        total = 0
        for _ in range(T):
            total = total + net(x)
        return total / T

    return run


class _MultiStep(torch.nn.Module):
    """SpikingJelly's neuron between its two voltage scalings, as `ann2snn` puts it."""

    def __init__(self, theta, length):
        super().__init__()
        from spikingjelly.activation_based import neuron

        self.theta, self.length = theta, length
        self.node = neuron.IFNode(v_threshold=1.0, v_reset=None, step_mode="m")
        self.node.set_reset_value("v", 0.5)

    def forward(self, x):
        return self.node((x / self.theta).unflatten(0, (self.length[0], -1))).flatten(0, 1) * self.theta


def spikingjelly(net, chunk):
    from spikingjelly.activation_based import functional

    length = [1]
    net = _with(net, lambda m: _MultiStep(float(m.thresh.detach()), length))

    def over_time(x):  # [t, B, ...]
        length[0] = len(x)
        return net(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    def run(x, T):
        functional.reset_net(net)
        return functional.chunk_multi_step_forward(chunk, x.expand(T, *x.shape), over_time).mean(0)

    return run


def ours(net, chunk, products=None):
    snn = snnfast.convert(net)
    if products is None:
        return lambda x, T: snn.logits(x, T, [T], chunk or None)[0]
    execution = Execution(snn.gm, next(net.parameters()).device, products=products)
    return lambda x, T: sum(y.double().sum(0) for y in snn.chunks(x, T, chunk or None, execution=execution)) / T


def firing_rate(net, x, T=64):
    """Mean spikes per neuron and step, over all neurons."""
    *_, (_, states) = snnfast.convert(net).run(x, T)
    return float(sum(s.count.sum() for s in states.values()) / sum(s.count.numel() for s in states.values()) / T)


def build(way, net, chunk=0, products=None):
    """chunk: steps at a time, where a way has such.  products: of ours."""
    if way == "snnfast":
        return ours(net, chunk, products)
    return {"authors": authors, "steps": steps, "spikingjelly": spikingjelly}[way](net, chunk)

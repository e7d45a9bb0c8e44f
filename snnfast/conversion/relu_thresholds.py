"""Networks with plain ReLUs: neurons in their place, with thresholds taken from data.

The threshold of a layer is the p-th percentile of its non-zero activations on the calibration images (Rueckauer et al., "Conversion of
continuous-valued deep networks to efficient event-driven networks", Frontiers in Neuroscience 2017), for the layer or for each channel; 100 is the
maximum (Diehl et al., IJCNN 2015). Spikes carry their threshold as amplitude, so that weights, biases and the shortcuts of residual blocks
need no scaling.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from snnfast import checks
from snnfast.graph.gates import is_activation, values_of
from snnfast.graph.vocabulary import called

MODULES = (torch.nn.ReLU, torch.nn.ReLU6)
FUNCTIONS = {F.relu, F.relu_, F.relu6, torch.relu, torch.relu_, "relu", "relu_"}
# The histogram that a percentile is read from: bins of equal ratio, 0.4 % wide, over 24 octaves below the largest activation, so that one outlier
# does not make them coarse.
OCTAVES, BINS = 24, 4096


Per = Literal["layer", "channel", "neuron"]


@dataclass(frozen=True, eq=False)
class Percentile:
    """Thresholds of ReLUs from images: a percentile of the non-zero activations.

    Args:
        images: a tensor [B, ...], or an iterable of tensors or of (images, labels), on the device of the network.
        q: in (0, 100]; 100 is the maximum.
        per: a threshold for each "layer" or "channel"; or for each "neuron", its maximum (as SNM's authors), for images of that size alone.
        levels: for mode "differential", in which a neuron is the activation rounded to so many levels up to the threshold: more levels are nearer
            to the network, and take more steps, about in proportion.

    Raises:
        ValueError, TypeError: naming the argument, what was given and what is allowed.

    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> snn = snnfast.convert(net, calibrate=snnfast.conversion.Percentile(torch.rand(100, 4), q=99.0, per="channel"))
    >>> snn.neurons()[0][1].theta.shape
    torch.Size([8])
    """

    images: Tensor | Iterable
    q: float = 99.9
    per: Per = "layer"
    levels: int = 32

    def __post_init__(self):
        _check(self.q, self.per, "q")
        checks.choice("per", self.per, get_args(Per))
        checks.integer("levels", self.levels)


def _check(q, per, name):
    if not 0 < checks.number(name, q) <= 100:
        raise ValueError(f"{name} must be in (0, 100], got {q}")
    if per == "neuron" and q != 100:
        raise ValueError(f"thresholds per neuron are maxima: give {name}=100, not {q}")


def percentile_of(calibrate, percentile=None, per_channel=None, levels=None) -> Percentile | None:
    """The `Percentile`: the given object, or one made from images and from options of `convert`, which are None if not given."""
    if not isinstance(per_channel, (bool, str, type(None))):
        raise TypeError(f"per_channel must be False, True or 'neuron', got {type(per_channel).__name__}")
    checks.choice("per_channel", per_channel, (None, False, True, "neuron"))
    if not isinstance(calibrate, Percentile):
        _check(99.9 if percentile is None else percentile, per_channel, "percentile")
    given = {"q": percentile, "per": {None: None, False: "layer", True: "channel", "neuron": "neuron"}[per_channel], "levels": levels}
    given = {k: v for k, v in given.items() if v is not None}
    if isinstance(calibrate, Percentile) and given:
        raise ValueError(
            f"percentile, per_channel and levels: give the fields of calibrate to it, Percentile(..., {next(iter(given))}=...)"
        )
    if isinstance(calibrate, Percentile):
        return calibrate
    if calibrate is None and given:
        raise ValueError("percentile, per_channel and levels are of calibrate=, images that set the thresholds of activations")
    return None if calibrate is None else Percentile(calibrate, **given)


def relu_nodes(gm):
    """The nodes of a graph that are ReLUs, in order."""
    found = []
    for node in gm.graph.nodes:
        if node.op == "call_module" and isinstance(gm.get_submodule(node.target), MODULES):
            found.append(node)
        elif node.meta.get("kind") == "activation":
            found.append(node)
        elif node.op in ("call_function", "call_method") and node.target in FUNCTIONS:
            found.append(node)
    return found


@torch.no_grad()
def cap_of(node, gm):
    """{"cap": the largest value that a ReLU's node can give}, {} if there is no largest. Found from the node's value for a huge number, 1e30."""
    far = torch.tensor(1e30)
    if node.op == "call_module":
        value = gm.get_submodule(node.target)(far)
    else:
        args = [far if a is node.all_input_nodes[0] else a for a in node.args]
        value = getattr(args[0], node.target)(*args[1:], **node.kwargs) if node.op == "call_method" else node.target(*args, **node.kwargs)
    return {"cap": float(value)} if float(value) < 1e30 else {}


def function_nodes(gm):
    """The nodes behind which mode "differential" puts a neuron: other activation functions of single values, and what `pointwise.mark` found. Not
    those that are only factors of products."""
    fires = lambda n: is_activation(n) and not all(_multiplies_values(user) for user in n.users)
    return [n for n in gm.graph.nodes if fires(n) or (n.meta.get("fires", False) and n.meta["kind"] == "product")]


def _multiplies_values(node):
    """Whether a node is a product of two values that follow from the image."""
    return node.meta.get("kind") == "product" and len(values_of(node)) > 1


def name_of(node, taken):
    """A name for the neuron of a ReLU: that of its module at its first call, the node's otherwise."""
    return free_name(node.target if node.op == "call_module" and node.target not in taken else node.name, taken)


def free_name(name, taken):
    """The name, with "_" appended for as long as it is taken."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name


class _Record(fx.Interpreter):
    """Runs the graph and hands the value of each asked node to `seen(node, value)`."""

    def __init__(self, gm, nodes, seen):
        super().__init__(gm)
        self.nodes, self.seen = set(nodes), seen

    def run_node(self, node):
        value = super().run_node(node)
        if node in self.nodes:
            self.seen(node, value)
        return value


@torch.no_grad()
def activations(gm, nodes, batches, seen):
    for images in batches:
        _Record(gm, nodes, seen).run(images)


def _rows(value, per):
    """[B, C, ...] -> [C, everything else], [neurons, B], or [1, everything] for the layer."""
    if per == "neuron":
        return value.flatten(1).t()
    return value.transpose(0, 1).flatten(1) if per == "channel" and value.dim() > 1 else value.reshape(1, -1)


def thresholds(gm, nodes, batches, percentile=99.9, per="layer", magnitudes=()):
    """(theta of each node, [1], [C], or the shape of one image's activations; the nodes that have values below 0). Channels that are never active get
    the largest threshold of the others. magnitudes: nodes whose values count without their sign.

    Two passes over the images: the largest activations, then a histogram of the non-zero ones below them.
    """
    most, counts, shapes, signed = {}, {}, {}, set()

    def largest(node, value):
        if node in magnitudes:
            signed.update([node] if bool((value < 0).any()) else ())
            value = value.abs()
        top = _rows(value, per).amax(1).double()
        shapes[node] = value.shape[1:]
        most[node] = torch.maximum(most[node], top) if node in most else top

    def count(node, value):
        a, top = _rows(value.abs() if node in magnitudes else value, per), most[node].clamp(min=1e-300)
        below = (a.double() / top[:, None]).clamp(min=2.0**-OCTAVES).log2()  # -OCTAVES to 0
        bins = ((below / OCTAVES + 1) * BINS).long().clamp(max=BINS - 1) + BINS * torch.arange(a.size(0), device=a.device)[:, None]
        found = torch.bincount(bins[a > 0], minlength=a.size(0) * BINS).view(a.size(0), BINS)
        counts[node] = counts.get(node, 0) + found

    activations(gm, nodes, batches, largest)
    for node in nodes:
        if not torch.isfinite(most[node]).all():
            raise ValueError(f"the activations of {called(node, gm)} are not finite on the calibration data")
        if not (most[node] > 0).any() and node not in magnitudes:
            raise ValueError(f"{called(node, gm)} is never active on the calibration data, so it has no threshold")
    nodes = [node for node in nodes if (most[node] > 0).any()]  # a function that always gives 0 needs no neuron
    if percentile < 100:
        activations(gm, nodes, batches, count)
    found = {}
    for node in nodes:
        top = most[node]
        theta = top if percentile == 100 else _percentile(counts[node], top, percentile)
        dead = top <= 0
        if dead.any():
            theta = torch.where(dead, theta[~dead].max(), theta)
        found[node] = theta.view(shapes[node]) if per == "neuron" else theta
    return found, signed


def _percentile(counts, top, percentile):
    """The percentile of each row of a histogram, by equal ratios within a bin."""
    below = counts.cumsum(1)
    wanted = below[:, -1:].double() * (percentile / 100)
    at = (below < wanted).sum(1, keepdim=True).clamp(max=counts.size(1) - 1)
    before = below.gather(1, at) - counts.gather(1, at)
    part = (wanted - before) / counts.gather(1, at).clamp(min=1)
    return (top[:, None] * 2.0 ** (((at + part.clamp(0, 1)) / BINS - 1) * OCTAVES)).squeeze(1)

"""A captured graph computes what its network computes: what is known beforehand to be lost is refused by name, the rest is compared on samples."""

import bisect
import copy
import itertools

import torch

from snnfast import nn

NEAR = 1e-6  # || captured - network || / || network ||, both in fp64: rounding alone
SAMPLES = 8


def check_layers(gm):
    """Refuses layers of a graph whose place a neuron cannot take, and those that mix the images of a batch."""
    for name in dict.fromkeys(node.target for node in gm.graph.find_nodes(op="call_module")):
        m = gm.get_submodule(name)
        if isinstance(m, torch.nn.modules.batchnorm._BatchNorm) and m.running_mean is None:
            raise ValueError(f"{name} ({type(m).__name__}) has no running statistics: it would mix the images of a batch")
        if not nn.is_quantised(m):
            continue
        if "forward" in vars(m) or not type(m).forward.__module__.startswith("snnfast."):
            raise ValueError(f"{name} ({type(m).__name__}) has a forward of its own, which its neuron would not have")
        if m._forward_hooks or m._forward_pre_hooks:
            raise ValueError(f"{name} ({type(m).__name__}) has hooks, which its neuron would not have: take them off, or make them layers")


def with_hooks_inside(net):
    """The network, a copy, with the hooks around it moved into its forward, where a capture sees them."""
    before, behind = list(net._forward_pre_hooks.values()), list(net._forward_hooks.values())
    if net._forward_pre_hooks_with_kwargs or net._forward_hooks_with_kwargs:
        raise ValueError(
            "net has a hook with keywords around it, which a capture of its forward would miss: take it off, or make it a layer"
        )
    net._forward_pre_hooks.clear(), net._forward_hooks.clear()
    cls = type(net)

    def forward(self, x):
        for hook in before:
            given = hook(self, (x,))
            x = x if given is None else given[0] if isinstance(given, tuple) else given
        y = cls.forward(self, x)
        for hook in behind:
            given = hook(self, (x,), y)
            y = y if given is None else given
        return y

    if before or behind:
        net.__class__ = type(cls.__name__, (cls,), {"forward": forward, "__module__": cls.__module__})
    return net


def has_masks(net):
    """Whether it draws random masks of spikes."""
    return any(getattr(m, "mask", None) is not None or isinstance(m, nn.SpikeMask) for m in net.modules())


def samples_of(batches):
    """A few images [1, ...] of the batches, from first to last."""
    ends = list(itertools.accumulate(map(len, batches)))
    found = []
    for place in sorted({round(k * (ends[-1] - 1) / (SAMPLES - 1)) for k in range(SAMPLES)}):
        b = bisect.bisect_right(ends, place)
        i = place - (ends[b - 1] if b else 0)
        found.append(batches[b][i : i + 1])
    return found


def _in_fp64(net, samples, change=None):
    """What a copy of it, changed, gives for copies of the samples. In fp64 no rounding moves a level of a quantised activation."""
    twin = copy.deepcopy(net).double()
    if change is not None:
        change(twin)
        twin.recompile()
    with torch.no_grad(), torch.autocast(samples[0].device.type, enabled=False):
        return [twin(x.double() if x.is_floating_point() else x.clone()) for x in samples]


def outputs(net, samples):
    """What the network gives for each sample; nothing where it draws random masks, or runs in its own format alone."""
    if has_masks(net) or not len(samples):
        return []
    try:
        return _in_fp64(net, samples)
    except Exception:  # of any kind: a network's own
        return []


def check_runs(net, sample):
    """Refuses a sample that the network does not run on."""
    try:
        with torch.no_grad():
            copy.deepcopy(net).eval()(sample.clone())
    except Exception as error:
        about = f"{list(sample.shape)}, {str(sample.dtype).removeprefix('torch.')}, on {sample.device}"
        raise ValueError(f"net does not run on an image of sample= ({about}): {str(error).splitlines()[0]}") from error


def _differs(gm, samples, expected, change=None):
    """(sample, relative difference) of the first sample for which the graph, as it is or changed, gives something else, or None."""
    largest = max(float(y.norm()) for y in expected) or 1.0
    try:
        captured = _in_fp64(gm, samples, change)
    except Exception as error:
        raise ValueError(f"net cannot be converted: captured, it does not run: {str(error).splitlines()[0]}") from error
    for i, (found, wanted) in enumerate(zip(captured, expected)):
        same = isinstance(found, torch.Tensor) and found.shape == wanted.shape
        off = float((found - wanted).norm()) / largest if same else float("inf")
        if not off <= NEAR:
            return i, off
    return None


def check(gm, samples, expected, fold):
    """Refuses a graph that gives something else when its batch norms are folded, which is tried on a copy; as it is, where that is why."""
    gm.graph.lint()
    gm.recompile()
    if not expected or not all(isinstance(y, torch.Tensor) and y.is_floating_point() and bool(torch.isfinite(y).all()) for y in expected):
        return
    folded = _differs(gm, samples, expected, fold)
    if folded is None:
        return
    captured = _differs(gm, samples, expected)
    why = "a branch of its forward goes another way for it, or what Python computes there is not captured"
    if captured is None:
        why = "a batch norm cannot be folded, since its layer is used elsewhere too"
    i, off = captured or folded
    raise ValueError(f"net cannot be converted: captured, it gives other outputs for sample {i} (relative difference {off:.2g}): {why}")

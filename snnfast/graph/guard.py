"""Checks that a captured graph computes what its network computes: known losses of a capture are refused by name, the rest is compared on samples."""

import copy

import torch

from snnfast import checks, nn
from snnfast.graph import levels
from snnfast.graph.copies import copied
from snnfast.graph.outputs import outputs_of
from snnfast.system.text import first_line

NEAR = 1e-6  # || captured - network || / || network ||, both in fp64: rounding alone
SMALL = 1e-6  # what counts as the size of an output that is next to nothing beside the others, so that rounding does not decide


def layers_of(gm):
    """(name, layer) of a graph's calls."""
    return ((name, gm.get_submodule(name)) for name in dict.fromkeys(node.target for node in gm.graph.find_nodes(op="call_module")))


def check_layers(layers):
    """Refuses layers whose place a neuron cannot take, and those that mix the images of a batch. layers: (name, layer) of each."""
    for name, m in layers:
        if isinstance(m, torch.nn.modules.batchnorm._BatchNorm) and m.running_mean is None:
            raise ValueError(f"{name} ({type(m).__name__}) has no running statistics: it would mix the images of a batch")
        if not nn.is_quantised(m):
            continue
        if "forward" in vars(m):
            raise ValueError(f"{name} ({type(m).__name__}) has a forward of its own, which its neuron would not have")
        if m._forward_hooks or m._forward_pre_hooks:
            raise ValueError(f"{name} ({type(m).__name__}) has hooks, which its neuron would not have: take them off, or make them layers")
        if levels.is_own(m):
            levels.check(f"{name} ({type(m).__name__})", m)


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
    """Whether a network draws random masks of spikes."""
    return any(isinstance(m, nn.SpikeMask) for m in net.modules())


def _take_off_masks(net):
    """Random masks then keep all: what they draw follows from the number of an image in its batch."""
    for m in net.modules():
        if isinstance(m, nn.SpikeMask):
            m.masking = -1.0


def formats_of(net):
    """(dtype, how near) of the comparisons, fast ones first. Each is made only if those before found a difference or did not run. In fp64 no
    rounding moves a level of a quantised activation, but fp64 is slow."""
    own = next((p.dtype for p in net.parameters() if p.is_floating_point()), torch.float32)
    found = [] if own == torch.float64 else [(torch.float32, 1e-5)]
    return [*found, (torch.float64, NEAR), *([(own, 0.05)] if own in (torch.bfloat16, torch.float16) else [])]


def _in_format(net, samples, dtype, change=None):
    """What a copy of `net`, changed by `change`, gives for copies of the samples."""
    twin = copy.deepcopy(net).to(dtype)
    _take_off_masks(twin)
    if change is not None:
        change(twin)
        twin.recompile()
    # A graph's own call would print where it failed.
    twin = twin.forward if isinstance(twin, torch.fx.GraphModule) else twin
    with torch.no_grad(), torch.autocast(samples[0].device.type, enabled=False):
        return [twin(x.to(dtype, copy=True) if x.is_floating_point() else x.clone()) for x in samples]


def _outputs(net, samples, dtype, outputs):
    """The network's outputs for each sample. None if the network does not run in this format, or if the outputs cannot be compared."""
    try:
        found = _in_format(net, samples, dtype)
        found = found if outputs is None else [outputs.packed(y) for y in found]
    except Exception:  # of any kind: the network's own code may raise it
        return None
    fit = all(isinstance(y, torch.Tensor) and y.is_floating_point() and bool(torch.isfinite(y).all()) for y in found)
    return [y.double() for y in found] if fit else None


def check_runs(net, sample, name):
    """Refuses a sample that the network does not run on. name: of the argument that gave it."""
    net = copied(net)
    try:
        with torch.no_grad():
            net(sample.clone())
    except Exception as error:
        about = f"{list(sample.shape)}, {checks.dtype_name(sample.dtype)}, on {sample.device}"
        if "required positional argument" in str(error):
            about += "; a network of several inputs goes into snnfast.nn.JoinedInputs"
        raise ValueError(f"net does not run on an image of {name}= ({about}): {first_line(error)}") from error


def _as_batches(samples, expected):
    """The samples in batches of several sizes, and the network's outputs for each of their images: a graph must not depend on its batch's size.

    A single sample is put beside another image, on which its result must not depend.
    """
    x = [s for s in samples if s.shape == samples[0].shape and s.dtype == samples[0].dtype]
    if len(x) < len(samples) or any(y.dim() == 0 or y.size(0) != 1 for y in expected):
        return samples, expected
    if len(x) == 1:
        other = x[0].roll(1, -1).roll(1, 1)
        return [x[0], torch.cat([x[0], other * 0.5 if other.is_floating_point() else other])], [expected[0]] * 2  # of another mean too
    return [x[0], torch.cat(x)], [expected[0], torch.cat(expected)]


def _differs(gm, samples, expected, dtype, near, change=None):
    """The relative difference of the first batch for which the graph, as it is or changed, gives something else, or None."""
    outputs = outputs_of(gm)
    split = (lambda y: [y]) if outputs is None else outputs.parts
    whole = max(float(y.norm()) for y in expected) or 1.0
    largest = [max(SMALL * whole, *map(float, norms)) for norms in zip(*([part.norm() for part in split(y)] for y in expected))]
    batches, wanted = _as_batches(samples, expected)
    try:
        captured = _in_format(gm, batches, dtype, change)
    except Exception as error:
        raise ValueError(f"net cannot be converted: captured, it does not run: {first_line(error)}") from error
    for found, of in zip(captured, wanted):
        if not isinstance(found, torch.Tensor) or found.shape[1:] != of.shape[1:]:
            return float("inf")
        parts = zip(split(found[: of.size(0)].double()), split(of), largest)
        wrong = [off for part, right, size in parts if not (off := float((part - right).norm()) / size) <= near]  # also a NaN
        if wrong:
            return max(wrong)
    return None


def check(gm, net, samples, fold=None):
    """Refuses a graph whose outputs differ from the network's once `fold` has folded its batch norms on a copy. The unfolded graph is compared too,
    so that the message names the reason. Random masks of spikes are taken off. Each of several outputs is compared by its own size. fold: None if
    the batch norms are folded already.

    Returns:
        False if the network's outputs could not be compared, because they are not finite or no tensors; else True.
    """
    gm.graph.lint()
    gm.recompile()
    differs, outputs, compared = None, outputs_of(gm), False
    for dtype, near in formats_of(net):
        expected = _outputs(net, samples, dtype, outputs)
        if expected is None:
            continue
        differs, compared = _differs(gm, samples, expected, dtype, near, fold), True
        if differs is None:
            return True
        last = samples, expected, dtype, near
    if differs is not None:
        captured = _differs(gm, *last)
        why = "what Python computes in its forward is not captured, or its images depend on each other"
        if captured is None:
            why = "a batch norm cannot be folded, since its layer is used elsewhere too"
        off = differs if captured is None else captured
        raise ValueError(f"net cannot be converted: captured, it gives other outputs (relative difference {off:.2g}): {why}")
    return compared

"""Checks, before a capture, that a user's own activation gives the levels that it declares: its neuron stands for these levels."""

import copy

import torch

from snnfast import nn
from snnfast.nn.quantised import spread
from snnfast.system.text import first_line

_RUNGS = "(size of a level, a tensor [1] or [C]; lowest level, a whole number <= 0; highest > 0)"
PROBES = 64  # levels that are asked for, at most


def is_own(layer: torch.nn.Module) -> bool:
    """Whether `layer` is a quantised activation of a class outside this package."""
    return nn.is_quantised(layer) and not type(layer).__module__.startswith("snnfast.")


@torch.no_grad()
def check(told: str, layer: torch.nn.Module) -> None:
    """Raises ValueError if the neuron of `layer` would stand for another function. told: the layer, for a message."""
    layer = _twin(layer)
    size, low, high = rungs(told, layer)
    if not bool((size > 0).all()):
        return  # the check of the layer's threshold reports this
    theta = nn.threshold_of(layer).detach()
    if not torch.allclose(theta.double(), high * size, rtol=1e-4):
        first, largest = float(theta.reshape(-1)[0]), float(high * size.reshape(-1)[0])
        raise ValueError(f"{told}: threshold() is {first:.4g}, and its highest level is {largest:.4g}")
    x = _probes(size, low, high)
    _compare(told, x, _values(told, layer, x), size.expand_as(x), low, high)


@torch.no_grad()
def check_on(net: torch.nn.Module, sample: torch.Tensor) -> None:
    """The same check, on the values that a network in eval mode feeds to the user's own activations for a sample."""
    if not any(map(is_own, net.modules())):
        return
    net = copy.deepcopy(net)  # a copy, because a forward may keep something of the sample
    own = [(name, m) for name, m in net.named_modules() if is_own(m)]
    seen: dict[torch.nn.Module, list] = {m: [] for _, m in own}

    def see(m, inputs, y):
        seen[m].append(inputs[0].detach().double())

    hooks = [m.register_forward_hook(see) for m in seen]
    try:
        net(sample.clone())
    finally:
        for hook in hooks:
            hook.remove()
    for name, m in own:
        told = f"{name} ({type(m).__name__})"
        twin = _twin(m)
        size, low, high = rungs(told, twin)
        for x in seen[m] if bool((size > 0).all()) else ():
            _compare(told, x, twin(x), spread(size, x, getattr(m, "axis", 1)).expand_as(x), low, high)


def rungs(told, layer):
    """(size of a level in fp64, lowest, highest), as the layer says them."""
    try:
        size, low, high = nn.rungs_of(layer)
        if not isinstance(size, torch.Tensor):
            raise TypeError(f"its size of a level is a {type(size).__name__}")
        found = size.detach().double(), int(low), int(high)
        fits = size.dim() <= 1 and (low, high) == found[1:] and low <= 0 < high
    except (TypeError, ValueError, AttributeError) as error:
        raise type(error)(f"{told}: {first_line(error)}; rungs() must give {_RUNGS}") from error
    if not fits:
        raise ValueError(f"{told}: rungs() must give {_RUNGS}")
    return found


def _twin(layer):
    """A copy of `layer` in fp64, without a mask."""
    layer = copy.deepcopy(layer).eval().double()
    layer.__dict__.update(mask=None)
    layer._modules.pop("mask", None)
    return layer


def _compare(told, x, found, size, low, high):
    """Raises ValueError if values are not those of the levels. In the middle between two levels rounding decides, so any value is right."""
    place = x / size + 0.5
    wanted = torch.clamp(place.floor(), low, high) * size
    off = ((found.double() - wanted).abs() > 0.01 * size) & ((place - place.round()).abs() > 1e-3)
    if off.any():
        at = tuple(off.nonzero()[0].tolist())
        given, gives, neuron, step = (float(t[at]) for t in (x, found, wanted, size))
        raise ValueError(
            f"{told} is not the activation of its levels: {given:.4g} gives {gives:.4g}, and its neuron {neuron:.4g}; "
            f"rungs() says levels of {step:.4g}, {low} to {high}"
        )


def _probes(size, low, high):
    """Values [n, C]: on both sides of the middle between levels, and far beyond them."""
    whole = torch.linspace(low - 2, high + 2, min(high - low + 5, PROBES), dtype=torch.float64, device=size.device).round()
    whole = torch.cat([whole, whole.new_tensor([low - 1000, high + 1000])])
    return torch.cat([whole - 0.45, whole - 0.1, whole + 0.45])[:, None] * size


def _values(told, layer, x):
    """The activation of x [n, C], in the shape that the layer takes: [n, C], or maps of one place, [n, C, 1, 1]."""
    maps = x[..., None, None]
    for laid in (maps,) if getattr(layer, "axis", 1) == -3 else (x, maps):
        try:
            found = layer(laid)
        except Exception as error:  # of any kind: the layer is the user's code
            why = error
        else:
            if found.shape == laid.shape:
                return found.reshape(x.shape)
            why = ValueError(f"it gives shape {list(found.shape)}")
    raise ValueError(f"{told} does not run on values [{', '.join(map(str, laid.shape))}]: {first_line(why)}") from why

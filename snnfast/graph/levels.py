"""An activation of one's own has the values of the levels that it says it has, for which its neuron stands: tried before a network is captured."""

import copy

import torch

from snnfast import nn

PROBES = 64  # levels that are asked for, at most


@torch.no_grad()
def check(told: str, layer: torch.nn.Module) -> None:
    """Raises ValueError where its neuron would stand for another function. told: the layer, for a message."""
    layer = copy.deepcopy(layer).eval()
    layer.__dict__.update(mask=None)
    layer._modules.pop("mask", None)
    size, low, high = nn.rungs_of(layer)
    if not isinstance(size, torch.Tensor) or size.dim() > 1 or int(low) != low or int(high) != high or not low <= 0 < high:
        raise ValueError(f"{told}: rungs() must give (size of a level, a tensor [1] or [C]; lowest level <= 0; highest > 0)")
    if not bool((size > 0).all()):
        return  # which is told with the layer's threshold
    theta = nn.threshold_of(layer)
    if not torch.allclose(theta, high * size, rtol=1e-4):
        first, largest = float(theta.reshape(-1)[0]), float(high * size.reshape(-1)[0])
        raise ValueError(f"{told}: threshold() is {first:.4g}, and its highest level is {largest:.4g}")
    x, wanted = _probes(size, low, high)
    found = _values(told, layer, x).double()
    off = (found - wanted).abs() > 0.01 * size.double()
    if off.any():
        at = tuple(off.nonzero()[0].tolist())
        given, gives, neuron, step = (float(t[at]) for t in (x, found, wanted, size.expand_as(x)))
        raise ValueError(
            f"{told} is not the activation of its levels: {given:.4g} gives {gives:.4g}, and its neuron {neuron:.4g}; "
            f"rungs() says levels of {step:.4g}, {low} to {high}"
        )


def _probes(size, low, high):
    """(values, what the levels make of them), [n, C]: between the levels, away from the middle between two, and beyond them."""
    whole = torch.linspace(low - 2, high + 2, min(high - low + 5, PROBES), dtype=torch.float64, device=size.device).round()
    at = torch.cat([whole - 0.4, whole - 0.1, whole + 0.3])[:, None]
    return (at * size.double()).to(size.dtype), torch.clamp((at + 0.5).floor(), low, high) * size.double()


def _values(told, layer, x):
    """The activation of x [n, C], laid as the layer takes it: as it is, or as maps of one place."""
    maps = x[..., None, None]
    for laid in (maps,) if getattr(layer, "axis", 1) == -3 else (x, maps):
        try:
            found = layer(laid)
        except Exception as error:  # of any kind: it is another's program
            why = error
        else:
            if found.shape == laid.shape:
                return found.reshape(x.shape)
            why = ValueError(f"it gives shape {list(found.shape)}")
    raise ValueError(f"{told} does not run on values [{', '.join(map(str, laid.shape))}]: {str(why).splitlines()[0]}") from why

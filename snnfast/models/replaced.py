"""Quantised activations in place of the ReLUs of any network, and what is needed to put them there again."""

import copy
from typing import Any, Literal

import torch
from torch.overrides import TorchFunctionMode

from snnfast import checks, nn
from snnfast.models.activation import LAYERWISE
from snnfast.nn import Quantised, threshold_of
from snnfast.system.text import first_line, plain

RELUS = (torch.nn.ReLU, torch.nn.ReLU6, torch.nn.Hardtanh)
# Those that a file may name: one threshold, a threshold per channel, a threshold per feature.
KINDS = {name: getattr(nn, name) for base in ("QCFS", "SQCFS", "EQCFS") for name in (base, f"C{base}", f"N{base}")}


def to_quantised(
    net: torch.nn.Module,
    activation: Literal["qcfs", "s-qcfs", "e-qcfs"] = "qcfs",
    levels: int = 4,
    theta: float = 4.0,
    *,
    sample: torch.Tensor | None = None,
) -> torch.nn.Module:
    """A copy of any network with a quantised activation in place of each of its ReLUs, ready to be trained and converted. `net` is not changed.

    ReLUs are layers here: `torch.nn.ReLU`, `ReLU6` and `Hardtanh` from 0 on. One that the network calls at several places stays one, with one
    threshold for all of them.

    Args:
        activation: "qcfs", "s-qcfs" (theta = softplus(lam)) or "e-qcfs" (theta = exp(lam)), one threshold each; `snnfast.to_channelwise` makes
            one per channel of it.
        levels: quantisation levels L.  theta: first threshold > 0.
        sample: images [1 or more, ...]. With them what would stay a ReLU (`F.relu` in a forward), or be lost (one in place, whose result nobody
            takes), is refused by name.

    Raises:
        ValueError: there is no ReLU, or the network has one of these on `sample`.

    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> snnfast.to_quantised(net, levels=8, theta=2.0)[1]
    QCFS(levels=8, thresholds=1, grad='qcfs')
    """
    if not isinstance(net, torch.nn.Module):
        raise TypeError(f"net must be a torch.nn.Module, got {type(net).__name__}")
    checks.choice("activation", activation, tuple(LAYERWISE))
    _check_plain(net)
    if theta > torch.finfo(torch.float32).max:
        raise ValueError(f"theta must be a number of fp32, got {theta}")
    if sample is not None:
        checks.tensor("sample", sample)
        _check_in_place(net, sample)
    new = _copy(net)
    relus = {name: m for name, m in new.named_modules() if is_relu(m)}
    if not relus:
        raise ValueError(f"net has no ReLU layer ({', '.join(cls.__name__ for cls in RELUS)} from 0 on) to put {activation!r} in place of")
    for old in relus.values():
        layer = LAYERWISE[activation](levels=levels, theta=theta).to(_like(net)).train(old.training)
        checks.positive(f"theta in {checks.dtype_name(_like(net).dtype)}", threshold_of(layer))
        new = _put(new, old, layer)
    if sample is not None:
        _check_functions(new, sample)
    return new


def _check_plain(net):
    """Refuses ReLUs that are more: an activation in their place would be less."""
    for name, m in net.named_modules():
        if not isinstance(m, RELUS) or (type(m) is torch.nn.Hardtanh and m.min_val != 0):
            continue
        if type(m) not in RELUS or "forward" in vars(m):
            raise ValueError(
                f"{name or 'net'} ({type(m).__name__}) is a ReLU with a forward of its own, which an activation would not have"
            )
        if m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks:
            raise ValueError(f"{name or 'net'} ({type(m).__name__}) has hooks, which an activation would not have: take them off")


def _copy(net):
    try:
        return copy.deepcopy(net)
    except RuntimeError as error:  # of weights that a hook computes (pruning, torch.nn.utils.weight_norm), with a gradient
        raise ValueError(f"net cannot be copied: {first_line(error)} A forward under torch.no_grad() may help") from error


def is_relu(m):
    return isinstance(m, RELUS) and getattr(m, "min_val", 0) == 0


def _like(net):
    """A tensor of the network's format and device."""
    return next((p.detach() for p in net.parameters() if p.is_floating_point()), torch.empty(0))


def _put(net, old, layer):
    """Puts a layer in place of another, under all its names; returns the network."""
    if net is old:
        return layer
    for name in [name for name, m in net.named_modules(remove_duplicate=False) if m is old]:
        parent, _, last = name.rpartition(".")
        setattr(net.get_submodule(parent), last, layer)
    return net


# ---- what only a run shows


def _run(net, sample):
    try:
        with torch.no_grad():
            return net(sample.clone())
    except Exception as error:  # of any kind: a network's own
        raise ValueError(f"net does not run on sample= {list(sample.shape)}: {first_line(error)}") from error


def _check_in_place(net, sample):
    """Refuses a ReLU that writes in place and whose result nobody takes: an activation gives a new tensor, which would be lost."""
    plain = _copy(net).eval()
    writing = [name for name, m in plain.named_modules() if is_relu(m) and m.inplace]
    if not writing:
        return
    expected = _run(copy.deepcopy(plain), sample)
    for name in writing:
        plain.get_submodule(name).inplace = False
    flat = lambda y: torch.utils._pytree.tree_leaves(y)  # noqa: E731
    same = zip(flat(expected), flat(_run(plain, sample)))
    if not all(torch.equal(a, b) for a, b in same if isinstance(a, torch.Tensor)):
        raise ValueError(f"net takes what a ReLU wrote in place, not what it gives, at one of {', '.join(writing[:5])}: take its result")


class _Functions(TorchFunctionMode):
    """Finds ReLUs that are called as functions. inside: the layers whose forwards run, the innermost last."""

    NAMES = ("relu", "relu_", "relu6", "hardtanh", "hardtanh_", "threshold", "_threshold", "threshold_")
    CLIPS = ("clamp", "clamp_", "clamp_min", "clamp_min_", "clip", "clip_")  # from 0 on

    def __init__(self):
        super().__init__()
        self.inside, self.found = [], []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        least = (
            args[1:2] or tuple((kwargs or {}).get(key) for key in ("min_val", "min", "threshold") if key in (kwargs or {})) or (None,)
        )[0]
        clips = name in self.CLIPS or "hardtanh" in name
        if (clips and isinstance(least, (int, float)) and least == 0) or (name in self.NAMES and not clips):
            self.found.append((name, self.inside[-1] if self.inside else "net"))
        return function(*args, **(kwargs or {}))


def _check_functions(net, sample):
    twin, calls = copy.deepcopy(net).eval(), _Functions()
    for name, m in twin.named_modules():
        m.register_forward_pre_hook(lambda m, inputs, name=name: calls.inside.append(f"{name or 'net'} ({type(m).__name__})"))
        m.register_forward_hook(lambda m, inputs, y: calls.inside.pop() and None)
    with calls:
        _run(twin, sample)
    if calls.found:
        told = ", ".join(dict.fromkeys(f"{name} in {where}" for name, where in calls.found[:5]))
        raise ValueError(f"net calls ReLUs as functions, in whose place no activation can be put: {told}. Make them layers, torch.nn.ReLU")


# ---- what a file says of them


def described(net: torch.nn.Module) -> dict[str, dict[str, Any]]:
    """The quantised activations of a network by name, of one or many thresholds in a layer, as plain values. Those of other classes are the
    network's own, which it makes itself."""
    kinds = {cls: name for name, cls in KINDS.items()}
    return {
        name: dict(kind=kinds[type(m)], levels=m.levels, grad=m.grad, many=m.shape[0] if kinds[type(m)][0] in "CN" else None)
        for name, m in net.named_modules()
        if type(m) in kinds
    }


def put(net: torch.nn.Module, activations: dict[str, dict[str, Any]]) -> torch.nn.Module:
    """Puts what `described` gave into a network, in place; layers that are there already stay.

    Raises:
        ValueError: a layer is missing, or is neither a ReLU nor a quantised activation, or the description is no such thing.
    """
    made: dict[str, tuple[torch.nn.Module, torch.nn.Module]] = {}
    for name, given in activations.items():
        try:
            old = net.get_submodule(name)
            kind, many = KINDS[given["kind"]], given["many"]
            layer = kind(*([] if many is None else [many]), levels=given["levels"], grad=given["grad"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{plain(name, 80)}: no activation can be put there: {plain(first_line(error), 200)}") from error
        if not (is_relu(old) or isinstance(old, Quantised)):
            raise ValueError(
                f"{plain(name, 80)} ({type(old).__name__}) is neither a ReLU nor a quantised activation, and {given['kind']} is to stand there"
            )
        if any(old is other for other, _ in made.values()):
            raise ValueError(f"{plain(name, 80)} is one layer with another in net, and in the file the two are apart")
        if type(old) is not kind or old.levels != layer.levels or old.shape != layer.shape:
            made[name] = old, layer.to(_like(net)).train(old.training)
    for old, layer in made.values():
        net = _put(net, old, layer)
    return net

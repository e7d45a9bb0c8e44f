"""Weights from a file into any network: names without prefixes, all of them, each with its shape."""

import copy
import json
import os
import warnings
from pathlib import Path
from typing import Any

import torch

from snnfast import checks
from snnfast.checkpoints import budget, names
from snnfast.checkpoints.holders import COUNTERS, PREFIXES, held, unprefixed
from snnfast.checkpoints.own import WEIGHTS, safely
from snnfast.models import replaced
from snnfast.nn import QCFS
from snnfast.system.files import check_regular
from snnfast.system.text import plain


def load_weights(net: torch.nn.Module, path: str | os.PathLike, key: str | None = None) -> torch.nn.Module:
    """Loads weights into a network of any kind; returns it.

    Args:
        net: the network, changed in place; nothing of it where an error is raised.
        path: a file of `torch.save` or safetensors, read safely, or the `.index.json` of a file in several parts, as Hugging Face writes them.
            A file of `save_checkpoint` puts its quantised activations in place of the network's ReLUs. A prefix that stands in front of all names
            of `net` ("module.", "_orig_mod.model.", "student.") and counters of profilers are taken off.
        key: the entry that holds the weights, where a file has several: its name, such as "model_ema"; "ema", whatever the average is called; or
            what stands in front of their names, such as "teacher".

    Raises:
        FileNotFoundError; ValueError: the file does not read, is not safe, or holds weights of another network: at most ten names say which.

    >>> path = os.path.join(tempfile.mkdtemp(), "net.pt")
    >>> torch.save({"state_dict": {"module.weight": torch.ones(2, 3), "module.bias": torch.zeros(2)}}, path)
    >>> snnfast.load_weights(torch.nn.Linear(3, 2), path).weight.sum().item()
    6.0
    """
    if not isinstance(net, torch.nn.Module):
        raise TypeError(f"net must be a torch.nn.Module, got {type(net).__name__}")
    return put_file(net, read(path), path, key)


def read(path: str | os.PathLike) -> Any:
    """What a file of weights holds; None where it is in several parts."""
    return None if str(path).endswith(".index.json") else safely(Path(path))


def put_file(net: torch.nn.Module, file: Any, path: str | os.PathLike, key: str | None) -> torch.nn.Module:
    """`load_weights`, of what `read` gave for this path."""
    path = Path(path)
    state = _in_parts(path) if file is None else held(file, path, key)
    return put_state(net, state, path, _activations(file, path))


def put_state(net, state, path, activations=()):
    """Loads the weights `state` of a file into a network, and puts the quantised activations that the file tells of in place of its ReLUs."""
    twin = _with_activations(net, activations, path)
    own, thresholds = twin.state_dict(), {f"{name}.thresh".lstrip(".") for name, m in twin.named_modules() if isinstance(m, QCFS)}
    expected = {name: t for name, t in own.items() if not _is_counter(name)}
    found = _with_shared(_without_prefix(state, expected, path), expected)
    found = {name: t for name, t in found.items() if name in own or not _is_counter(name)}
    wrong = names.differing(expected, {name: t for name, t in found.items() if name in expected or name not in own}, "net")
    for name, like in expected.items():
        t = found.get(name, like)
        if t.layout != torch.strided or t.is_meta or t.is_nested or t.is_quantized:
            wrong.append(f"{name} is no dense tensor")
        elif name.endswith("running_var") and bool((t < 0).any()):
            wrong.append(f"{name} has numbers below 0")
        elif name in thresholds and not bool((t.to(like.dtype) > 0).all()):
            wrong.append(f"{name} has thresholds that are not > 0")
        elif like.is_floating_point() != t.is_floating_point():
            wrong.append(f"{name} has dtype {checks.dtype_name(t.dtype)}, not {checks.dtype_name(like.dtype)}")
        elif t.is_floating_point() and t.element_size() == 1:
            wrong.append(f"{name} has dtype {checks.dtype_name(t.dtype)}")
        elif t.is_floating_point() and not bool(torch.isfinite(t.to(like.dtype)).all()):
            wrong.append(f"{name} has numbers that are not finite")
    if wrong:
        raise ValueError(f"{path} does not hold the weights of {type(net).__name__}: {names.told(wrong)}")
    if activations:
        net = replaced.put(net, activations)
    net.load_state_dict({**own, **found})
    return net


def _activations(file, path):
    """Those that `save_checkpoint` tells of a network of one's own, which then stand in place of its ReLUs."""
    if not isinstance(file, dict) or file.get("format") != WEIGHTS:
        return {}
    found = file.get("activations")
    if not isinstance(found, dict) or not all(isinstance(name, str) and isinstance(of, dict) for name, of in found.items()):
        raise ValueError(f"{path} is damaged: it does not say what its activations are")
    budget.check_activations(found, path)
    return found


def _with_activations(net, activations, path):
    """A copy of the network with them, on which the file is checked before the network changes; the network itself where there are none."""
    if not activations:
        return net
    try:
        return replaced.put(copy.deepcopy(net), activations)
    except ValueError as error:
        raise ValueError(f"{path} does not hold the weights of {type(net).__name__}: {error}") from error


def _is_counter(name):
    """Whether a file may lack it: what norms and profilers count."""
    return name.rpartition(".")[2] in (*COUNTERS, "num_batches_tracked")


def _places(expected):
    """{where a weight lies: its names}: several, where layers share it."""
    found: dict[tuple, list[str]] = {}
    for name, t in expected.items():
        found.setdefault((*checks.span(t), t.shape) if t.numel() else (name,), []).append(name)
    return found


def _without_prefix(state, expected, path):
    """The weights under the names of the network: as they are, behind one prefix that all of them have, or without the prefixes of wrappers.

    What does not stand behind that prefix is of something else (a loss's weights, an average) and is left out with a warning. Of several prefixes
    that of a wrapper is taken.

    Raises:
        ValueError: several networks stand in the file, a student and a teacher, and nothing says which is meant.
    """
    places = list(_places(expected).values())
    first = places[0] if places else []
    ends = {key[: -len(name)] for name in first for key in state if key.endswith(name)}
    whole = [p for p in sorted(ends) if p.endswith(".") or not p]
    fit = [p for p in whole if all(any(p + name in state for name in shared) for shared in places)]
    if len(fit) > 1:
        fit = [p for p in fit if all(_shape(state[p + n]) == t.shape for n, t in expected.items() if p + n in state)] or fit
        of_wrappers = [p for p in fit if all(part + "." in PREFIXES for part in p.split(".")[:-1])]
        fit = _different(of_wrappers or fit, state, expected)
    if len(fit) > 1:
        told = " and ".join(repr(plain(p.rstrip("."), 40)) for p in fit[:5])
        raise ValueError(f"{path} holds several networks, behind {told}: key= says which is meant")
    if not fit:
        return unprefixed(state)
    (prefix,) = fit
    others = [key for key in state if not key.startswith(prefix) and not _is_counter(key)]
    if others:
        left = ", ".join(plain(key, 40) for key in others[:5])
        warnings.warn(f"{path}: the weights behind {plain(prefix, 40)!r} are taken; left out: {left}", stacklevel=3)
    return {key.removeprefix(prefix): t for key, t in state.items() if key.startswith(prefix)}


def _shape(t):
    """None of a tensor that has none."""
    return None if t.is_nested else t.shape


def _same(a, b):
    """Whether two tensors hold the same numbers, as far as they can be compared."""
    return all(t.layout == torch.strided and not t.is_nested and not t.is_meta for t in (a, b)) and torch.equal(a, b)


def _different(prefixes, state, expected):
    """Those behind which other numbers lie than behind one before; shorter ones come first."""
    found: list[str] = []
    for p in sorted(prefixes, key=len):
        if not any(all(_same(state[p + n], state[q + n]) for n in expected if p + n in state and q + n in state) for q in found):
            found.append(p)
    return found


def _with_shared(state, expected):
    """With the weight that layers share under each of their names, of which a file may have one."""
    for shared in _places(expected).values():
        held = next((state[name] for name in shared if name in state), None)
        if held is not None:
            state |= {name: held for name in shared if name not in state}
    return state


def _in_parts(path):
    """The weights of all files that an index names."""
    check_regular(path)
    try:
        parts = json.loads(path.read_text("utf-8"))["weight_map"].values()
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is no index of a file in several parts, which has weight_map") from error
    state = {}
    for name in dict.fromkeys(parts):
        if not isinstance(name, str) or Path(name).name != name:
            raise ValueError(f"{path} names {plain(str(name), 80)!r}, which is no file beside it")
        state |= held(safely(path.parent / name), path.parent / name)
    return state

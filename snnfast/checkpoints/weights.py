"""Weights from a file into any network: names without prefixes, all of them, each with its shape."""

import json
import os
import warnings
from pathlib import Path

import torch

from snnfast.checkpoints.holders import COUNTERS, held, unprefixed
from snnfast.checkpoints.own import safely
from snnfast.system.text import plain

MOST_NAMED = 10  # of what is wrong


def load_weights(net: torch.nn.Module, path: str | os.PathLike, key: str | None = None) -> torch.nn.Module:
    """Loads weights into a network of any kind; returns it.

    Args:
        net: the network, changed in place; nothing of it where an error is raised.
        path: a file of `torch.save` or safetensors, read safely, or the `.index.json` of a file in several parts, as Hugging Face writes them.
            A prefix that stands in front of all names of `net` ("module.", "_orig_mod.model.", "student.") and counters of profilers are taken off.
        key: the entry that holds the weights, such as "state_dict_ema", where a file has several.

    Raises:
        FileNotFoundError; ValueError: the file does not read, is not safe, or holds weights of another network: at most ten names say which.

    >>> path = os.path.join(tempfile.mkdtemp(), "net.pt")
    >>> torch.save({"state_dict": {"module.weight": torch.ones(2, 3), "module.bias": torch.zeros(2)}}, path)
    >>> snnfast.load_weights(torch.nn.Linear(3, 2), path).weight.sum().item()
    6.0
    """
    if not isinstance(net, torch.nn.Module):
        raise TypeError(f"net must be a torch.nn.Module, got {type(net).__name__}")
    path = Path(path)
    state = _in_parts(path) if path.name.endswith(".index.json") else held(safely(path), path, key)
    own = net.state_dict()
    found = _without_prefix(state, own, path)
    wrong = [f"{name} is missing" for name in own if name not in found and not name.endswith("num_batches_tracked")]
    wrong += [f"{plain(name, 80)} is not of net" for name in found if name not in own]
    for name, t in found.items():
        if name in own and t.shape != own[name].shape:
            wrong.append(f"{name} has shape {tuple(t.shape)}, not {tuple(own[name].shape)}")
        elif name in own and own[name].is_floating_point() != t.is_floating_point():
            wrong.append(f"{name} has dtype {str(t.dtype).removeprefix('torch.')}, not {str(own[name].dtype).removeprefix('torch.')}")
        elif name in own and t.is_floating_point() and not bool(torch.isfinite(t).all()):
            wrong.append(f"{name} has numbers that are not finite")
    if wrong:
        more = f" and {len(wrong) - MOST_NAMED} more" if len(wrong) > MOST_NAMED else ""
        raise ValueError(f"{path} does not hold the weights of {type(net).__name__}: {'; '.join(wrong[:MOST_NAMED])}{more}")
    net.load_state_dict({**own, **found})
    return net


def _without_prefix(state, own, path):
    """The weights under the names of the network: as they are, behind one prefix that all of them have, or without the prefixes of wrappers.

    What does not stand behind that prefix is of something else (a loss's weights, a teacher) and is left out with a warning. A name of a weight that
    two layers share is filled with the other's.
    """
    state = {name: t for name, t in state.items() if name in own or name.rpartition(".")[2] not in (*COUNTERS, "num_batches_tracked")}
    needed = [name for name in own if not name.endswith("num_batches_tracked") and name.rpartition(".")[2] not in COUNTERS]
    for name in needed:  # two layers that share a weight
        twin = next((n for n in needed if n in state and n != name and own[n].data_ptr() == own[name].data_ptr() and own[n].numel()), None)
        if name not in state and twin is not None:
            state[name] = state[twin]
    if needed and not set(needed) <= set(state):
        last = needed[0]
        for prefix in sorted({key[: -len(last)] for key in state if key.endswith(last) and key != last}, key=len):
            if all(prefix + name in state for name in needed):
                others = [key for key in state if not key.startswith(prefix)]
                if others:
                    told = ", ".join(plain(key, 40) for key in others[:5])
                    warnings.warn(f"{path}: the weights behind {plain(prefix, 40)!r} are taken; left out: {told}", stacklevel=4)
                return {key.removeprefix(prefix): t for key, t in state.items() if key.startswith(prefix)}
        return unprefixed(state)
    return state


def _in_parts(path):
    """The weights of all files that an index names."""
    try:
        names = json.loads(path.read_text())["weight_map"].values()
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no index of a file in several parts, which has weight_map") from error
    state = {}
    for name in dict.fromkeys(names):
        if not isinstance(name, str) or Path(name).name != name:
            raise ValueError(f"{path} names {plain(str(name), 80)!r}, which is no file beside it")
        state |= held(safely(path.parent / name), path.parent / name)
    return state

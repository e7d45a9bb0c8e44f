"""Weights from a file into any network: names without prefixes, all of them, each with its shape."""

import json
import os
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
            Prefixes of wrappers ("module.", "_orig_mod.", "model.", "net.") and counters of profilers are taken off.
        key: the entry that holds the weights, such as "state_dict_ema", where a file has several.

    Raises:
        FileNotFoundError; ValueError: the file does not read, is not safe, or holds weights of another network: at most ten names say which.

    >>> path = os.path.join(tempfile.mkdtemp(), "net.pt")
    >>> torch.save({"state_dict": {"module.weight": torch.ones(2, 3), "module.bias": torch.zeros(2)}}, path)
    >>> snnfast.load_weights(torch.nn.Linear(3, 2), path).weight.sum().item()
    6.0
    """
    path = Path(path)
    state = _in_parts(path) if path.name.endswith(".index.json") else held(safely(path), path, key)
    own = net.state_dict()
    if not set(own) <= set(state):
        state = unprefixed(state)
    found = {name: t for name, t in state.items() if name in own or name.rpartition(".")[2] not in (*COUNTERS, "num_batches_tracked")}
    wrong = [f"{name} is missing" for name in own if name not in found and not name.endswith("num_batches_tracked")]
    wrong += [f"{plain(name, 80)} is not of net" for name in found if name not in own]
    wrong += [f"{name} has shape {tuple(t.shape)}, not {tuple(own[name].shape)}" for name, t in found.items()
              if name in own and t.shape != own[name].shape]  # fmt: skip
    if wrong:
        more = f" and {len(wrong) - MOST_NAMED} more" if len(wrong) > MOST_NAMED else ""
        raise ValueError(f"{path} does not hold the weights of {type(net).__name__}: {'; '.join(wrong[:MOST_NAMED])}{more}")
    net.load_state_dict({**own, **found})
    return net


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

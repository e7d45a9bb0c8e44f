"""How trainers wrap weights: the entry of a file that holds them, prefixes on every name, counters beside them."""

import warnings

import torch

from snnfast.system.text import plain

# Entries that hold weights, the first of which is taken where none is asked for; the last are moving averages.
HOLDERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "module",
    "params",
    "weights",
    "state_dict_ema",
    "model_ema",
    "ema",
    "params_ema",
)
# Of DataParallel, torch.compile, Lightning, and of classes that hold a network.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
# What thop and AveragedModel count.
COUNTERS = ("total_ops", "total_params", "n_averaged")


def is_state(entry):
    """Whether an entry is weights by name."""
    return isinstance(entry, dict) and bool(entry) and all(isinstance(k, str) and isinstance(t, torch.Tensor) for k, t in entry.items())


def held(file, path, key=None):
    """The weights of a file: itself, or the entry `key`, or the first of HOLDERS that it has; a warning names the others."""
    found = {name: file[name] for name in HOLDERS if isinstance(file, dict) and isinstance(file.get(name), dict)}
    if key is not None:
        if not isinstance(file, dict) or not is_state(file.get(key)):
            there = ", ".join(plain(name, 40) for name in list(file)[:10] if is_state(file[name])) if isinstance(file, dict) else ""
            raise ValueError(f"{path} holds no weights under key={key!r}" + (f"; it holds some under {there}" if there else ""))
        return file[key]
    taken = next(iter(found), None)
    others = [name for name in found if name != taken and is_state(found[name])]
    if others:
        warnings.warn(f"{path}: the weights under {taken!r} are taken; key={others[0]!r} takes others of the same file", stacklevel=5)
    entry = file if taken is None else found[taken]
    if not is_state(entry):
        raise ValueError(
            f"{path} holds no weights: expected a dictionary of tensors, or one under {', '.join(map(repr, HOLDERS))}; key= names another"
        )
    return entry


def unprefixed(state):
    """The weights without counters, and without the prefixes that stand on every name."""
    state = {name: t for name, t in state.items() if name.rpartition(".")[2] not in COUNTERS}
    while True:
        prefix = next((p for p in PREFIXES if state and all(name.startswith(p) for name in state)), None)
        if prefix is None:
            return state
        state = {name.removeprefix(prefix): t for name, t in state.items()}

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
DEEP = 4  # holders inside one another
# What thop and AveragedModel count.
COUNTERS = ("total_ops", "total_params", "n_averaged")


def is_state(entry):
    """Whether an entry is weights by name."""
    return isinstance(entry, dict) and bool(entry) and all(isinstance(k, str) and isinstance(t, torch.Tensor) for k, t in entry.items())


def _inner(file, path):
    """The weights in a dictionary: itself, or what the first of HOLDERS in it holds, and so on; a warning names the others."""
    for _ in range(DEEP):
        found = (
            {} if is_state(file) else {name: file[name] for name in HOLDERS if isinstance(file, dict) and isinstance(file.get(name), dict)}
        )
        if not found:
            break
        taken, *others = found
        others = [name for name in others if is_state(found[name])]
        if others:
            warnings.warn(f"{path}: the weights under {taken!r} are taken; key={others[0]!r} takes others of the same file", stacklevel=6)
        file = found[taken]
    return file


def held(file, path, key=None):
    """The weights of a file: itself, or the entry `key`, or the first of HOLDERS that it has, also inside one another."""
    entry = _inner(file if key is None else file.get(key) if isinstance(file, dict) else None, path)
    if is_state(entry):
        return entry
    if key is not None:
        there = (
            ", ".join(plain(name, 40) for name in list(file)[:10] if is_state(_inner(file[name], path))) if isinstance(file, dict) else ""
        )
        raise ValueError(f"{path} holds no weights under key={key!r}" + (f"; it holds some under {there}" if there else ""))
    raise ValueError(
        f"{path} holds no weights: expected a dictionary of tensors, or one under {', '.join(map(repr, HOLDERS))}; key= names another"
    )


def unprefixed(state):
    """The weights without counters, and without what stands in front of every name: of DataParallel, torch.compile, Lightning, classes that hold a
    network. Names of one layer alone keep theirs."""
    state = {name: t for name, t in state.items() if name.rpartition(".")[2] not in COUNTERS}
    while True:
        first = {name.partition(".")[0] for name in state}
        if len(first) != 1 or any(name.count(".") < 2 for name in state):
            return state
        state = {name.partition(".")[2]: t for name, t in state.items()}

"""How trainers wrap weights: the entry of a file that holds them, prefixes on every name, counters beside them."""

import warnings

import torch

from snnfast.system.text import plain

AVERAGES = ("state_dict_ema", "model_ema", "ema", "params_ema", "ema_state_dict", "model_ema_state_dict", "ema_model")
# Entries that hold weights, the first of which is taken where none is asked for; the last are moving averages.
HOLDERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "module",
    "params",
    "weights",
    *AVERAGES,
)
# Of DataParallel, torch.compile, Lightning, and of classes that hold a network.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
DEEP = 4  # holders inside one another
# What thop and AveragedModel count.
COUNTERS = ("total_ops", "total_params", "n_averaged")


def is_state(entry):
    """Whether an entry is weights by name."""
    return isinstance(entry, dict) and bool(entry) and all(isinstance(k, str) and isinstance(t, torch.Tensor) for k, t in entry.items())


def _states(file, deep=DEEP, path=()):
    """Yields (names of the entries that lead to it, weights) of what a file holds: itself, or under HOLDERS, also inside one another."""
    if is_state(file):
        yield path, file
    elif isinstance(file, dict) and deep:
        for name in HOLDERS:
            if isinstance(file.get(name), dict):
                yield from _states(file[name], deep - 1, (*path, name))


def _under(file, key):
    """What lies under a key, "model.ema" inside "model", or None."""
    if isinstance(file, dict) and key in file:
        return file[key]
    first, _, rest = key.partition(".")
    return _under(file[first], rest) if rest and isinstance(file, dict) and first in file else None


def held(file, path, key=None):
    """The weights of a file: itself, or what the entry `key` holds, or those whose names begin with `key`, or the first of HOLDERS that has any; a
    warning names the others. key "ema" is any of AVERAGES."""
    if key is not None and not isinstance(key, str):
        raise TypeError(f"key must be the name of an entry, a str, got {type(key).__name__}")
    found = list(_states(file if key is None else _under(file, key)))
    if key == "ema" and not found and isinstance(file, dict):
        found = [(names, state) for names, state in _states(file) if names and names[-1] in AVERAGES]
    if not found and key is not None:
        names = AVERAGES if key == "ema" else (key.rstrip("."),)
        found = [((), part) for _, state in _states(file) for name in names if (part := _behind(state, name + "."))]
    if not found:
        there = (
            [".".join(names) for names, _ in _states(file)] + [n for n in list(file)[:100] if is_state(file[n])]
            if isinstance(file, dict)
            else []
        )
        told = ", ".join(plain(str(name), 40) for name in dict.fromkeys(there[:10]))
        if key is not None:
            raise ValueError(f"{path} holds no weights under key={key!r}" + (f"; it holds some under {told}" if told else ""))
        raise ValueError(
            f"{path} holds no weights: expected a dictionary of tensors, or one under {', '.join(map(repr, HOLDERS))}; key= names another"
        )
    (taken, state), *others = found
    if others:
        taken, other = (".".join([*([key] if key else []), *names]) for names in (taken, others[0][0]))
        warnings.warn(f"{path}: the weights under {taken!r} are taken; key={other!r} takes others of the same file", stacklevel=5)
    return state


def _behind(state, front):
    """The weights behind a part of their names, also behind a wrapper's: "module.teacher.fc.weight" behind "teacher.".

    Raises:
        ValueError: this part stands in several places, behind which other networks may lie.
    """
    at = {name: 0 if name.startswith(front) else name.find("." + front) + 1 for name in state}
    ends = {n: at[n] + len(front) for n in state if at[n] or n.startswith(front)}
    places = sorted({n[:end] for n, end in ends.items()})
    if len(places) > 1:
        raise ValueError(
            f"key={front.rstrip('.')!r} stands in several places, {', '.join(plain(p, 40) for p in places[:5])}: give one whole"
        )
    return {n[end:]: state[n] for n, end in ends.items()}


def unprefixed(state):
    """The weights without counters, and without what stands in front of every name: the prefixes of wrappers, and the name of a class's only part.
    Names of one layer alone keep theirs."""
    state = {name: t for name, t in state.items() if name.rpartition(".")[2] not in COUNTERS}
    while state:
        first = {name.partition(".")[0] + "." for name in state}
        if len(first) > 1 or not all("." in name for name in state):
            break
        if not first <= set(PREFIXES) and max(name.count(".") for name in state) < 2:
            break
        state = {name.partition(".")[2]: t for name, t in state.items()}
    return state

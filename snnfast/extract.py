"""Weights out of a file that also pickles objects, without running anything: what is no tensor or plain container becomes a placeholder."""

import collections
import pickle
import types

import torch

from snnfast.files import whole

_REBUILD = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")


class Placeholder:
    """Stands for an object of a class that was not loaded; takes whatever a pickle does to it."""

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass

    def __setitem__(self, key, value):
        pass

    def __call__(self, *args, **kwargs):
        return self

    def append(self, value):
        pass

    def extend(self, values):
        pass

    def add(self, value):
        pass


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if module == "torch._utils" and name in _REBUILD:
            return getattr(torch._utils, name)
        if module == "torch" and (name.endswith("Storage") or name in ("Size", "device")):
            return getattr(torch, name)
        if (module, name) in (("torch.storage", "UntypedStorage"), ("torch.storage", "TypedStorage")):
            return getattr(torch.storage, name)
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        return Placeholder


# What torch.load asks of a pickle module.
_SAFE = types.SimpleNamespace(Unpickler=_Unpickler, load=pickle.load, loads=pickle.loads, __name__="snnfast.extract")


def extract(path, out):
    """Writes the tensors of the file `path` to `out`, in a form that safe loading takes: the same nested dictionaries, without what is no tensor,
    number or text. Nothing in the file is run.

    Returns:
        (tensors kept, names of entries left out).

    Raises:
        FileNotFoundError; ValueError: not a checkpoint, or no tensor in it.
    """
    try:
        file = torch.load(path, map_location="cpu", weights_only=False, pickle_module=_SAFE)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch.load raises many kinds
        raise ValueError(f"{path} is not a readable checkpoint: {(str(error) or type(error).__name__).splitlines()[0]}") from error
    left = []
    kept = _kept(file, "", left)
    many = _tensors(kept)
    if not many:
        raise ValueError(f"{path} holds no tensors")
    with whole(out) as part:
        torch.save(kept, part)
    return many, left


def _kept(value, name, left):
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, dict):
        found = {key: _kept(v, f"{name}.{key}".lstrip("."), left) for key, v in value.items() if type(key) in (str, int)}
        return {key: v for key, v in found.items() if v is not None}
    if isinstance(value, (list, tuple)):
        return [v for v in (_kept(v, f"{name}[{i}]", left) for i, v in enumerate(value)) if v is not None]
    if type(value) in (int, float, str, bool):
        return value
    if value is not None:
        left.append(name)
    return None


def _tensors(value):
    if isinstance(value, torch.Tensor):
        return 1
    return sum(map(_tensors, value.values() if isinstance(value, dict) else value)) if isinstance(value, (dict, list)) else 0

"""Weights out of a file that also pickles objects, without running anything: what is no tensor or plain container becomes a placeholder."""

import collections
import os
import pickle
import types
import zipfile
from pathlib import Path

import torch

from snnfast.checkpoints import budget
from snnfast.system.files import check_regular, save, whole
from snnfast.system.text import first_line, plain

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


def _own(function):
    """What stands for a function of torch's while a file is read: a pickle can set attributes of what it is given."""
    return lambda *args, **kwargs: function(*args, **kwargs)


class _Unpickler(pickle.Unpickler):
    """torch.load finds storages itself, before it asks here."""

    def find_class(self, module, name):
        if module == "torch._utils" and name in _REBUILD:
            return _own(getattr(torch._utils, name))
        if module == "torch" and name in ("Size", "device"):
            return _own(getattr(torch, name))
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        return Placeholder


def _refused(*args, **kwargs):
    raise ValueError("a plain pickle, which is not read")


# What torch.load asks of a pickle module; `load` and `loads` are for formats that are not read here.
_SAFE = types.SimpleNamespace(Unpickler=_Unpickler, load=_refused, loads=_refused, __name__="snnfast.extract")


def _check_format(path):
    """Only the format of torch.save since torch 1.6: older ones and TorchScript are read by code that runs what they say."""
    with open(path, "rb"):
        pass
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not a readable checkpoint: it is not in the format that torch.save has since torch 1.6")
    with zipfile.ZipFile(path) as file:
        names = file.namelist()
    if any(name.rsplit("/", 1)[-1] == "constants.pkl" or "/code/" in f"/{name}" for name in names):
        raise ValueError(f"{path} is not a readable checkpoint: it is TorchScript, which holds code")


def extract(path: str | os.PathLike, out: str | os.PathLike) -> tuple[int, list[str]]:
    """Writes the tensors of the file `path` to `out`, in a form that safe loading takes: the same nested dictionaries, without what is no tensor,
    number or text. Nothing in the file is run.

    Returns:
        (tensors kept, names of entries left out).

    Raises:
        FileNotFoundError; ValueError: not a checkpoint, or no tensor in it.

    >>> folder = tempfile.mkdtemp()
    >>> torch.save({"model": {"w": torch.zeros(2)}, "args": argparse.Namespace(lr=0.1)}, os.path.join(folder, "theirs.pt"))
    >>> snnfast.extract(os.path.join(folder, "theirs.pt"), os.path.join(folder, "weights.pt"))
    (1, ['args'])
    """
    left = Left()
    if Path(out).is_dir():
        raise ValueError(f"{out} is a folder: name the file to write")
    for name in (path, out):
        check_regular(name)
    try:
        _check_format(path)
        budget.check_archive(path)
        file = torch.load(path, map_location="cpu", weights_only=False, pickle_module=_SAFE)
        budget.check_entries(file, path)
        kept = _kept(file, (), left)
        many = _tensors(kept)
    except (FileNotFoundError, PermissionError, IsADirectoryError, budget.Refused):
        raise
    except Exception as error:  # torch.load raises many kinds
        raise ValueError(f"{path} is not a readable checkpoint: {first_line(error)}") from error
    if not many:
        raise ValueError(f"{path} holds no tensors")
    if not Path(out).parent.is_dir():
        raise ValueError(f"the folder of {out} is not there")
    with whole(out) as part:
        save(kept, part)
    return many, left.told()


class Left:
    """Names of what is left out, a few of them, as a terminal may show them."""

    MOST = 20

    def __init__(self):
        self.names, self.many = [], 0

    def add(self, path):
        self.many += 1
        if self.many <= self.MOST:
            self.names.append(plain("".join(path).lstrip("."), 100))

    def told(self):
        return self.names + ([f"{self.many - self.MOST} more"] if self.many > self.MOST else [])


def _step(before, key):
    """A name's next part, cut, so that a long key is not kept once for each that lies in it."""
    return plain(f"{before}{key}", 100)


def _kept(value, path, left):
    """path: the parts of its name."""
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, dict):
        for key in value:
            if type(key) not in (str, int):
                left.add((*path, _step("", [key])))
        found = {key: _kept(v, (*path, _step(".", key)), left) for key, v in value.items() if type(key) in (str, int)}
        return {key: v for key, v in found.items() if v is not None}
    if isinstance(value, (list, tuple)):
        return [v for v in (_kept(v, (*path, f"[{i}]"), left) for i, v in enumerate(value)) if v is not None]
    if type(value) in (int, float, str, bool):
        return value
    if value is not None:
        left.add(path)
    return None


def _tensors(value):
    if isinstance(value, torch.Tensor):
        return 1
    return sum(map(_tensors, value.values() if isinstance(value, dict) else value)) if isinstance(value, (dict, list)) else 0

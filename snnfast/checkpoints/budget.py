"""What the file of somebody else may cost to read.

A file of a few bytes can ask for gigabytes, or for ever: a pickle that writes to place 2^28 of its memo, a tensor of 42 GB whose strides are 0,
lists in lists that each stand in the next twice, a deflated run of zeros. Each is refused for what it asks, before it gets it:

    the pickle    at most 64 MiB and a million instructions; places of the memo no further than there are instructions
    the archive   no entry within another; unpacked at most 16 times the file, and 64 MiB
    the tensors   each stored by itself at most 4 times the file, and 1 MiB: tied weights and small expanded tensors are stored once
    the contents  at most a million entries, each counted as often as it is reached
    a network     no more blocks than the file has tensors
"""

import os
import pickletools
import zipfile

import torch

from snnfast.system.memory import told
from snnfast.system.text import plain

PICKLE = 64 << 20
INSTRUCTIONS = 1_000_000
ENTRIES = 1_000_000
UNPACKED, TENSORS = 16, 4  # times the file
NAME = 80  # characters of a name in an error


class Refused(ValueError):
    """A file asks for more than its size allows."""


def check_archive(path: str | os.PathLike) -> None:
    """Refuses a file of torch.save that asks for more than its size allows, before anything of it is read.

    Raises:
        Refused: what it asks for, and what is allowed.
    """
    if not zipfile.is_zipfile(path):  # files of torch before 1.6: some pickles, then the numbers
        with open(path, "rb") as file:
            for _ in range(5):
                if not _check_pickle(file, path, strict=False):
                    return
        return
    size = os.path.getsize(path)
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if sum(e.compress_size for e in entries) > size:
            raise Refused(f"{path} is refused: entries of its archive lie within each other")
        unpacked = sum(e.file_size for e in entries)
        if unpacked > UNPACKED * size + PICKLE:
            raise Refused(f"{path} is refused: its {told(size)} unpack to {told(unpacked)}; at most {UNPACKED} times its size is read")
        for entry in entries:
            if entry.filename.rsplit("/", 1)[-1] == "data.pkl":
                if entry.file_size > PICKLE:
                    raise Refused(f"{path} is refused: its pickle has {told(entry.file_size)}, at most {told(PICKLE)} are read")
                with archive.open(entry) as file:
                    _check_pickle(file, path)


def _check_pickle(file, path, strict=True):
    """Reads the instructions of one pickle without following them. Returns whether there was one."""
    many = 0
    try:
        for many, (instruction, argument, _) in enumerate(pickletools.genops(file), 1):
            if many > INSTRUCTIONS:
                raise Refused(f"{path} is refused: its pickle has more than {INSTRUCTIONS} instructions")
            if instruction.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > many + 256:
                raise Refused(f"{path} is refused: its pickle writes to place {argument} of its memo after {many} instructions")
    except Refused:
        raise
    except (ValueError, OverflowError, MemoryError):
        if strict:
            raise ValueError("its pickle cannot be read") from None
        return False
    return many > 0


def check_contents(value: object, path: str | os.PathLike) -> None:
    """Refuses what a file holds where handling it would take more memory or time than its size allows.

    Raises:
        Refused: the entry, what it asks for, and what is allowed.
    """
    allowed, total, entries = TENSORS * os.path.getsize(path) + (1 << 20), 0, 0
    left = [("", value)]
    while left:
        name, value = left.pop()
        entries += 1
        if entries + len(left) > ENTRIES:
            raise Refused(f"{path} is refused: it holds more than {ENTRIES} entries, counted as often as they are reached")
        if isinstance(value, torch.Tensor):
            total += _bytes(value, name, path, allowed)
            if total > allowed:
                raise Refused(
                    f"{path} is refused: its tensors take more than {told(allowed)} when each is stored by itself, {TENSORS} times its size"
                )
        elif isinstance(value, dict):
            left += (
                [(f"{name}.{plain(key, NAME)}".lstrip("."), v) for key, v in value.items()]
                if len(name) < NAME
                else [(name, v) for v in value.values()]
            )
        elif isinstance(value, (list, tuple)):
            left += [(f"{name}[{i}]" if len(name) < NAME else name, v) for i, v in enumerate(value)]


def _bytes(tensor, name, path, allowed):
    """Of a tensor that is stored by itself; an error if its storage has fewer, and it asks for more than is allowed."""
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_nested:
        kind = "a meta tensor" if tensor.is_meta else "a nested tensor" if tensor.is_nested else f"of layout {tensor.layout}"
        raise Refused(f"{path}: {plain(name, NAME)} is no weight: {kind}; expected dense numbers")
    size, stored = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    if size > max(stored, allowed):
        raise Refused(
            f"{path} is refused: {plain(name, NAME)} of shape {tuple(tensor.shape)} takes {told(size)}, and the file holds {told(stored)} of it"
        )
    return size


def check_network(config: dict, state: dict, path: str | os.PathLike) -> None:
    """Refuses a configuration with more blocks than the file has tensors, or with numbers beyond 2^24, before the network is built."""
    for name, value in config.items():
        for number in value if isinstance(value, (list, tuple)) else (value,):
            whole = isinstance(number, int) and not isinstance(number, bool)
            if whole and abs(number) > 1 << 24:
                raise Refused(f"{path} is refused: {plain(name, NAME)} is {plain(number, NAME)}; at most 2^24")
            if name in ("depth", "depths") and whole and number > len(state):
                raise Refused(f"{path} is refused: {name} is {plain(value, NAME)}, and it holds {len(state)} tensors")

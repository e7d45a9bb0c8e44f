"""Our own formats in a safetensors file: tensors as any reader of safetensors finds them, all else as JSON in its metadata.

The metadata has one entry, "snnfast": a JSON list of a CRC-32 and what the file holds beside tensors. The checksum is over the JSON text of the
latter and the bytes of all tensors, in the order of their names. Files of others have no such entry.
"""

import importlib.util
import json
import os
import zlib
from pathlib import Path
from typing import Any

import torch

from snnfast.system.text import first_line

SUFFIX = ".safetensors"
ENTRY = "snnfast"
TENSORS = "state_dict", "state"  # where our formats hold them
TUPLE, ASIDE = "(tuple)", "(tensor)"  # marks in the JSON; a tensor among other values lies beside the weights, under the mark and a number


def is_one(path: str | os.PathLike) -> bool:
    return str(path).endswith(SUFFIX)


def check_installed(path: str | os.PathLike) -> None:
    """Refuses a path that wants the package, where it is not installed."""
    if importlib.util.find_spec("safetensors") is None:
        raise ValueError(f"{path} wants the package safetensors: pip install safetensors, or another ending than {SUFFIX}")


def save(content: dict, path: str | os.PathLike) -> None:
    """Writes `content`: plain values, and tensors under one of TENSORS.

    Raises:
        ValueError: the package is not installed, or a dictionary has keys that are no texts. OSError: the file cannot be written.
    """
    check_installed(path)
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    held = next(name for name in TENSORS if name in content)
    aside: dict[str, torch.Tensor] = {}
    text = json.dumps({key: _encoded(value, key, aside) for key, value in content.items() if key != held} | {"held": held})
    # Of tied weights each its own; a view of one element has strides that the format does not take.
    tensors = {name: torch.empty(t.shape, dtype=t.dtype).copy_(t.detach()) for name, t in (content[held] | aside).items()}
    try:
        save_file(tensors, path, {ENTRY: json.dumps([_checksum(text, tensors), text])})
    except (OSError, SafetensorError) as error:
        raise OSError(f"{path} cannot be written: {first_line(error)}") from error


def read(path: str | os.PathLike) -> Any:
    """What `save` was given, or None of a file that is not ours.

    Raises:
        ValueError: the file is damaged.
    """
    from safetensors import safe_open

    with safe_open(Path(path), "pt") as file:
        entry = (file.metadata() or {}).get(ENTRY)
        if entry is None:
            return None
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    try:
        checksum, text = json.loads(entry)
        content = json.loads(text)
        held = content.pop("held")
        aside = {name: tensors[name] for name in tensors if name.startswith(ASIDE)}
        content = {key: _decoded(value, aside) for key, value in content.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ValueError(f"{path} is damaged: its metadata of snnfast cannot be read") from None
    if held not in TENSORS or checksum != _checksum(text, tensors):
        raise ValueError(f"{path} is damaged: its checksum does not fit")
    return content | {held: {name: t for name, t in tensors.items() if name not in aside}}


def _checksum(text, tensors):
    found = zlib.crc32(text.encode())
    for name in sorted(tensors):
        found = zlib.crc32(name.encode(), found)
        if tensors[name].numel():
            found = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy(), found)
    return found


def _encoded(value, where, aside):
    """JSON has no tuples and no tensors: each is a dictionary with a mark as its only key."""
    if isinstance(value, torch.Tensor):
        name = f"{ASIDE} {len(aside)}"
        aside[name] = value
        return {ASIDE: name}
    if isinstance(value, dict):
        odd = [key for key in value if not isinstance(key, str) or key in (TUPLE, ASIDE)]
        if odd:
            raise ValueError(
                f"{where} has the key {odd[0]!r}, and safetensors keeps texts alone as keys: give the file another ending than {SUFFIX}"
            )
        return {key: _encoded(v, f"{where}.{key}", aside) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        found = [_encoded(v, where, aside) for v in value]
        return {TUPLE: found} if isinstance(value, tuple) else found
    return value


def _decoded(value, aside):
    if isinstance(value, dict):
        if set(value) == {TUPLE}:
            return tuple(_decoded(v, aside) for v in value[TUPLE])
        return aside[value[ASIDE]] if set(value) == {ASIDE} else {key: _decoded(v, aside) for key, v in value.items()}
    return [_decoded(v, aside) for v in value] if isinstance(value, list) else value

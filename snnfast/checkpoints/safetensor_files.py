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

from snnfast.system.files import whole
from snnfast.system.text import first_line

SUFFIX = ".safetensors"
ENTRY = "snnfast"
TENSORS = "state_dict", "state"  # where our formats hold them
MOST_TEXT, MOST_PARTS, MOST_TENSORS = 1 << 24, 1_000_000, 100_000
TUPLE, ASIDE = "(tuple)", "(tensor)"  # marks in the JSON; a tensor among other values lies beside the weights, under the mark and a number


def is_one(path: str | os.PathLike) -> bool:
    """Whether a path has the ending of these files."""
    return str(path).lower().endswith(SUFFIX)


def looks_like_one(path: str | os.PathLike) -> bool:
    """Whether a file begins as these do: the length of a header, then JSON."""
    with open(path, "rb") as file:
        first = file.read(9)
    return len(first) == 9 and first[8:] == b"{" and int.from_bytes(first[:8], "little") < os.path.getsize(path)


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
    from safetensors.torch import save as packed

    held = next(name for name in TENSORS if name in content)
    aside: dict[str, torch.Tensor] = {}
    try:
        text = json.dumps({key: _encoded(value, key, aside) for key, value in content.items() if key != held} | {"held": held})
    except (RecursionError, TypeError) as error:
        raise ValueError(f"{path} cannot hold these facts: {first_line(error)}") from None
    if len(text) > MOST_TEXT or _parts(text) > MOST_PARTS:
        raise ValueError(f"{path} cannot hold facts of more than {MOST_TEXT >> 20} MiB or {MOST_PARTS} parts: give the file another ending")
    # Of tied weights each its own; a view of one element has strides that the format does not take.
    tensors = {name: torch.empty(t.shape, dtype=t.dtype).copy_(t.detach()) for name, t in (content[held] | aside).items()}
    data = packed(tensors, {ENTRY: json.dumps([_checksum(text, tensors), text])})
    with whole(os.path.realpath(path)) as part, open(part, "wb") as file:
        file.write(data)


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
        names = list(file.keys())
        if len(entry) > 2 * MOST_TEXT or _parts(entry) > 2 * MOST_PARTS or len(names) > MOST_TENSORS:
            raise ValueError(f"{path} is refused: its metadata, or the number of its tensors, is larger than any that snnfast writes")
        tensors = {name: file.get_tensor(name) for name in names}
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


def _parts(text):
    return text.count("[") + text.count("{") + text.count(",")


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
                f"{where} has the key {odd[0]!r}; a safetensors file keeps texts alone as keys, but {TUPLE} and {ASIDE}: give it another ending"
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

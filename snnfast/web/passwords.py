"""Who may use a server from other machines: a file with a line for each, NAME:SALT:HASH, the hash that of scrypt."""

import hashlib
import hmac
import os
import re
import secrets
import time
from pathlib import Path

_COST = dict(n=1 << 14, r=8, p=1, dklen=32)
LEAST = 8  # characters of a password
TRIES, SECONDS = 10, 60.0  # wrong passwords for a name in so many seconds, after which it has to wait


def add(path: str | os.PathLike, name: str, password: str) -> None:
    """Adds somebody, or gives another password. The file is readable for its owner alone."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name):
        raise ValueError(f"a name has 1 to 64 letters, digits, '.', '_' and '-', got {name!r}")
    if len(password) < LEAST:
        raise ValueError(f"a password has at least {LEAST} characters, this one has {len(password)}")
    path, salt = Path(path), secrets.token_bytes(16)
    kept = [line for line in _lines(path) if line.split(":")[0] != name] if path.exists() else []
    kept.append(f"{name}:{salt.hex()}:{_hash(password, salt).hex()}")
    part = path.with_name(path.name + ".part")
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write("\n".join(kept) + "\n")
    os.replace(part, path)


def checker(path: str | os.PathLike):
    """(name, password) -> whether it is right. The file is read at every call, so that who is added may come at once. After too many wrong
    passwords in a minute nothing is right for that name, and nothing is computed; names that are not there count as one.

    Raises:
        ValueError: the file names nobody, or a line is none of `add`.
    """
    if not _lines(Path(path)):
        raise ValueError(f"{path} names nobody: add somebody with --add-user NAME")

    wrong: dict[str, list[float]] = {}

    def check(name, password):
        known = {line.split(":")[0]: line.split(":")[1:] for line in _lines(Path(path))}
        who, now = name if name in known else "", time.monotonic()
        wrong[who] = [t for t in wrong.get(who, ()) if now - t < SECONDS]
        if len(wrong[who]) >= TRIES:
            return False
        salt, right = (bytes.fromhex(part) for part in known.get(name, ("00" * 16, "00" * 32)))
        good = hmac.compare_digest(_hash(password, salt), right) and name in known  # as long for a name that is not there
        if not good:
            wrong[who].append(now)
        return good

    return check


def _hash(password, salt):
    return hashlib.scrypt(password.encode(), salt=salt, **_COST)


def _lines(path):
    lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    for i, line in enumerate(lines):
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}:[0-9a-f]{32}:[0-9a-f]{64}", line):
            raise ValueError(f"line {i + 1} of {path} is not NAME:SALT:HASH, as --add-user writes it")
    return lines

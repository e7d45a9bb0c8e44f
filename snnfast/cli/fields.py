"""Flags from the fields of objects: names, types, defaults, and what docstrings say of them. So a method of one's own has its flags."""

import argparse
import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterator

KINDS = {int: ("N", int), float: ("X", float), typing.Any: ("X", float)}  # of a field: metavar and type


def described(cls: type) -> dict[str, str]:
    """{field: the first part of what the docstrings of a class and its parents say of it}."""
    found: dict[str, str] = {}
    for part in reversed(cls.__mro__):
        block = re.search(r"Args:\n(.*?)(?:\n\n|\n *>>>|\Z)", inspect.cleandoc(part.__doc__ or ""), re.S)
        for name, text in re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", block[1] if block else "", re.M):
            found[name] = re.split(r"[.;:](?:\s|$)", " ".join(text.split()))[0]
    return found


def flags_of(cls: type) -> Iterator[tuple[str, dict]]:
    """(name, keywords of argparse's add_argument) of each field that one value of the command line can say."""
    about, hints = described(cls), typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        kind = hints[field.name]
        if typing.get_origin(kind) in (typing.Union, types.UnionType):
            kind = next(k for k in typing.get_args(kind) if k is not type(None))
        default = "" if field.default in (None, dataclasses.MISSING) else f" ({field.default})"
        text = (about.get(field.name, field.name.replace("_", " ")) + default).replace("%", "%%")  # argparse reads % its own way
        if kind is bool:
            yield (
                field.name,
                dict(action=argparse.BooleanOptionalAction if field.default is True else "store_true", default=None, help=text),
            )
        elif kind in KINDS:
            metavar, made = KINDS[kind]
            yield field.name, dict(metavar=metavar, type=made, help=text)
        elif typing.get_origin(kind) is typing.Literal:
            choices = typing.get_args(kind)
            yield field.name, dict(choices=choices, type=type(choices[0]), metavar="NAME", help=f"{', '.join(map(str, choices))}: {text}")

"""Docstrings of this package in the form that the reference takes: examples under a heading, an entry for each of several arguments.

An extension of griffe, which reads the docstrings (`make docs`).
"""

import re

import griffe

_SEVERAL = re.compile(r"^    (\w+(?:, \*{0,2}\w+)+): (.*)$")


def laid(text):
    """A docstring with `Examples:` before its first `>>>`, and `a, b: …` as two entries."""
    lines, out = text.split("\n"), []
    for i, line in enumerate(lines):
        if line.startswith(">>>"):
            return "\n".join([*_entries(out), "Examples:", *(f"    {rest}" if rest else "" for rest in lines[i:])])
        out.append(line)
    return "\n".join(_entries(out))


def _entries(lines):
    found, i = [], 0
    while i < len(lines):
        several, i = _SEVERAL.match(lines[i]), i + 1
        if several is None:
            found.append(lines[i - 1])
            continue
        more = []
        while i < len(lines) and lines[i].startswith("        "):
            more.append(lines[i])
            i += 1
        for name in several[1].split(", "):
            found += [f"    {name}: {several[2]}", *more]
    return found


class Docstrings(griffe.Extension):
    def on_object(self, *, obj, loader, **kwargs):
        if obj.docstring:
            obj.docstring.value = laid(obj.docstring.value)

"""How a Rule crosses into an op: as a list of numbers, one for each field, in the order of the fields.

    bool       0 or 1
    int        as it is; the numbers are fp64, so up to 2^53
    float      as it is
    Literal    the place of the text among the texts that the field allows

No text crosses into C++: the equation's twin in `csrc/equations` reads the numbers by their places.
"""

import functools
import typing


class Numbers:
    """Packs the rules of one class `Rule` and reads them back.

    >>> class Rule(typing.NamedTuple):
    ...     hard: bool = False
    ...     surrogate: typing.Literal["zif", "triangle"] = "zif"
    >>> numbers = Numbers(Rule)
    >>> numbers.pack(Rule(True, "triangle"))
    [1.0, 1.0]
    >>> numbers.unpack([1.0, 1.0])
    Rule(hard=True, surrogate='triangle')
    """

    def __init__(self, Rule):
        self.Rule = Rule
        kinds = [kind_of(Rule, name) for name in Rule._fields]
        self._to = tuple({text: float(i) for i, text in enumerate(k)} if isinstance(k, tuple) else None for k in kinds)
        self._back = tuple(_reader(k) for k in kinds)
        self.packed = functools.lru_cache(256)(self.pack)  # the same list for the same rule: it must not be changed

    def pack(self, rule):
        """A Rule -> a list of floats."""
        return [float(value) if table is None else table[value] for value, table in zip(rule, self._to)]

    def unpack(self, numbers):
        """A list of floats -> a Rule."""
        if len(numbers) != len(self._back):
            raise ValueError(f"rule has {len(numbers)} numbers, it takes {len(self._back)}: {', '.join(self.Rule._fields)}")
        return self.Rule(*(read(n) for read, n in zip(self._back, numbers)))


def kind_of(Rule, name):
    """bool, int or float, or the texts that a field of `Rule` allows; None if its type is none of these."""
    kind = typing.get_type_hints(Rule).get(name)
    if typing.get_origin(kind) is typing.Literal and all(isinstance(text, str) for text in typing.get_args(kind)):
        return typing.get_args(kind)
    return kind if kind in (bool, int, float) else None


def _reader(kind):
    return (lambda n: kind[int(n)]) if isinstance(kind, tuple) else kind

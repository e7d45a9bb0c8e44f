"""Networks that give several tensors: a run carries one tensor, in which the values of an image lie one after the other. `Outputs` splits it."""

import math
from typing import Any, NamedTuple

import torch
from torch.utils import _pytree as pytree


class Outputs(NamedTuple):
    """names: the keys of the tensors in what the network gives: "out", "0", "boxes.1".  shapes: of each tensor, for one image.
    tree: the structure that the network gives, of dictionaries, lists and tuples, with each tensor replaced by its number.
    read: the name of the tensor that is read, if only one of several is read."""

    names: list[str]
    shapes: list[list[int]]
    tree: Any
    read: str | None = None

    def unpacked(self, y: torch.Tensor) -> Any:
        """y [..., values of an image] -> what the network gives, each tensor [..., *its shape]. A single tensor comes in its own shape."""
        if len(self.names) == 1:
            return pytree.tree_map(lambda i: y, self.tree)
        each = [part.reshape(*part.shape[:-1], *shape) for part, shape in zip(self.parts(y), self.shapes)]
        return pytree.tree_map(lambda i: each[i], self.tree)

    def parts(self, y: torch.Tensor) -> Any:
        """y [..., values of an image] -> the values of each tensor, one after the other; a single tensor as it is."""
        return [y] if len(self.names) == 1 else y.split([math.prod(shape) for shape in self.shapes], -1)

    def packed(self, given: Any) -> torch.Tensor:
        """The inverse of `unpacked`: one tensor, from what the network gives for a batch."""
        found = leaves(given)
        return joined([found[self.read]] if self.read is not None else list(found.values()))


def leaves(given: Any) -> dict[str, Any]:
    """{name: value} of what a network gives, in order; "" is the name of a value that stands alone.

    Raises:
        ValueError: two have the same name.
    """
    found: dict[str, Any] = {}
    for path, value in pytree.tree_flatten_with_path(given)[0]:
        name = ".".join(_key(part) for part in path)
        if name in found:
            raise ValueError(f"net gives two outputs under the name {name!r}: give them other keys")
        found[name] = value
    return found


def _key(part):
    """A key, an index or a field."""
    return str(next(getattr(part, name) for name in ("key", "idx", "name") if hasattr(part, name)))


def joined(values: list[torch.Tensor]) -> torch.Tensor:
    """One tensor [B, all values of an image]; a single one as it is."""
    return values[0] if len(values) == 1 else torch.cat([value.reshape(value.size(0), -1) for value in values], 1)


def plain(tree: Any) -> Any:
    """The same tree with plain dictionaries, lists and tuples in place of their subclasses. Keys are texts and whole numbers."""
    if isinstance(tree, dict):
        return {k if type(k) in (str, int) else str(k): plain(v) for k, v in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [plain(v) for v in tree] if isinstance(tree, list) else tuple(plain(v) for v in tree)
    return tree


def outputs_of(gm: torch.fx.GraphModule) -> Outputs | None:
    """The `Outputs` of a graph; None if the graph gives a single bare tensor."""
    return next(iter(gm.graph.find_nodes(op="output"))).meta.get("outputs")

"""Where the images lie in every value of an exported graph. The one unknown size shows it, followed through moves, merges and repeats."""

import math

import torch

from snnfast.graph import aten
from snnfast.graph.rows import Rows

VIEWS = ("view", "_unsafe_view", "reshape", "flatten", "unflatten")


class Places:
    """lie: {exported node: `Rows`}.  uniform: constants whose numbers are all equal, in any order. symbol: the size of the batch."""

    def __init__(self, symbol):
        self.symbol, self.lie, self.uniform = symbol, {}, set()

    def times(self, size):
        """k of a size that is k times the batch's, or None."""
        found = {int(size.node.expr.subs(self.symbol, n)) / n for n in (6, 35, 1001)}
        return int(*found) if len(found) == 1 and min(found) >= 1 and float(*found).is_integer() else None

    def rows(self, value):
        """(dimension, places for each image along it) of a value, or None if the images do not lie along one dimension."""
        if not isinstance(value, torch.Tensor):
            return None
        found = [(axis, n) for axis, n in enumerate(value.shape) if isinstance(n, torch.SymInt) and n.node.expr.free_symbols]
        many = [self.times(n) for _, n in found]
        return (found[0][0], many[0]) if len(found) == 1 and many[0] else None

    def put(self, node, told):
        """The `Rows` of the value of a node that images reach, which are also noted in `lie`. told: the node, for a message.

        Raises:
            ValueError: the node does not keep the images apart and in order.
        """
        value = _first(node)
        rows = self.rows(value)
        if rows is None:
            raise ValueError(f"{told} does not give a value per image, so images, and with them time steps, would be mixed")
        outer = {self._through(node, source, value, rows, told) for source in node.all_input_nodes if source in self.lie}
        outer.discard(None)
        if len(outer) > 1:
            raise ValueError(f"{told} takes values whose images lie in different orders")
        self.lie[node] = Rows(*rows, *outer)
        return self.lie[node]

    def put_constant(self, node, told):
        """The `Rows` of a constant whose size depends on the batch; None for a constant without images."""
        value = _first(node)
        if not isinstance(value, torch.Tensor) or not any(isinstance(n, torch.SymInt) for n in value.shape):
            return None
        name, rows = aten.name_of(node.target), self.rows(value)
        if name in aten.CREATED:
            self.uniform.add(node)
        if rows is None:
            raise ValueError(f"{told} makes a constant of a size that is not a multiple of the number of images")
        if any(source in self.lie for source in node.all_input_nodes) or rows[1] == 1:
            return self.put(node, told)
        if node not in self.uniform and name != "repeat":
            raise ValueError(f"{told} makes a constant with more than one place for each image, whose order is not known")
        self.lie[node] = Rows(*rows)
        return self.lie[node]

    def _through(self, node, source, value, rows, told):
        """`outer` of a node's value, as one of its sources determines it; None if that source is a constant of equal numbers."""
        before, given, name = self.lie[source], _first(source), aten.name_of(node.target)
        if name is None:  # one of several values
            return before.outer
        arguments = aten.arguments(node)
        along = aten.op_of(node.target).along
        dims = arguments[along] if along else ()
        dims = (dims,) if isinstance(dims, int) else dims or ()
        if name != "stack" and any(d % given.dim() == before.axis for d in dims):
            raise ValueError(f"{told} works along the images of a batch, with which time is merged here")
        if source in self.uniform:
            return None
        if name in VIEWS:
            ahead, there = math.prod(given.shape[: before.axis]) * before.outer, math.prod(value.shape[: rows[0]])
            if ahead % there or rows[1] % (ahead // there):
                raise ValueError(f"{told} cuts through the images of a batch, with which time is merged here")
            return ahead // there
        if name == "repeat":  # the copies of the whole dimension lie in front of the images
            return before.outer * int(arguments["repeats"][rows[0]])
        if name == "repeat_interleave" and arguments.get("dim") is None and given.dim() > 1:
            raise ValueError(f"{told} cuts through the images of a batch, with which time is merged here")
        if name == "index":
            self._check_index(source, arguments, before, told)
        return before.outer

    def _check_index(self, source, arguments, before, told):
        """Refuses places that are given by numbers: with time merged in, such places are those of the first step alone."""
        if source is not arguments["self"]:
            raise ValueError(f"{told} takes places by the numbers of images, with which time is merged here")
        if before.axis < len(arguments["indices"]) and arguments["indices"][before.axis] is not None:
            raise ValueError(f"{told} takes some of the images of a batch, with which time is merged here")


def _first(node):
    value = node.meta["val"]
    return value[0] if isinstance(value, (tuple, list)) else value

"""Channels: the sums that batch norm asks of each, and the line that its backward adds. Schemas, fakes, and means and variances from the sums."""

import torch

from snnfast.engines import reference
from snnfast.engines.reference import channels
from snnfast.ops import library


def _sums(x, pivot, inner):
    return channels.sums(reference.moments, x, pivot, inner)


def _add(y, x, line, inner):
    channels.add(reference.moments, y, x, line, inner)


channel_sums = library.define("channel_sums(Tensor x, Tensor pivot, int inner) -> Tensor", _sums)
channel_add = library.define("channel_add(Tensor(a!) y, Tensor x, Tensor line, int inner) -> ()", _add)
library.fake("channel_sums", lambda x, pivot, inner: pivot.new_empty((2, pivot.numel())))
library.fake("channel_add", lambda *args: None)


def moments(x: torch.Tensor, C: int, inner: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(mean, biased variance) of each of C channels, in fp64. x: [N] in memory order, at least one number for each."""
    pivot = x[: C * inner : inner].double().contiguous()
    total, squares = channel_sums(x, pivot, inner).div_(x.numel() // C)
    # Rounding must not leave a variance below 0; NaN stays.
    return pivot + total, squares.addcmul_(total, total, value=-1).clamp_(min=0)


def totals(x: torch.Tensor, C: int, inner: int) -> torch.Tensor:
    """The sum of each of C channels, in fp64. x: [N] in memory order."""
    if C == x.numel():
        return x.double()
    if library.is_transformed():  # torch.func's values are several in one, which only torch's own functions take
        return x.double().view(-1, C, inner if C > 1 else x.numel()).sum((0, 2))
    inner = inner if C > 1 else max(1, x.numel())
    return channel_sums(x, torch.zeros(C, dtype=torch.float64, device=x.device), inner)[0]

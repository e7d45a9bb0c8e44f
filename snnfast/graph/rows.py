"""Where the images lie in a value, so that a run can lay time and batch into that place."""

from typing import NamedTuple

import torch


class Rows(NamedTuple):
    """Dimension `axis` is outer * images * inner, merged in this order, with `times` = outer * inner places for each image.

    [B, C] has Rows(0); windows [B * 4, C] have Rows(0, 4); tokens before images, [N, B, C], Rows(1), and flattened, [N * B, C], Rows(0, N, N).
    """

    axis: int
    times: int = 1
    outer: int = 1

    @property
    def first(self) -> bool:
        """Whether images come first, one place each."""
        return self == (0, 1, 1)

    def fits(self, t: torch.Tensor, images: int) -> bool:
        """Whether t has places for so many images."""
        return t.dim() > self.axis and t.size(self.axis) == self.times * images

    def by_image(self, t: torch.Tensor) -> torch.Tensor:
        """[..., outer * B * inner, ...] -> [B, ...]"""
        if self.times > 1:
            return t.unflatten(self.axis, (self.outer, -1, self.times // self.outer)).movedim(self.axis + 1, 0)
        return t.movedim(self.axis, 0) if self.axis else t

    def back(self, t: torch.Tensor) -> torch.Tensor:
        """The inverse of `by_image`."""
        if self.times > 1:
            return t.movedim(0, self.axis + 1).flatten(self.axis, self.axis + 2)
        return t.movedim(0, self.axis) if self.axis else t

    def repeated(self, t: torch.Tensor, steps: int) -> torch.Tensor:
        """The value repeated for `steps` steps, time in front of the images."""
        if self.outer > 1:
            return self.back(torch.cat([self.by_image(t)] * steps))
        return torch.cat([t] * steps, self.axis)  # cat keeps the memory layout


def rows_of(node: torch.fx.Node) -> Rows | None:
    """The `Rows` of a node's value; None for a value without images; images first if nothing is noted."""
    return node.meta.get("rows", Rows(0))

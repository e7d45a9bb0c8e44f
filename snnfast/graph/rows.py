"""Where the images lie in a value, so that a run can lay time and batch into that place."""

from typing import NamedTuple

import torch


class Rows(NamedTuple):
    """Along dimension `axis`, `times` places for each image: `outer` for each of what lies in front of the images there, the others behind.

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
        """What `by_image` was given."""
        if self.times > 1:
            return t.movedim(0, self.axis + 1).flatten(self.axis, self.axis + 2)
        return t.movedim(0, self.axis) if self.axis else t

    def repeated(self, t: torch.Tensor, steps: int) -> torch.Tensor:
        """The value at every one of `steps`, time before images."""
        if self.outer > 1:
            return self.back(torch.cat([self.by_image(t)] * steps))
        return torch.cat([t] * steps, self.axis)  # which keeps its layout


def rows_of(node: torch.fx.Node) -> Rows | None:
    """The `Rows` of a node's value, None of one that has no images; images first where nothing is noted."""
    return node.meta.get("rows", Rows(0))

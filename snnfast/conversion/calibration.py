"""Calibration images: read batch by batch, as often as they are needed, and not kept together, unless a generator gives them."""

from collections.abc import Iterable, Iterator

from torch import Tensor

from snnfast import checks
from snnfast.data.batches import parts_of


class Images:
    """Batches of images, of a tensor [B, ...] or of an iterable of tensors, of (images, labels) or of dictionaries.

    Every iteration goes through the data anew. The batches of a generator, which runs only once, are kept in a list.
    """

    def __init__(self, data: Tensor | Iterable, name: str = "calibrate"):
        """name: of the argument that gave them, for messages."""
        self.name = name
        if not hasattr(data, "__iter__"):
            raise TypeError(f"{name} must be images [B, ...] or an iterable of batches, got {type(data).__name__}")
        self.like: tuple | None = None
        self.data = [data] if isinstance(data, Tensor) else list(data) if isinstance(data, Iterator) else data
        first = next(iter(self), None)
        if first is None:
            raise ValueError(f"{name} gave no images")
        self.first: Tensor = first

    def __iter__(self) -> Iterator[Tensor]:
        for batch in self.data:
            images, _ = parts_of(batch, self.name)
            checks.tensor(self.name, images)
            if not images.dim() or not images.size(0):
                continue
            shape, dtype = images.shape[1:], images.dtype
            if self.like not in (None, (shape, dtype)):
                told = [f"{list(s)}, {checks.dtype_name(d)}" for s, d in ((shape, dtype), self.like)]
                raise ValueError(
                    f"{self.name} must be images of one shape and dtype; one of a batch is {told[0]}, one of the first is {told[1]}"
                )
            self.like = shape, dtype
            yield images

    def largest(self) -> float:
        """The largest |value|."""
        return max(float(x.abs().max()) for x in self if x.numel())

    def samples(self, many: int) -> list[Tensor]:
        """Up to `many` images [1, ...], spread evenly over the first batch."""
        n = self.first.size(0)
        places = sorted({round(k * (n - 1) / max(1, many - 1)) for k in range(many)})
        return [self.first[i : i + 1] for i in places]

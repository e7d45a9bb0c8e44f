"""One batch of anybody's loader: images, and labels where it has any."""

from collections.abc import Mapping
from typing import Any

import torch

from snnfast import checks

# Names in batches that are dictionaries, as those of Hugging Face's data sets are; the first that is there is taken.
IMAGES = ("pixel_values", "image", "images", "img", "input", "inputs", "x")
LABELS = ("labels", "label", "target", "targets", "y")


def parts_of(batch: Any, name: str) -> tuple[Any, Any]:
    """(images, labels) of a batch: a tensor, (images, labels), or a dictionary of them; labels are None where there are none.

    name: the argument the batch came by, for a message.

    Raises:
        TypeError: it is none of these.
    """
    if isinstance(batch, Mapping):
        images = next((k for k in IMAGES if k in batch), None)
        if images is None:
            raise TypeError(
                f"{name} gives dictionaries with {', '.join(map(str, list(batch)[:10]))}; images are taken from {', '.join(IMAGES)}"
            )
        return batch[images], next((batch[k] for k in LABELS if k in batch), None)
    if isinstance(batch, (tuple, list)):
        return (batch[0], batch[1] if len(batch) > 1 else None) if batch else (None, None)
    return batch, None


def pair(batch: Any, whole: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """(images [B, ...], labels [B], int64) of one batch of a loader. whole: whether images may be whole numbers, as those of words are.

    Raises:
        TypeError, ValueError: it has no labels, or of another form.
    """
    x, y = parts_of(batch, "loader")
    if y is None or (isinstance(batch, (tuple, list)) and len(batch) != 2):
        told = f"{len(batch)} parts" if isinstance(batch, (tuple, list)) else type(batch).__name__
        raise TypeError(f"loader must give (images, labels), got {told}: labels are needed")
    if not whole or not isinstance(x, torch.Tensor):
        checks.tensor("images", x)
    if not isinstance(y, torch.Tensor):
        raise TypeError(f"labels must be a torch.Tensor, got {type(y).__name__}")
    if y.shape != x.shape[:1]:
        raise ValueError(f"labels must be a tensor [B] beside images [B, ...] of shape {tuple(x.shape)}, got shape {tuple(y.shape)}")
    if y.is_floating_point() or y.dtype == torch.bool:
        raise TypeError(f"labels must be whole numbers, got dtype {checks.dtype_name(y.dtype)}")
    return x, y.long()

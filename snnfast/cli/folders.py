"""Folders of results: what is there is not overwritten unasked, and pictures are left out where nothing can draw them."""

from pathlib import Path
from typing import Any

from snnfast.reports import plots


def free(folder: str, result: str, overwrite: bool) -> Path:
    """The folder, if it does not hold `result` yet, or may be overwritten.

    Raises:
        ValueError: it does.
    """
    path = Path(folder)
    if (path / result).exists() and not overwrite:
        raise ValueError(f"{path} holds {result} already: --overwrite replaces it, --out names another folder")
    return path


def can_draw(console: Any) -> bool:
    """Whether matplotlib is there; a line says so if it is not."""
    found = plots.can_draw()
    if not found:
        console.print("pictures are left out, matplotlib is not installed: pip install snnfast[demo]", soft_wrap=True)
    return found

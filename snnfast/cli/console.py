"""Where the commands print."""

from typing import Any

from rich.console import Console as _Console


class Console(_Console):
    """rich's, which would end the program with 1, and no word, where nobody reads the output any more."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def plain_console(**options: Any) -> Console:
    """One that takes text as it is: names of files and settings have brackets and numbers in them."""
    return Console(highlight=False, markup=False, **options)

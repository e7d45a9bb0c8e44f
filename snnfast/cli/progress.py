"""The progress bar of the commands: what is done, how many, the time gone and left, and a note. Nothing where the output is no terminal."""

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def progress(console):
    """A rich Progress; every task has a field `note`."""
    name, note = TextColumn("{task.description:<22}"), TextColumn("{task.fields[note]}")
    columns = (name, BarColumn(12), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), note)
    return Progress(*columns, console=console, disable=not console.is_terminal)

"""The command `snnfast`."""

from snnfast.cli.main import main  # noqa: F401

"""`snnfast.training.fit` under its former name, until 0.3."""

from snnfast.training.fit import fit  # noqa: F401

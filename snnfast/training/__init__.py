"""Training of quantised networks."""

from snnfast.training.fit import fit  # noqa: F401

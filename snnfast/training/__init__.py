"""Training of quantised networks."""

from snnfast.training import lamb as _lamb  # noqa: F401  (which makes LAMB known)
from snnfast.training.fit import fit  # noqa: F401

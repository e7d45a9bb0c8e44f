"""Cases of which `make test` runs a share, and `make test-thorough` all."""

import pytest


def every(step, values):
    """Every `step`-th of the values as it is; the others are left to --thorough."""
    return [value if i % step == 0 else pytest.param(value, marks=pytest.mark.thorough) for i, value in enumerate(values)]

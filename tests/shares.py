"""Cases of which `make test` runs a share, and `make test-thorough` all."""

import pytest


def every(step, values):
    """Every `step`-th of the values as it is; the others are left to --thorough."""
    return [value if i % step == 0 else pytest.param(value, marks=pytest.mark.thorough) for i, value in enumerate(values)]


def quick(values, *names):
    """The values of these names as they are; the others are left to --thorough."""
    return [value if value in names else pytest.param(value, marks=pytest.mark.thorough) for value in values]

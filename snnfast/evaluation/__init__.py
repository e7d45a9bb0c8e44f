"""Accuracy after every number of time steps, and what goes with it."""

from snnfast.evaluation.statistics import Statistics  # noqa: F401

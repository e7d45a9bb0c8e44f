"""`snnfast.evaluation.statistics` under its former name, until 0.3."""

from snnfast.evaluation.statistics import Statistics  # noqa: F401

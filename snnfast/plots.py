"""`snnfast.reports.plots` under its former name, until 0.3."""

from snnfast.reports.plots import curves  # noqa: F401

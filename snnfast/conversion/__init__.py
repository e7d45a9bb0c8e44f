"""From a trained network to a spiking one: the methods, how images come in, and thresholds from data."""

from snnfast.conversion import methods
from snnfast.conversion.inputs import Analog, Constant, Poisson, Rate
from snnfast.conversion.relu_thresholds import Percentile

__all__ = ["Analog", "Constant", "Percentile", "Poisson", "Rate", "methods"]

"""The conversion methods, one file each, in the order in which `METHODS` names them."""
# ruff: noqa: I001

from snnfast.conversion.method import REGISTRY, Method, method_of, register
from snnfast.conversion.methods.plain import IF, OwnNeuron
from snnfast.conversion.methods.stbif import STBIF
from snnfast.conversion.methods.snm import SNM
from snnfast.conversion.methods.srp import SRP
from snnfast.conversion.methods.cos import COS

METHODS = tuple(REGISTRY)

__all__ = ["COS", "IF", "METHODS", "Method", "OwnNeuron", "SNM", "SRP", "STBIF", "method_of", "register"]

"""The conversion methods, one file each, in the order in which `METHODS` names them."""
# ruff: noqa: I001

from snnfast.conversion.method import REGISTRY, Method, method_of, register
from snnfast.conversion.methods.plain import IF, OwnNeuron
from snnfast.conversion.methods.stbif import STBIF
from snnfast.conversion.methods.snm import SNM
from snnfast.conversion.methods.srp import SRP
from snnfast.conversion.methods.cos import COS
from snnfast.conversion.methods.quanta import SignedQuanta
from snnfast.conversion.methods.group import Group

METHODS = tuple(REGISTRY)

__all__ = ["COS", "IF", "METHODS", "SNM", "SRP", "STBIF", "Group", "Method", "OwnNeuron", "SignedQuanta", "method_of", "register"]

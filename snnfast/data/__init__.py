"""Data sets by name, and their preprocessing."""

from snnfast.data.augment import Cutout, seed_all, shift  # noqa: F401
from snnfast.data.handwritten import digits  # noqa: F401
from snnfast.data.preprocessing import PREPROCESSING, preprocessing_of  # noqa: F401
from snnfast.data.sets import EVENTS, NAMES, PICTURES, Data, declare_operators, load  # noqa: F401

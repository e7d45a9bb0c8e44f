"""Layers: the neurons IF, LIF and PLIF, and the quantised activations that they stand for."""

from snnfast.nn.joined import JoinedInputs  # noqa: F401
from snnfast.nn.masking import SpikeMask, rows_are  # noqa: F401
from snnfast.nn.neurons import IF, LIF, PLIF, is_quantised, levels_of, qcfs_neuron, register_quantised, rungs_of, threshold_of  # noqa: F401
from snnfast.nn.quanta import Quanta  # noqa: F401
from snnfast.nn.quantised import (  # noqa: F401
    CEQCFS,
    CQCFS,
    CSQCFS,
    EQCFS,
    HEQCFS,
    HQCFS,
    HSQCFS,
    LSQ,
    NEQCFS,
    NQCFS,
    NSQCFS,
    QCFS,
    SQCFS,
    Quantised,
    inverse_softplus,
    spread,
)

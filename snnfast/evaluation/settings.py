"""What the results of an evaluation depend on, beside the network and the data."""

import dataclasses
from dataclasses import dataclass

import torch

from snnfast import checks
from snnfast.evaluation.statistics import Statistics
from snnfast.runtime.network import SpikingNetwork, check_at, powers_of_two
from snnfast.runtime.number_formats import check_dtype

# The form of statistics in a file: since form 2 they count what enters products, since 3 what lies within half a level, since 4 products of values.
COUNTED = 4
MOST_WINDOWS = 256  # most steps for delayed read-outs: every pair of steps is one read-out


@dataclass(frozen=True)
class EvaluationSettings:
    """Two runs of one network and data with equal settings have equal results, to the last bit with `deterministic`. A run that continues another
    run must have all its settings. The other choices of a run (batch, chunk, memory, workers) change only time and memory.

    Attributes: as in `snnfast.evaluate`; `at` is a list, `device` the kind of device, `products` None until the network says which.
    """

    T: int
    at: list[int]
    dtype: str
    deterministic: bool
    start_stop: bool
    statistics: bool
    device: str
    products: str | None = None

    @classmethod
    def checked(
        cls, snn: SpikingNetwork, T, at, dtype, deterministic, start_stop, statistics, device: torch.device
    ) -> "EvaluationSettings":
        """The settings of a run of `snn`, checked; refuses wrong ones by name."""
        checks.steps("T", T)
        snn.method.check_T(T)
        for name, value in (("deterministic", deterministic), ("start_stop", start_stop)):
            checks.yes_or_no(name, value)
        if not isinstance(statistics, (bool, Statistics)):
            raise TypeError(
                f"statistics must be True, False or a snnfast.evaluation.statistics.Statistics, got {type(statistics).__name__}"
            )
        at = powers_of_two(T) if at is None else check_at(at, T)
        if start_stop and snn.clock.differential:
            raise ValueError("start_stop reads means of later steps; in mode 'differential' the sum from the first step on is the answer")
        if start_stop and len(at) > MOST_WINDOWS:
            raise ValueError(f"start_stop reads every pair of steps: give at= with at most {MOST_WINDOWS} of them, got {len(at)}")
        return cls(T, at, check_dtype(dtype, device), bool(deterministic), bool(start_stop), bool(statistics), device.type)

    def identity(self) -> dict:
        """Plain values, for a file."""
        return dataclasses.asdict(self) | {"statistics": self.statistics and f"form {COUNTED}"}

    def told(self) -> dict:
        """The settings that a report lists as such; the report has its own places for the others."""
        return {name: getattr(self, name) for name in ("T", "at", "dtype", "products", "deterministic")}

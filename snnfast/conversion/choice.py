"""The automatic choice of a method, where none was named: the trials, the one that was taken, and why."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from snnfast.conversion.method import options as options_of_methods

# The function that chooses: `snnfast/evaluation/choose.py` puts its own here, because it measures and so lies in a layer above.
chooser: list[Callable[..., Any]] = []


@dataclasses.dataclass
class Trial:
    """One way to convert a network, and what was measured of it on images that set no threshold.

    method: its name. options: of `convert`, beside the method. agreement: number of images with the network's answer. images: number of images
    measured. energy_ratio: E_SNN/E_ANN at the asked T. answers: how many different answers the network gave to these images. refused: why the
    trial could not be converted or run, else None.
    """

    method: str
    options: dict
    agreement: int = 0
    images: int = 0
    energy_ratio: float | None = None
    answers: int = 0
    refused: str | None = None

    @property
    def name(self) -> str:
        """Method and options, for people."""
        return ", ".join([self.method, *(f"{key} = {value}" for key, value in self.options.items())])

    @property
    def share(self) -> float:
        return self.agreement / self.images if self.images else 0.0

    def interval(self) -> tuple[float, float]:
        """The agreement to expect on other images of the kind, in %: Wilson's interval of 95 % (JASA 1927)."""
        n, p, z = self.images, self.share, 1.96
        middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return 100 * (middle - half) / (1 + z * z / n), 100 * (middle + half) / (1 + z * z / n)


@dataclasses.dataclass
class Choice:
    """Why a network was converted as it was: `print(snn.choice)`.

    trials: in the order in which they were made. taken: the trial whose conversion the network is. T: steps. energy: the largest E_SNN/E_ANN that
    the caller allowed. target: the share of agreement that ends the search. loss: in which layer the taken conversion loses most, and how, by
    `snnfast.diagnose`.
    """

    trials: list[Trial]
    taken: Trial
    T: int
    energy: float | None
    target: float
    loss: str = ""

    def why(self) -> str:
        """The reason, one sentence."""
        t, within = self.taken, "" if self.energy is None else f" within {self.energy:g} of the network's energy"
        got = f"{t.agreement} of {t.images} images that set no threshold have the network's answer at T = {self.T}"
        if t.share >= self.target:
            return (
                f"{t.name}: {got}, the first of {len(self.trials)} tried, from the simplest spike on, with {100 * self.target:g} %{within}"
            )
        return f"{t.name}: {got}, the most of {len(self.trials)} tried{within}; none reached {100 * self.target:g} %"

    def falls_short(self) -> str:
        """What to know of a choice that does not reach its target, one sentence; "" of one that does."""
        t = self.taken
        if t.share >= self.target:
            return ""
        price = "" if t.energy_ratio is None else f", for {t.energy_ratio:.2g} times the network's energy"
        within = "" if self.energy is None else f" within {self.energy:g} times its energy"
        got = f"{t.name} has {t.agreement} of {t.images}{price}"
        return f"no method reached {100 * self.target:g} % of the network's answers at T = {self.T}{within}; {got}"

    def expected(self) -> str:
        """What to expect on other images, one sentence."""
        low, high = self.taken.interval()
        one = ", which all have one answer and so say little" if self.taken.answers == 1 else ""
        return f"on other images of the kind expect {low:.0f} to {high:.0f} % (95 %, from {self.taken.images} images{one})"

    def __str__(self) -> str:
        lines = [f"{'':<2}{'tried':<44}{'agreement':>12}{'E_SNN/E_ANN':>13}"]
        for t in self.trials:
            energy = "–" if t.energy_ratio is None else f"{t.energy_ratio:.3f}"
            told = f"{t.agreement} of {t.images}" if t.refused is None else "–"
            lines.append(
                f"{'> ' if t is self.taken else '':<2}{t.name:<44}{told:>12}{energy:>13}" + (f"  {t.refused}" if t.refused else "")
            )
        return "\n".join([*lines, self.why(), self.expected(), *([self.loss] if self.loss else [])])


def refuse_fields(options: dict) -> None:
    """Refuses fields of methods beside T and energy, which choose a method."""
    fields = sorted(set(options) & options_of_methods())
    if fields:
        raise ValueError(f"T and energy choose a method: give no fields of one with them, got {', '.join(fields)}")


def chosen(net: Any, method: Any, T: int | None, energy: float | None, calibrate: Any, **options: Any) -> Any:
    """What `convert` gives for `T` and `energy`."""
    if method is not None or options.get("neuron") is not None:
        raise ValueError("T and energy choose a method: give no method or neuron with them")
    if T is None:
        raise ValueError("energy is of a number of steps: give T")
    if calibrate is None:
        raise ValueError("T chooses the method by images: give calibrate=")
    (choose,) = chooser
    return choose(net, calibrate, T, energy=energy, **options)

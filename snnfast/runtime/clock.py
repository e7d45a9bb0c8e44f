"""When the image comes in, and what the sum of the outputs says."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Clock:
    """What a run does beside its method.

    Attributes:
        amplitude: of Poisson input, or None where the image is a constant current.  seed: of its random numbers.
        mode: "per_step", a run answers with the mean of its outputs; or "differential", with their sum, see `snnfast/conversion/functions.py`.
        input_steps: of a differential run, in which the image comes in equal parts; 1: at once.
        readout: ("softmax" or "log_softmax", dimension) where the network ends in one: it is taken of the mean output.
    """

    amplitude: float | None = None
    seed: int = 0
    mode: str = "per_step"
    input_steps: int = 1
    readout: tuple | None = None

    @property
    def poisson(self):
        return self.amplitude is not None

    @property
    def differential(self):
        return self.mode == "differential"

    def answer(self, total, t):
        """What the sum of the first t outputs says, as a tensor of its own."""
        return total.clone() if self.differential else total / t

    def part(self, t):
        """(share of the image that step t = 0, 1, ... gets, the first step from t on at which that changes or constants end, or None)."""
        if not self.differential:
            return 1.0, None
        if t < self.input_steps:
            return 1.0 / self.input_steps, 1 if t == 0 else self.input_steps
        return 0.0, None

    def facts(self):
        """For a report: plain values."""
        if self.differential:
            return {"mode": self.mode, "input": "analog" if self.input_steps == 1 else f"rate, {self.input_steps} steps"}
        return {"input": "poisson", "amplitude": self.amplitude, "seed": self.seed} if self.poisson else {}

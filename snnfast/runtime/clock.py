"""When the image comes in, and how the answer is read from the sum of the outputs."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Clock:
    """The settings of a run that do not belong to its method.

    Attributes:
        amplitude: of Poisson input, or None if the image is a constant current.  seed: of the random numbers of Poisson input.
        mode: "per_step", a run answers with the mean of its outputs; or "differential", with their sum, see `snnfast/conversion/functions.py`.
        input_steps: the steps of a differential run over which the image comes in, in equal parts; 1: all of the image at once.
        readout: ("softmax" or "log_softmax", dimension) if the network ends in one, which is applied to the mean output.
        frames: whether a sample is frames of events [T, ...], one for each step, in place of an image.
    """

    amplitude: float | None = None
    seed: int = 0
    mode: str = "per_step"
    input_steps: int = 1
    readout: tuple | None = None
    frames: bool = False

    @property
    def poisson(self):
        return self.amplitude is not None

    @property
    def changes(self):
        """Whether the input is another one at every step."""
        return self.poisson or self.frames

    @property
    def differential(self):
        return self.mode == "differential"

    def at_a_step(self, x):
        """Of samples [B, ...], what the network sees at one step: for sizes."""
        return x[:, 0] if self.frames else x

    def answer(self, total, t):
        """The answer after t steps, from the sum of the first t outputs; always a new tensor."""
        return total.clone() if self.differential else total / t

    def part(self, t):
        """(share of the image that step t = 0, 1, ... gets, the next step at which the share changes or the constants end, or None)."""
        if not self.differential:
            return 1.0, None
        if t < self.input_steps:
            return 1.0 / self.input_steps, 1 if t == 0 else self.input_steps
        return 0.0, None

    def facts(self):
        """For a report: plain values."""
        if self.differential:
            return {"mode": self.mode, "input": "analog" if self.input_steps == 1 else f"rate, {self.input_steps} steps"}
        if self.frames:
            return {"input": "frames"}
        return {"input": "poisson", "amplitude": self.amplitude, "seed": self.seed} if self.poisson else {}

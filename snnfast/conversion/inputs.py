"""How the image comes in, as an object that owns its options; each has a name.

constant   a current at every step          `Constant`       mode "per_step"
poisson    random spikes                    `Poisson`        mode "per_step"
analog     all of it at the first step      `Analog`         mode "differential"
rate       equal parts at the first steps   `Rate`           mode "differential"
"""

from dataclasses import dataclass
from typing import ClassVar

from snnfast import checks, nn
from snnfast.conversion.calibration import Images
from snnfast.runtime.clock import Clock


@dataclass(frozen=True)
class Inputs:
    """The base of all kinds of inputs. name, mode: set by each class."""

    name: ClassVar[str]
    mode: ClassVar[str]

    def clock(self, net, batches: Images | None) -> Clock:
        """The clock of a run with these inputs. net: its first activation may say how many steps. batches: calibration images, or None."""
        return Clock(mode=self.mode)


@dataclass(frozen=True)
class Constant(Inputs):
    """The image as a current at every step."""

    name, mode = "constant", "per_step"


@dataclass(frozen=True)
class Poisson(Inputs):
    """Random spikes of the image, `amplitude` times its sign; see `snnfast/runtime/inputs.py`.

    Args:
        amplitude: the size of a spike; values beyond it saturate. Default: the largest |value| of the calibration images, or 1.
        seed: the seed of the random numbers, an integer >= 0.

    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), snnfast.nn.QCFS(levels=8, theta=1.0), torch.nn.Linear(8, 2))
    >>> snnfast.convert(net, inputs=snnfast.conversion.Poisson(seed=3))(torch.rand(3, 4), T=16).shape
    torch.Size([3, 2])
    """

    name, mode = "poisson", "per_step"
    amplitude: float | None = None
    seed: int = 0

    def __post_init__(self):
        checks.seed("seed", self.seed)
        if self.amplitude is not None:
            checks.number("amplitude", self.amplitude, positive=True)

    def clock(self, net, batches):
        amplitude = self.amplitude
        if amplitude is None:
            amplitude = 1.0 if batches is None else batches.largest()
        return Clock(checks.number("amplitude", amplitude, positive=True), self.seed)  # images of zeros give no amplitude > 0


@dataclass(frozen=True)
class Analog(Inputs):
    """All of the image at the first step."""

    name, mode = "analog", "differential"


@dataclass(frozen=True)
class Rate(Inputs):
    """The image in equal parts at the first steps.

    Args:
        steps: how many steps, >= 1. Default: the levels of the first activation.
    """

    name, mode = "rate", "differential"
    steps: int | None = None

    def __post_init__(self):
        if self.steps is not None:
            checks.steps("steps", self.steps)

    def clock(self, net, batches):
        first = next((m for m in net.modules() if nn.is_quantised(m)), None)
        steps = (1 if first is None else nn.levels_of(first)) if self.steps is None else self.steps
        return Clock(mode=self.mode, input_steps=steps)


KINDS: dict[str, type[Inputs]] = {kind.name: kind for kind in (Constant, Poisson, Analog, Rate)}
# Options of `convert`: {option: (name of the inputs, name of their field)}.
OPTIONS = {"amplitude": ("poisson", "amplitude"), "seed": ("poisson", "seed"), "input_steps": ("rate", "steps")}


def inputs_of(inputs: str | Inputs | None, **given) -> Inputs | None:
    """The `Inputs`: the given object, or one made from its name and from options of `convert`. Options that are None count as not given."""
    given = {k: v for k, v in given.items() if v is not None}
    if isinstance(inputs, Inputs) and not hasattr(inputs, "name"):
        raise TypeError(f"inputs must be one of {', '.join(kind.__name__ for kind in KINDS.values())}, got {type(inputs).__name__}")
    name = inputs.name if isinstance(inputs, Inputs) else None if inputs is None else checks.choice("inputs", inputs, tuple(KINDS))
    for option in given:
        if OPTIONS[option][0] != name:
            raise ValueError(f"{option} is of inputs={OPTIONS[option][0]!r}")
    if "input_steps" in given:
        checks.steps("input_steps", given["input_steps"])
    fields = {OPTIONS[option][1]: value for option, value in given.items()}
    if isinstance(inputs, Inputs):
        if fields:
            raise ValueError(f"{', '.join(given)}: give the fields of inputs to it, {type(inputs).__name__}({next(iter(fields))}=...)")
        return inputs
    return None if name is None else KINDS[name](**fields)


def of_mode(mode: str) -> list[str]:
    """The names of the inputs of a mode."""
    return [name for name, kind in KINDS.items() if kind.mode == mode]


def default_of(mode: str) -> Inputs:
    return KINDS[of_mode(mode)[0]]()

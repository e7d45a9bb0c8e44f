"""What a conversion method is: the neuron that replaces an activation, and what a run does before the steps that count.

A method is an object that owns all it does; its options are its fields. Each has a file in `conversion/methods`, and a name:

    if           the plain neuron                                                           `IF`
    stbif, snm   with negative spikes                                                       `STBIF`, `SNM`
    srp          tau steps first; then neurons whose potential ended near 0 or below are silent    `SRP`
    srp+stbif, srp+snm    the same, with negative spikes in the second phase                `SRP(negative="stbif")`
    cos          each layer's start voltage is calibrated on its first rho inputs           `COS`
    quanta       up to m quanta of theta/m a step, with negative ones                       `SignedQuanta`
    power        the same, a power of two of quanta                                         `SignedQuanta(ladder="power")`
    group        as quanta, without negative ones: m members of a group                     `Group`

`parity` is the arithmetic of the methods' authors: normalised units (v += x/theta, fire at 1) instead of volts; for quanta, power and group volts
instead of normalised units; for snm volts, a start at 0 and the float memory. All else is the same function.
"""

import dataclasses
from typing import Any, ClassVar

import torch

from snnfast import checks, nn
from snnfast.ops.iaf import rule_of

REGISTRY: dict[str, Any] = {}  # name -> what makes the method from its fields


def register(name, **fields):
    """Makes a class of methods known under a name, with these fields set."""

    def known(cls):
        REGISTRY[name] = (cls, fields)
        return cls

    return known


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """What every method has.

    Args:
        v0: start voltage in units of theta (in quanta, if neurons send quanta): a number, or a dictionary of numbers or tensors by layer name.
            None: the method's own.
        parity: the arithmetic of the method's authors; for comparison with their programs.
    """

    v0: Any = None
    parity: bool = False

    citation: ClassVar[str] = ""  # BibTeX of the method, beside that of the activations
    least_T: ClassVar[int] = 0  # inputs that each layer sees at once, before its first step
    rehearsal: ClassVar[int] = 0  # steps that a run takes before it counts
    bytes_per_neuron: ClassVar[int] = 0  # bytes of state beside the potential and the count
    told: ClassVar[tuple] = ("v0", "caps")  # the keywords of the neuron that a report names

    def __post_init__(self):
        self.check_rule({k: v for k, v in self.neuron().items() if k not in ("v0", "by_number")})

    @property
    def modes(self):
        """The modes of `convert` in which the method runs."""
        return ("per_step",)

    @property
    def own_T(self):
        """The steps of a run for which the caller asks none; None: those of any network."""

    @property
    def own_v0(self):
        """The start voltage for a layer, or for all layers, if the caller gives none."""
        return 0.5

    def check_rule(self, rule):
        """Refuses numbers that its neuron does not take."""
        rule_of(**rule)

    @property
    def name(self):
        """The name in reports and on the command line; that of the class where it was not registered."""
        fits = (name for name, (cls, own) in REGISTRY.items() if cls is type(self) and all(getattr(self, k) == v for k, v in own.items()))
        return next(fits, type(self).__name__)

    def neuron(self):
        """Keywords of `layer` for the steps that count."""
        return {"unit": "normalised" if self.parity else "volts", "v0": self.own_v0 if self.v0 is None else self.v0}

    def layer(self, theta, differential=False, **keywords):
        """The neuron layer with these keywords. theta: the threshold of its activation; in mode "differential" the size of a level."""
        return nn.IF(theta=theta, **keywords)

    def has_phases(self):
        """Whether it runs steps before those that count, or looks at the first steps at once."""
        looks = any(getattr(type(self), part) is not getattr(Method, part) for part in ("before", "start"))
        return looks or self.least_T > 1

    def before(self, run, chunk):
        """What `run` does before its first step that counts, `chunk` steps at a time."""

    def start(self, neuron, current, constant):
        """Options of one neuron layer for its first call, from its current: [t, B, ...], or [B, ...] of a constant one."""
        return {}

    def citations(self):
        """BibTeX entries."""
        return (self.citation,) if self.citation else ()

    def own_facts(self):
        """Settings beside v0 and caps, for a report."""
        return {}

    def facts(self):
        """Name and settings, for a report: plain values."""
        told = {k: v for k, v in self.neuron().items() if k in self.told}
        return {
            "method": self.name,
            "parity": self.parity,
            **self.own_facts(),
            **{k: {n: _plain(e) for n, e in v.items()} if isinstance(v, dict) else _plain(v) for k, v in told.items()},
        }

    def check_T(self, T):
        if T < self.least_T:
            raise ValueError(f"T must be >= {self.least_T}, the inputs that {self.name} looks at first; got T = {T}")


def signed(method, negative, caps):
    """Keywords of a neuron with negative spikes."""
    memory = method.parity and negative == "snm" and caps is None
    return {"negative": negative} | ({} if caps is None else {"caps": caps}) | ({"memory": True} if memory else {})


def _plain(value):
    """A value that a report can hold: of a tensor, its shape."""
    return f"tensor {list(value.shape)}" if isinstance(value, torch.Tensor) else value


def options():
    """The fields that methods given by name take: all fields except those that a name already sets."""
    named = {field for _, own in REGISTRY.values() for field in own}
    return {f.name for cls, _ in REGISTRY.values() for f in dataclasses.fields(cls)} - named


def method_of(method="if", **given):
    """A `Method`: itself, or made from its name and fields. Fields that are None count as not given."""
    given = {k: v for k, v in given.items() if v is not None and (k, v) != ("parity", False)}
    if isinstance(method, Method):
        if given:
            raise ValueError(f"{', '.join(given)}: give the fields of a method to it, {type(method).__name__}({next(iter(given))}=...)")
        return method
    cls, own = REGISTRY[checks.choice("method", method, tuple(REGISTRY))]
    fits = {f.name for f in dataclasses.fields(cls)} - set(own)
    for name in given:
        if name not in fits:
            raise ValueError(f"{name} is an option of other methods, not of {method!r}")
    return cls(**own, **given)


def voltage_of(v0, layer, default=0.5):
    """The start voltage of one layer: v0 itself, or its entry where v0 is a dictionary by layer names (the method's own where it has none)."""
    v0 = v0.get(layer, default) if isinstance(v0, dict) else v0
    if isinstance(v0, torch.Tensor) and not torch.isfinite(v0).all():
        raise ValueError(f"v0 of {layer} must be finite")
    if not isinstance(v0, torch.Tensor):
        checks.number("v0" if not isinstance(v0, dict) else f"v0[{layer!r}]", v0)
    return v0

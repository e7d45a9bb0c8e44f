"""Layers: parameters and one call each. IF, the neuron that the quantised activations (`quantised.py`) stand for; LIF, with a
leak; PLIF, whose leak is learnt."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from snnfast import checks
from snnfast.engines.form import SPIKES
from snnfast.equations.bind import signed
from snnfast.nn.deferred import Deferred, computed, fire, likeness
from snnfast.nn.quantised import Quantised, spread
from snnfast.ops import carried
from snnfast.ops.cos import cos_start
from snnfast.ops.iaf import OPS, iaf, in_units, rule_of
from snnfast.ops.plif import first_w, plif
from snnfast.ops.python_neuron import PythonNeuron
from snnfast.ops.qcfs import qcfs


def qcfs_neuron(x, thresh, T, L, gama):
    """The QCFS authors' layer: with T = 0 the activation with L levels, with T > 0 the neuron on [T*B, ...], time first and merged; thresh then
    gets no gradient, as in their code."""
    if T == 0:
        return qcfs(x, thresh, L)
    if x.dim() == 0 or x.size(0) % T:
        raise ValueError(f"x of shape {tuple(x.shape)} has no multiple of T = {T} rows; its first axis is time and batch merged")
    s, _ = iaf(x.unflatten(0, (T, -1)), thresh.detach(), gamma=gama)
    return s.flatten(0, 1)


_RULE = tuple(inspect.signature(rule_of).parameters)
_PLIF = tuple(
    name for name in inspect.signature(plif).parameters if name not in ("x", "theta", "w", "v0", "T", "state", "out", "state_out")
)


class IF(nn.Module):
    """The integrate-and-fire neuron as a layer, in one of two forms.

    ``IF(theta=...)``: x [T, ...] -> spikes [T, ...], scaled by theta. The keywords are those of `snnfast.iaf`. Each call starts from
    v0, unless `carry` is set: then it goes on from the state that the call before left in `self.state`, until `reset()`.
    `theta` is a number or a tensor that broadcasts over one step, or with `channelwise` a vector [C] along dimension 1 of a step [B, C, ...];
    it is kept as a buffer and checked to be > 0; `axis` is another dimension than 1 for it, such as -1 for features or -3 for attention heads.
    `neuron` is a neuron of `snnfast.neuron` in place of `snnfast.iaf`; the keywords are then its own.
    `by_number`: on CUDA and in normalised units, divide by a single theta as torch divides by a Python number there, by a product with its
    reciprocal, which is what SRP's and COS's programs run.

    ``IF(T=0, L=8, thresh=8.0, tau=1.0, gama=1.0)``: the constructor of the QCFS authors' layer, for use in their models. With
    T = 0 it is QCFS with L levels; with T > 0 it takes [T*B, ...] (time first, merged) and gives the spikes in the same form. T and L may be
    set as attributes. `thresh` is a parameter; as in their code it gets no gradient while T > 0. `tau` is kept and unused, as there.

    >>> layer = snnfast.nn.IF(theta=1.0)
    >>> layer(torch.full((3, 1), 0.75)).flatten().tolist()  # [T, ...] -> [T, ...]
    [1.0, 1.0, 0.0]
    """

    parts = 1  # how many theta make the threshold of the activation that it stands for
    cap = math.inf  # the largest value of that activation: 6 of a ReLU6

    def __init__(
        self,
        T: int = 0,
        L: int = 8,
        thresh: float = 8.0,
        tau: float = 1.0,
        gama: float = 1.0,
        *,
        theta: float | torch.Tensor | None = None,
        channelwise: bool = False,
        axis: int | None = None,
        carry: bool = False,
        neuron: PythonNeuron | None = None,
        by_number: bool = False,
        **options: Any,
    ):
        super().__init__()
        self.T, self.L, self.tau, self.gama = checks.integer("T", T, 0), checks.integer("L", L), tau, checks.number("gama", gama, True)
        self.own = theta is not None
        if self.own and (T, L, thresh, tau, gama) != (0, 8, 8.0, 1.0, 1.0):
            raise ValueError("IF takes either theta=... or the QCFS authors' arguments T, L, thresh, tau, gama, not both")
        given = [
            *options,
            *(name for name, value in (("carry", carry), ("neuron", neuron), ("channelwise", channelwise), ("axis", axis)) if value),
        ]
        if not self.own and given:
            raise ValueError(f"{', '.join(given)}: only IF(theta=...) takes options of snnfast.iaf")
        self.neuron = iaf if neuron is None else neuron
        if self.neuron is not iaf and not isinstance(neuron, PythonNeuron):
            raise TypeError(f"neuron must be what snnfast.neuron returned, got {type(neuron).__name__}")
        self._check(options)
        self.options = {k: v for k, v in options.items() if not isinstance(v, torch.Tensor)}
        self.axis, self.carry, self.state = 1 if channelwise and axis is None else axis, carry, None
        for k, v in options.items():
            if isinstance(v, torch.Tensor):
                self.register_buffer(k, v.detach().clone())  # v0, mask
        if self.own:
            number = torch.as_tensor(theta, dtype=None if isinstance(theta, torch.Tensor) else torch.get_default_dtype())
            self.register_buffer("theta", checks.positive("theta", number.detach().clone()))
            self.number = self.get_buffer("theta").item() if by_number and number.numel() == 1 else None
        else:
            self.thresh = nn.Parameter(torch.tensor([checks.number("thresh", thresh, True)]))

    def _check(self, options):
        """Runs nothing, but refuses what the first call would refuse."""
        self._check_rule({k: v for k, v in options.items() if k not in ("v0", "mask", "spikes")})
        checks.choice("spikes", options.get("spikes", "scaled"), SPIKES)
        v0, mask = options.get("v0", 0.5), options.get("mask")
        if not isinstance(v0, torch.Tensor):
            checks.number("v0", v0)
        if mask is not None:
            checks.tensor("mask", mask, (torch.bool,))

    def _check_rule(self, rule):
        allowed, make = (_RULE, rule_of) if self.neuron is iaf else (self.neuron.Rule._fields, self.neuron.rule)
        unknown = set(rule) - set(allowed)
        if unknown:
            raise TypeError(f"IF got unexpected options: {', '.join(sorted(unknown))}")
        make(**rule)

    @property
    def most(self):
        """The largest spike of a step, in theta."""
        return 1

    def reset(self):
        """Forgets the state: the next call starts from v0."""
        self.state = None

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        """A loaded theta is checked as a given one is."""
        if self.own and f"{prefix}theta" in state_dict:
            checks.positive(f"{prefix}theta", state_dict[f"{prefix}theta"])
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def __getstate__(self):
        """A copy or a file of the layer starts without a carried state."""
        return {**self.__dict__, "state": None}

    def theta_for(self, step):
        """The threshold as it broadcasts over one step [...]."""
        return self.theta if self.axis is None else spread(self.theta, step, self.axis)

    def given(self, run):
        """The options of a call: the layer's, numbers and tensors, and those that differ in this call."""
        tensors = {k: v for k, v in self.named_buffers(recurse=False) if k != "theta"}
        return {**self.options, **tensors, **run}

    def fire(self, x, T=None, **run):
        """The neuron with the layer's threshold and options: T steps of a constant current x [...], or the steps of x [T, ...] (T = None);
        `run`: state, out, state_out, and options that differ in this call."""
        options = self.given(run)
        if type(x) is Deferred and T is None and self.neuron is iaf and self.number is None:
            return fire(x, self.theta_for(likeness(x)[0]), **{"v0": 0.5, **options})
        x = computed(x)
        if self.neuron is not iaf:
            return self.neuron(x, self.theta_for(x if T is not None else x[0]), T=T, **options)
        rule = rule_of(**{k: options.pop(k) for k in _RULE if k in options})
        call = dict.fromkeys(("mask", "state", "out", "state_out")) | {"spikes": "scaled", "v0": 0.5} | options
        if self.number is not None and x.is_cuda and call["spikes"] in ("scaled", "int8"):
            s, state = OPS(*in_units(x, self.number), rule=rule, T=T, **call)
            return s if call["spikes"] == "int8" else s.mul_(self.number), state
        return OPS(x, self.theta_for(x if T is not None else x[0]), rule=rule, T=T, **call)

    def is_signed(self):
        """Whether it emits negative spikes."""
        if self.neuron is iaf:
            return self.options.get("negative") is not None
        return signed(self.neuron.rule(**{k: v for k, v in self.options.items() if k in self.neuron.Rule._fields}))

    def forgets(self):
        """Whether a potential that was infinite may be finite afterwards: after a hard reset, and in a neuron of one's own."""
        return self.neuron is not iaf or self.options.get("reset") == "hard"

    def is_counted(self):
        """Whether the net count is the number of spikes: each is 1."""
        return self.most == 1 and not self.is_signed()

    def not_idle(self, state):
        """How many neurons would fire at the next step without any current: a tensor []."""
        s, _ = self.fire(torch.zeros_like(state.v), T=1, state=state, spikes="unit")
        return torch.count_nonzero(s)

    def calibrate(self, x, T=None, max_shift=None):
        """The start voltages that COS calibrates on the inputs x [rho, ...], or on T = rho steps of a constant current x [...]."""
        theta = self.theta_for(x if T is not None else x[0])
        if self.number is not None:
            x, theta = in_units(x, self.number)
        return cos_start(x, theta, T=T, unit=self.options.get("unit", "volts"), max_shift=max_shift)

    def forward(self, x):
        if self.own and self.carry:
            with carried.alone():
                s, self.state = self.fire(x, state=self.state)
            return s
        if self.own:
            return self.fire(x)[0]
        return qcfs_neuron(x, self.thresh, self.T, self.L, self.gama)

    def extra_repr(self):
        if self.own:
            name = "" if self.neuron is iaf else f", neuron={self.neuron.__name__}"
            return f"thresholds={self.theta.numel()}{name}" + "".join(f", {k}={v!r}" for k, v in self.options.items())
        return f"T={self.T}, L={self.L}, gama={self.gama}"


class LIF(IF):
    """The leaky neuron as a layer: x [T, ...] -> spikes [T, ...], with the keywords of `snnfast.lif` and, of `IF`, `channelwise` and `carry`.

    >>> layer = snnfast.nn.LIF(tau=2.0, theta=1.0)
    >>> layer(torch.full((3, 1), 1.5)).flatten().tolist()
    [0.0, 1.0, 0.0]
    """

    def __init__(self, tau: float = 2.0, theta: float | torch.Tensor = 1.0, *, v0: float | torch.Tensor = 0.0, **options: Any):
        super().__init__(theta=theta, v0=v0, **options)
        rule_of(**{k: v for k, v in self.options.items() if k in _RULE}, tau=tau)
        self.options["tau"] = tau


class PLIF(IF):
    """The leaky neuron whose time constant is learnt, as a layer: x [T, ...] -> spikes [T, ...], with the keywords of `snnfast.plif` and, of `IF`,
    `channelwise` and `carry`.

    `w` is a parameter, one number for the layer, with 1/tau = sigmoid(w); it starts at -log(init_tau - 1). In its place a parameter may stand that
    broadcasts over one step, one number for each channel or neuron. (Fang et al., ICCV 2021.)

    Raises:
        ValueError: init_tau is not > 1, where sigmoid(w) < 1.

    >>> layer = snnfast.nn.PLIF(init_tau=2.0, theta=1.0)
    >>> layer(torch.full((3, 1), 1.5)).flatten().tolist()
    [0.0, 1.0, 0.0]
    >>> [name for name, _ in layer.named_parameters()]
    ['w']
    """

    def __init__(self, init_tau: float = 2.0, theta: float | torch.Tensor = 1.0, *, v0: float | torch.Tensor = 0.0, **options: Any):
        w = first_w(init_tau)
        unknown = set(options) - {*_PLIF, "channelwise", "axis", "carry"}
        if unknown:
            raise TypeError(f"PLIF got unexpected options: {', '.join(sorted(unknown))}")
        super().__init__(theta=theta, v0=v0, **options)
        self.w = nn.Parameter(torch.tensor(w))

    def fire(self, x, T=None, **run):
        if type(x) is Deferred and T is None:
            return fire(x, self.theta_for(likeness(x)[0]), w=self.w, **self.given(run))
        x = computed(x)
        return plif(x, self.theta_for(x if T is not None else x[0]), self.w, T=T, **self.given(run))


_RUNGS: dict[type, Callable] = {}  # of classes of other packages


def register_quantised(cls: type[nn.Module], rungs: Callable[[Any], tuple[torch.Tensor, int, int]]) -> None:
    """Makes an activation of another package known: `convert` puts a neuron in its place, as it does for `Quantised`.

    rungs: a layer of `cls` -> (size of a level, a tensor [1], or [C] along dimension 1; lowest level; highest level); its values must be
    size * clamp(floor(x/size + 1/2), lowest, highest), which `convert` tries.

    >>> class Sign4(torch.nn.Module):
    ...     def forward(self, x):
    ...         return (x * 4).round().clamp(0, 4) / 4
    >>> snnfast.nn.register_quantised(Sign4, lambda layer: (torch.tensor([0.25]), 0, 4))
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), Sign4(), torch.nn.Linear(8, 2))
    >>> snnfast.convert(net).levels
    {'1': 4}
    """
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise TypeError(f"cls must be a class of layers, a torch.nn.Module, got {cls!r}")
    if not callable(rungs):
        raise TypeError(f"rungs must be a function of a layer, got {type(rungs).__name__}")
    _RUNGS[cls] = rungs


def _registered(module):
    """The function of its levels for a layer of another package, or of a class that derives from one; None of others."""
    return next((_RUNGS[cls] for cls in type(module).__mro__ if cls in _RUNGS), None)


def is_quantised(module):
    """A module that `convert` turns into IF."""
    return isinstance(module, Quantised) or (isinstance(module, IF) and not module.own) or _registered(module) is not None


def threshold_of(module):
    """theta of a quantised activation, [1] or [C]."""
    if isinstance(module, Quantised):
        return module.threshold()
    if _registered(module):
        size, _, high = rungs_of(module)
        return size * high
    return module.thresh


def rungs_of(module):
    """(size of a level, lowest level, highest level) of a quantised activation."""
    if isinstance(module, Quantised):
        return module.rungs()
    own = _registered(module)
    return own(module) if own else (module.thresh / module.L, 0, module.L)


def levels_of(module):
    """Quantisation levels of a quantised activation."""
    if _registered(module):
        _, low, high = rungs_of(module)
        return high - low
    return module.levels if isinstance(module, Quantised) else module.L

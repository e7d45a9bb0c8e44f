"""The neuron that sends several quanta in a step, as a layer."""

import inspect
from typing import Any, Literal

import torch

from snnfast import checks
from snnfast.nn.neurons import IF
from snnfast.ops.quanta import check_form, quanta, rule_of

_RULE = tuple(inspect.signature(rule_of).parameters)


class Quanta(IF):
    """x [T, ...] -> spikes [T, ...], whole numbers up to m times theta, with the keywords of `snnfast.quanta` and, of `IF`, `channelwise`, `axis` and
    `carry`. theta is the quantum, so that a step holds up to m theta. `parts`: how many quanta make the threshold of the activation that the neuron
    stands for, which a report tells.

    >>> layer = snnfast.nn.Quanta(theta=0.25, m=4)
    >>> layer(torch.full((3, 1), 0.6)).flatten().tolist()
    [0.5, 0.75, 0.5]
    """

    def __init__(
        self, theta: float | torch.Tensor = 1.0, *, m: int, ladder: Literal["uniform", "power"] = "uniform",
        unit: Literal["normalised", "volts"] = "normalised", v0: float | torch.Tensor = 0.5, parts: int = 1, **options: Any,
    ):  # fmt: skip
        wrong = {"neuron", "by_number"} & set(options)
        if wrong:
            raise TypeError(f"Quanta got unexpected options: {', '.join(sorted(wrong))}")
        super().__init__(theta=theta, m=m, ladder=ladder, unit=unit, v0=v0, **options)
        check_form(m, 1, options.get("spikes", "scaled"))
        self.parts = checks.integer("parts", parts)

    def _check_rule(self, rule):
        unknown = set(rule) - set(_RULE)
        if unknown:
            raise TypeError(f"Quanta got unexpected options: {', '.join(sorted(unknown))}")
        rule_of(**rule)

    @property
    def most(self):
        return self.options["m"]

    def fire(self, x, T=None, **run):
        return quanta(x, self.theta_for(x if T is not None else x[0]), T=T, **self.given(run))

    def calibrate(self, x, T=None, max_shift=None):
        raise ValueError("COS calibrates start voltages of neurons with one spike a step, not of Quanta")

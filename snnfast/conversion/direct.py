"""Networks that are spiking already, trained as such: their neurons stay, and the run is chunk by chunk in time, as of a converted one.

A network says so by a method `one_step`, as `snnfast.models.DirectNetwork` has it: a module of images [B, ...], for one step, whose neurons are
layers of `snnfast.nn`. All else in it must be a function of one step's values.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch

from snnfast import nn
from snnfast.conversion.method import Method
from snnfast.graph import drawn, trace
from snnfast.runtime.clock import Clock
from snnfast.runtime.network import SpikingNetwork
from snnfast.system.text import first_line

NEAR = 1e-6  # in fp64, where rounding moves no spike


@dataclass(frozen=True, kw_only=True)
class Direct(Method):
    """A network's own neurons, from rest. arch: its name, for reports."""

    arch: str | None = None

    @property
    def name(self):
        return "direct"

    def neuron(self):
        return {"v0": 0.0}

    def own_facts(self):
        return {} if self.arch is None else {"arch": self.arch}


def is_direct(net: torch.nn.Module) -> bool:
    """Whether its neurons are its own."""
    return callable(getattr(net, "one_step", None))


def spiking(net: Any, sample: torch.Tensor | None = None) -> SpikingNetwork:
    """The network as one that runs chunk by chunk. A class that is not of `snnfast.models` is compared on `sample`, or on an image that is drawn.

    Raises:
        ValueError: it gives something else, step by step, than the network over all steps.
    """
    gm = trace.prepared(net.one_step(), fold=False)
    image = next(n for n in gm.graph.nodes if n.op == "placeholder")
    if getattr(net, "image_shape", None) is not None:
        image.meta["shape"] = torch.Size(net.image_shape)
    gm.delete_all_unused_submodules()
    gm.recompile()
    if not any(isinstance(m, nn.IF) for m in gm.modules()):
        raise ValueError("net.one_step() has no neuron, a layer of snnfast.nn: there is nothing to spike")
    if not type(net).__module__.startswith("snnfast.models."):
        _compare(net, gm, sample)
    arch = getattr(net, "config", {}).get("arch")
    return SpikingNetwork(gm.requires_grad_(False).eval(), {}, Direct(arch=arch), Clock()).eval()


def _compare(net, gm, sample):
    twin = copy.deepcopy(net).double().eval()
    x = drawn.image(twin) if sample is None else sample[:1].double()
    if x is None:
        raise ValueError(
            "net cannot be compared with its own steps: no image was found that it takes; give sample=, images [1 or more, ...]"
        )
    twin.T, snn = 3, SpikingNetwork(copy.deepcopy(gm).double().eval(), {}, Direct(), Clock())
    with torch.no_grad():
        try:
            expected = twin.logits(x)
        except Exception as error:  # of any kind: a network's own
            raise ValueError(f"net.logits(x) must give the outputs of every step, [T, B, classes]: {first_line(error)}") from error
        try:
            found = snn.logits(x, 3)
        except ValueError as error:
            raise ValueError(f"net cannot be run step by step: {first_line(error)}") from error
    off = float((found - expected).norm() / expected.norm().clamp(min=1e-300)) if found.shape == expected.shape else float("inf")
    if not off <= NEAR:
        raise ValueError(
            f"net cannot be run step by step: step by step it gives other outputs (relative difference {off:.2g}), so something "
            "in it but its neurons depends on several steps"
        )

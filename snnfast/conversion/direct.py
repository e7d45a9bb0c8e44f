"""Networks that were trained as spiking networks: their neurons stay, and they run chunk by chunk in time like converted networks.

They are `snnfast.models.DirectNetwork`, whose `one_step` gives a module of images [B, ...] for one step, with layers of `snnfast.nn` as its neurons.
Everything else in this module must be a function of one step's values.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch

from snnfast import checks, nn
from snnfast.conversion.method import Method
from snnfast.graph import drawn, trace
from snnfast.graph.copies import unwrapped
from snnfast.models.direct import DirectNetwork
from snnfast.runtime.clock import Clock
from snnfast.runtime.execution import Execution
from snnfast.runtime.network import SpikingNetwork
from snnfast.system.text import first_line

NEAR = 1e-6  # in fp64, where rounding moves no spike
STEPS = 2  # of the comparison


@dataclass(frozen=True, kw_only=True)
class Direct(Method):
    """A network's own neurons, from rest. arch: its name, for reports.  steps: T that it was trained with."""

    arch: str | None = None
    steps: int | None = None

    @property
    def name(self):
        return "direct"

    def neuron(self):
        return {"v0": 0.0}

    @property
    def own_T(self):
        return self.steps

    def own_facts(self):
        return {} if self.arch is None else {"arch": self.arch}


def is_direct(net: Any) -> bool:
    """Whether `net` is a `DirectNetwork`, which has its own neurons."""
    return isinstance(unwrapped(net), DirectNetwork)


def spiking(net: Any, sample: torch.Tensor | None = None) -> SpikingNetwork:
    """The network in the form that runs chunk by chunk, of images or, with `frames`, of a frame for each step. The two are compared on the first
    image (or its frames) of `sample`, or on a random one.

    Raises:
        ValueError: its outputs step by step differ from those over all steps, or its answer is not their mean (with `sums`, their sum).
    """
    net = unwrapped(net)
    if sample is not None and checks.tensor("sample", sample).dim() < 2:
        raise ValueError(f"sample must be images [1 or more, ...], got shape {tuple(sample.shape)}")
    gm = trace.prepared(net.one_step(), fold=False)
    image = next(n for n in gm.graph.nodes if n.op == "placeholder")
    if net.image_shape is not None:
        image.meta["shape"] = torch.Size(net.image_shape)
    gm.delete_all_unused_submodules()
    gm.recompile()
    if not any(isinstance(m, nn.IF) for m in gm.modules()):
        raise ValueError("net.one_step() has no neuron, a layer of snnfast.nn: there is nothing to spike")
    clock = Clock(frames=net.frames)
    snn = SpikingNetwork(gm.requires_grad_(False).eval(), {}, Direct(arch=net.config.get("arch"), steps=net.T), clock).eval()
    _compare(net, snn, sample)
    return snn


def _compare(net, snn, sample):
    """Compares in the network's own format, which is fast; if the outputs differ there, in fp64, in which rounding moves no spike."""
    x = None if sample is None else sample[:1, :STEPS] if net.frames else sample[:1]
    if x is None and net.image_shape is not None:
        p = next(p for p in net.parameters() if p.is_floating_point())
        steps = (STEPS,) if net.frames else ()
        x = torch.randn(1, *steps, *net.image_shape, generator=torch.Generator().manual_seed(0)).to(p.device, p.dtype)
    x = drawn.image(net) if x is None else x
    if x is None:
        raise ValueError(
            "net cannot be compared with its own steps: no image was found that it takes; give sample=, images [1 or more, ...]"
        )
    for dtype, near in ((x.dtype, 1e-4), (torch.float64, NEAR)):
        twin, steps = (copy.deepcopy(module).to(dtype).eval() for module in (net, snn))
        twin.T = x.size(1) if net.frames else STEPS
        told = _difference(twin, steps, x.to(dtype), near)
        if told is None:
            return
    raise ValueError(f"net cannot be run step by step: {told}")


def _difference(net, snn, x, near):
    """What is different, or None."""
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        try:
            every, answer = net.logits(x), net(x)
        except Exception as error:  # of any kind: the network's own code may raise it
            return f"net does not run on an image {list(x.shape)}: {first_line(error)}"
        try:
            dense = Execution(snn.gm, x.device, products="dense")
            found = torch.cat(list(snn.chunks(x, net.T, net.T, execution=dense)))
        except ValueError as error:
            return first_line(error)
    mean = every.double().sum(0) / (1 if net.sums else net.T)
    for given, of, why in (
        (found, every, "step by step it gives other outputs, so that a part of it depends on several steps, or a neuron in it is changed"),
        (mean, answer, "net(x) is not the mean of net.logits(x) over the steps"),
    ):
        off = float((given.double() - of).norm() / of.double().norm().clamp(min=1e-300)) if given.shape == of.shape else float("inf")
        if not off <= near:
            return f"{why} (relative difference {off:.2g})"
    return None

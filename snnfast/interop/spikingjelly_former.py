"""Fused forwards for the neurons of SpikingJelly 0.0.0.0.12 (`clock_driven`, `MultiStep*Node`) and 0.0.0.0.14 (`activation_based`).

The programs of Spikformer, Spikingformer, the spike-driven transformers and SpikingResformer are written for these.

Each class keeps the module's memories and reset. `v_seq`, the potentials of all steps that 0.0.0.0.12 leaves in a node, is not made: it is None.
Inputs in half precision, and `store_v_seq` of 0.0.0.0.14, run as before.
"""

import functools
import math
import sys

import torch

from snnfast.interop.authors import _probe
from snnfast.interop.spikingjelly import FusedSteps, _options, note
from snnfast.nn.deferred import fire, likeness

CLOCK_DRIVEN, ACTIVATION_BASED = "spikingjelly.clock_driven.neuron", "spikingjelly.activation_based.neuron"


class _Former(FusedSteps):
    """What both versions share: v is a number before the first step."""

    def _steps(self, x_seq, theirs):
        v = self.v if isinstance(self.v, torch.Tensor) else torch.full_like(likeness(x_seq)[0], self.v)
        return self.steps(v, x_seq, functools.partial(theirs, x_seq), why_not(self))

    @staticmethod
    def probes(m):
        calls = [_probe(float(m.v_threshold), 6, 3, 4, seed=i) for i in range(2)]
        return [({"backend": "torch", "training": training}, calls) for training in (True, False)]


class _ClockDriven(_Former):
    """0.0.0.0.12: a class for all steps."""

    def forward(self, x_seq):
        if x_seq.dim() < 2:
            return super().forward(x_seq)
        self.v_seq = None
        s = self._steps(x_seq, super().forward)
        if self.v_seq is None:
            self.spike = s[-1]
        return s


class _ActivationBased(_Former):
    """0.0.0.0.14: a mode for all steps."""

    def multi_step_forward(self, x_seq):
        return self._steps(x_seq, super().multi_step_forward)


class _Leaky:
    def fused(self, x_seq, theta, state, spikes):
        how = dict(decay_input=self.decay_input, product=self.in_products(), state=state, spikes=spikes)
        return fire(x_seq, theta, tau=float(self.tau), **how, **_options(self))

    def in_products(self):
        """Whether a leak without the input's is v (1 - 1/tau), or v - v/tau."""
        return self.training or isinstance(self, _ClockDriven)


class _Learnt:
    def fused(self, x_seq, theta, state, spikes):
        how = dict(decay_input=self.decay_input, product=True, state=state, spikes=spikes)
        return fire(x_seq, theta, w=self.w.to(x_seq.dtype), **how, **_options(self))


class FusedMultiStepIFNode(_ClockDriven):
    kind = "SpikingJelly 0.0.0.0.12 MultiStepIFNode"


class FusedMultiStepLIFNode(_Leaky, _ClockDriven):
    kind = "SpikingJelly 0.0.0.0.12 MultiStepLIFNode"


class FusedMultiStepParametricLIFNode(_Learnt, _ClockDriven):
    kind = "SpikingJelly 0.0.0.0.12 MultiStepParametricLIFNode"


class FusedIFNode(_ActivationBased):
    kind = "SpikingJelly 0.0.0.0.14 IFNode"


class FusedLIFNode(_Leaky, _ActivationBased):
    kind = "SpikingJelly 0.0.0.0.14 LIFNode"


class FusedParametricLIFNode(_Learnt, _ActivationBased):
    kind = "SpikingJelly 0.0.0.0.14 ParametricLIFNode"


def known():
    """Exact class -> fused class, of what has been imported; nothing of newer versions."""
    found = {}
    for name, classes in (
        (CLOCK_DRIVEN, (FusedMultiStepIFNode, FusedMultiStepLIFNode, FusedMultiStepParametricLIFNode)),
        (ACTIVATION_BASED, (FusedIFNode, FusedLIFNode, FusedParametricLIFNode)),
    ):
        module = sys.modules.get(name)
        base = getattr(module, "BaseNode", None)
        if base is None or hasattr(base, "materialize_states"):
            continue
        found |= {
            getattr(module, f.__name__.removeprefix("Fused")): f for f in classes if hasattr(module, f.__name__.removeprefix("Fused"))
        }
    return found


def why_not(node):
    """Why a node of a known class is left as it is, or None."""
    if getattr(node, "step_mode", "m") != "m":
        return "single-step mode: one step a call has nothing to fuse; functional.set_step_mode(net, 'm') first"
    backend, tau = getattr(node, "backend", "torch"), getattr(node, "tau", None)
    if backend == "cupy" and (hasattr(node, "w") or (tau is not None and math.frexp(float(tau))[0] != 0.5)):
        return "its backend 'cupy' multiplies by 1/tau, which is other numbers than a division for this tau"
    if backend not in ("torch", "cupy"):
        return f"its backend is {backend!r}"
    return None


__all__ = ["known", "note", "why_not"]

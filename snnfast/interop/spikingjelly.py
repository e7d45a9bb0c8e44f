"""Fused forwards for SpikingJelly's neurons in multi-step mode. Each class keeps the module's memories, buffers and reset.

What has no fused form runs as before, and `snnfast.accelerate` says so when it looks: single-step mode, `store_v_seq`, and the backward of a
surrogate that snnfast does not have. Inputs in half precision run as before too, for SpikingJelly keeps the membrane in it and snnfast in fp32; that
only a call can see.
"""

import functools
import sys

import torch

from snnfast.interop.authors import _count_like, _probe
from snnfast.nn.deferred import fire, likeness
from snnfast.ops import carried
from snnfast.ops.neuron import IAFState


def _surrogate(node):
    """(name, gamma) of a surrogate that both have, or None."""
    name, alpha = type(node.surrogate_function).__name__, getattr(node.surrogate_function, "alpha", None)
    known = {"ATan": "atan", "Sigmoid": "sigmoid"}
    return (known[name], float(alpha)) if name in known and alpha is not None else None


def _options(node):
    """The rule of a node as keywords of snnfast."""
    options = {"reset": "soft"} if node.v_reset is None else {"reset": "hard", "v_reset": float(node.v_reset)}
    surrogate = _surrogate(node)
    if surrogate:
        options |= dict(surrogate=surrogate[0], gamma=surrogate[1], detach_reset=bool(node.detach_reset))
    return options


class FusedSteps:
    """What the nodes of every version share: the membrane is the module's own memory `v`."""

    differentiable = False  # their surrogates are compared by name

    def steps(self, v, x_seq, theirs, left):
        """All steps from the potentials v, or what `theirs` gives. left: whether the module's own settings leave nothing to fuse."""
        grad = torch.is_grad_enabled() and any(t.requires_grad for t in (x_seq, v, *self.parameters()))
        # set_spiking_mode(False): no spikes, but the surrogate's own function.
        unusual = getattr(self, "store_v_seq", False) or not getattr(self.surrogate_function, "spiking", True)
        if left or unusual or x_seq.dtype not in (torch.float32, torch.float64) or (grad and _surrogate(self) is None):
            return theirs()
        self._fused_count = _count_like(getattr(self, "_fused_count", None), v)
        theta, state = self.fused_theta(x_seq), IAFState(v, self._fused_count)
        with carried.alone():
            s, end = self.fused(x_seq, theta, state, "scaled" if grad else "unit")
        self.v = end.v
        return s / theta if grad else s

    def fused_theta(self, x_seq):
        return float(self.v_threshold)

    def fused(self, x_seq, theta, state, spikes):
        return fire(x_seq, theta, state=state, spikes=spikes, **_options(self))


class _Fused(FusedSteps):
    def multi_step_forward(self, x_seq, *args, **kwargs):
        (v,) = self.materialize_states((likeness(x_seq), *args), tuple(self._memories.values()), "m")
        return self.steps(v, x_seq, functools.partial(super().multi_step_forward, x_seq, *args, **kwargs), why_not(self))

    @staticmethod
    def probes(m):
        return [({}, [_probe(float(torch.as_tensor(m.v_threshold).max()), 6, 3, 4, seed=i) for i in range(2)])]


class FusedIFNode(_Fused):
    kind = "SpikingJelly IFNode"


class FusedHalfThresholdIFNode(_Fused):
    kind = "SpikingJelly HalfThresholdIFNode"


class FusedLIFNode(_Fused):
    kind = "SpikingJelly LIFNode"

    def fused(self, x_seq, theta, state, spikes):
        return fire(
            x_seq, theta, tau=float(self.tau), decay_input=self.decay_input, product=False, state=state, spikes=spikes, **_options(self)
        )


class FusedParametricLIFNode(_Fused):
    """Its time constant is learnt: w gets its gradient."""

    kind = "SpikingJelly ParametricLIFNode"

    def fused(self, x_seq, theta, state, spikes):
        how = dict(decay_input=self.decay_input, product=False, state=state, spikes=spikes)
        return fire(x_seq, theta, w=self.w.to(x_seq.dtype), **how, **_options(self))


class FusedActivationAwareIFNode(_Fused):
    """Fires on v + offset >= theta: fused where the offset is one multiple of the threshold in every channel."""

    kind = "SpikingJelly ActivationAwareIFNode"

    def fused_theta(self, x_seq):
        return self._broadcast_parameter(self.v_threshold, likeness(x_seq)[0], "v_threshold")

    def fused(self, x_seq, theta, state, spikes):
        return fire(x_seq, theta, state=state, spikes=spikes, offset=multiple(self), **_options(self))

    @staticmethod
    def probes(m):
        channels = m.v_threshold.numel()
        shape = [2] * (m.channel_dim + 1 if m.channel_dim >= 0 else 1 - m.channel_dim)
        shape[m.channel_dim] = channels if channels > 1 else 3
        return [({}, [_probe(float(m.v_threshold.max()), 6, *shape, seed=i) for i in range(2)])]


def multiple(node):
    """The number that the offsets are of the thresholds, or None if they are no single multiple of them."""
    theta, offset = torch.broadcast_tensors(node.v_threshold, node.v_offset)
    factor = float((offset / theta).flatten()[0]) if theta.numel() else 0.0
    return factor if torch.equal(theta * factor, offset) else None


def known():
    """Exact class -> fused class, for the SpikingJelly that is installed."""
    neuron = sys.modules.get("spikingjelly.activation_based.neuron")
    if not hasattr(getattr(neuron, "BaseNode", None), "materialize_states"):
        return {}  # not imported, or of an older version: `spikingjelly_former.py`
    fused = (FusedIFNode, FusedHalfThresholdIFNode, FusedLIFNode, FusedParametricLIFNode, FusedActivationAwareIFNode)
    classes = ((getattr(neuron, f.__name__.removeprefix("Fused"), None), f) for f in fused)
    return {theirs: ours for theirs, ours in classes if theirs is not None}


def why_not(node):
    """Why a node of a known class is left as it is, or None."""
    if node.step_mode != "m":
        return "single-step mode: one step a call has nothing to fuse; functional.set_step_mode(net, 'm') first"
    if getattr(node, "v_offset", None) is not None and multiple(node) is None:
        return "its offsets are no single multiple of its thresholds"
    return None


def note(node):
    """What goes the old way though the node is replaced, or an empty string."""
    notes = [] if _surrogate(node) else [f"gradients go the old way: snnfast has no surrogate {type(node.surrogate_function).__name__}"]
    if getattr(node, "store_v_seq", False):
        notes.append("store_v_seq is set, so every call goes the old way")
    return "; ".join(notes)

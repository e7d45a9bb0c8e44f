"""Neurons in NIR, and back. One step of NIR's equations is one Euler step of length dt; NIR resets to v_reset.

    IF     dv/dt = R I                             v += dt R I,  R = 1/dt          v += x
    LIF    tau dv/dt = (v_leak - v) + R I          tau = dt tau', v_leak = v_reset,
           with R = 1     v += (x - (v - v_reset))/tau'                            decay_input=True
           with R = tau'  v += x - (v - v_reset)/tau'                              decay_input=False

What NIR cannot say stands in a node's metadata, as JSON under "snnfast" and as arrays: a reset by subtraction, the start voltage, the surrogate.
(Pedersen et al., "Neuromorphic intermediate representation", Nature Communications 2024.)
"""

import json
import math
from typing import Any

import numpy as np
import torch

from snnfast import nn
from snnfast.system import packages

ENTRY = "snnfast"  # in metadata
KEPT = ("v0", "reset", "v_reset", "unit", "strict", "spikes", "surrogate", "gamma", "detach_reset", "decay_input", "product", "tau")


def check_installed() -> None:
    """Refuses where the package is missing."""
    packages.check_installed("nir", extra="nir")


def noted(**facts: Any) -> dict[str, Any]:
    """Metadata of a node."""
    return {ENTRY: json.dumps(facts)}


def note_of(node: Any) -> dict[str, Any]:
    """What our metadata of a node say; empty if it has none.

    Raises:
        ValueError: they cannot be read.
    """
    text = node.metadata.get(ENTRY, "{}") if isinstance(node.metadata, dict) else "{}"
    try:
        found = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        raise ValueError(f"metadata {ENTRY!r} of a node is no JSON") from None
    if not isinstance(found, dict):
        raise ValueError(f"metadata {ENTRY!r} of a node must be a JSON object, got {type(found).__name__}")
    return found


def why_not(layer: nn.IF) -> str | None:
    """Why NIR has no such neuron, or None."""
    if type(layer) not in (nn.IF, nn.LIF, nn.PLIF):
        return f"it is a {type(layer).__name__}"
    if type(layer) is nn.IF and (not layer.own or layer.neuron.__name__ != "iaf"):
        return "it is a neuron of one's own"
    if layer.is_signed():
        return "it sends negative spikes"
    tensors = dict(layer.named_buffers(recurse=False))
    odd = [name for name in {**layer.options, **tensors} if name not in (*KEPT, "theta")]
    odd = [name for name in odd if layer.options.get(name) not in (None, False, 0.0, (0, None)) or name in tensors]
    if odd:
        return f"its option {odd[0]} has no counterpart"
    if layer.options.get("spikes", "scaled") not in ("scaled", "unit"):
        return f"its spikes come as {layer.options['spikes']}"
    return None


def to_nir(layer: nn.IF, step: torch.Tensor, dt: float) -> tuple[Any, np.ndarray | None]:
    """(NIR's node, how large its spikes are where they are not 1). step: its input at one step, [B, ...]."""
    import nir

    theta = _full(layer.theta_for(step).to(step.dtype), step)
    options: dict[str, Any] = {"reset": "soft", "spikes": "scaled"} | ({"v0": 0.5, "unit": "volts"} if type(layer) is nn.IF else {})
    options |= {name: value for name, value in layer.options.items() if name in KEPT and value is not None}
    # A start voltage for each neuron. NIR's files hold no arrays without a dimension.
    arrays = {name: np.atleast_1d(t.cpu().numpy()) for name, t in layer.named_buffers(recurse=False) if name != "theta"}
    if "v0" in arrays:
        del options["v0"]
    v_reset = np.full(theta.shape, options.get("v_reset", 0.0))
    if isinstance(layer, nn.PLIF):
        arrays["w"] = np.atleast_1d(layer.w.detach().cpu().numpy())
    metadata = noted(neuron=type(layer).__name__, **options) | arrays
    large = None if options.get("spikes") == "unit" or (theta == 1).all() else theta
    if type(layer) is nn.IF:
        return nir.IF(r=np.full(theta.shape, 1 / dt), v_threshold=theta, v_reset=v_reset, metadata=metadata), large
    if isinstance(layer, nn.PLIF):
        learnt = 1 + torch.exp(-layer.w.detach().double())
        tau = _full(learnt.reshape(()) if learnt.numel() == 1 else learnt, step)
    else:
        tau = np.full(theta.shape, float(options["tau"]))
    r = np.ones(theta.shape) if options.get("decay_input", True) else tau.copy()
    return nir.LIF(tau=tau * dt, r=r, v_leak=v_reset, v_threshold=theta, v_reset=v_reset.copy(), metadata=metadata), large


def from_nir(node: Any, dt: float, reset: str) -> tuple[nn.IF, float]:
    """(the layer, by what its input is multiplied). reset: "hard" or "soft", of a node without a note of ours.

    Raises:
        ValueError: the neuron has no counterpart here, or its note contradicts its numbers.
    """
    note, theta = note_of(node), compact(node.v_threshold)
    if note:
        return _noted(node, note, theta, dt), 1.0
    v_reset = _same("v_reset", node.v_reset)
    how: dict[str, Any] = dict(reset=reset, v_reset=v_reset if reset == "hard" else 0.0, spikes="unit", v0=0.0)
    if type(node).__name__ == "IF":
        return nn.IF(theta=theta, **how), _near(_same("r", node.r) * dt)
    v_leak, r, tau = _same("v_leak", node.v_leak), _same("r", node.r), compact(node.tau) / dt
    if v_leak != how["v_reset"]:
        raise ValueError(f"v_leak must be the potential after a spike, {how['v_reset']}, got {v_leak}")
    if not (torch.isfinite(tau) & (tau > 1 + 1e-9)).all():
        raise ValueError(f"tau must be > dt = {dt}, got {float(tau.min()) * dt:g}: no decay per step is left")
    if tau.numel() > 1:
        layer: nn.IF = nn.PLIF(theta=theta, decay_input=True, **how)
        layer.w = torch.nn.Parameter(-torch.log(tau - 1).to(theta.dtype))
        return layer, r
    whole = _near(r / float(tau)) == 1
    return nn.LIF(_near(float(tau)), theta, decay_input=not whole, **how), 1.0 if whole else r


def _noted(node, note, theta, dt):
    kind = {"IF": nn.IF, "LIF": nn.LIF, "PLIF": nn.PLIF}.get(note.pop("neuron", None))
    unknown = sorted(set(note) - set(KEPT))
    if kind is None or unknown:
        raise ValueError(f"the note of a neuron is not one that is known{f', with {unknown[0]}' if unknown else ''}")
    tensors = {name: torch.from_numpy(np.array(node.metadata[name])) for name in ("v0", "w") if name in node.metadata}
    w = tensors.pop("w", None)
    layer = kind(theta=theta, **note, **tensors)
    if kind is nn.PLIF:
        if w is None:
            raise ValueError("the note of a PLIF neuron has no w")
        layer.w = torch.nn.Parameter(w, requires_grad=False)
    said, _ = to_nir(layer, torch.zeros(1, *node.v_threshold.shape, dtype=theta.dtype), dt)
    wrong = [
        k
        for k in ("r", "tau", "v_leak", "v_reset")
        if hasattr(node, k) and not np.allclose(getattr(said, k, np.nan), getattr(node, k), 1e-6)
    ]
    if type(said) is not type(node) or wrong:
        raise ValueError(
            f"its note of snnfast contradicts its {wrong[0] if wrong else 'kind'}: the file was changed, or dt = {dt} is not its own"
        )
    return layer


def compact(values: Any) -> torch.Tensor:
    """Numbers of neurons in the smallest shape that broadcasts to them: one, one for each channel, or all."""
    values = np.asarray(values)
    if values.size and (values == values.flat[0]).all():
        return torch.tensor(values.flat[0])
    if values.ndim > 1 and (values == values.reshape(len(values), -1)[:, 0].reshape(-1, *[1] * (values.ndim - 1))).all():
        return torch.from_numpy(values.reshape(len(values), -1)[:, 0].copy().reshape(-1, *[1] * (values.ndim - 1)))
    return torch.from_numpy(values.copy())


def _full(t, step):
    """A number for each neuron."""
    return np.ascontiguousarray(t.detach().expand(step.shape)[0].cpu().numpy())


def _same(name, values):
    values = np.unique(np.asarray(values))
    if values.size != 1:
        raise ValueError(
            f"{name} must be the same for all neurons of a layer, got {values.size} values from {values[0]:g} to {values[-1]:g}"
        )
    return float(values[0])


def _near(x):
    """A number without the rounding, in fp32, of a product with dt: 2.0 for 1.9999999."""
    short = float(f"{x:.6g}")
    return short if math.isclose(x, short, rel_tol=2e-7) else x

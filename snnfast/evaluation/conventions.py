"""Operations and energy of a network that is trained directly: as its authors count them, and with each operation counted once ("own").

0.9 pJ for an accumulate (AC), 4.6 pJ for a multiplication with an accumulate (MAC), 45 nm (Horowitz, ISSCC 2014): a convention, not a measurement.
Max poolings, batch norms, neurons and shortcuts are free in all of them.

    spikingformer   for each convolution and linear layer, the MACs of all its calls, with its biases. If all inputs are 0 or 1, but not all are 1,
                    these are ACs times the rate of the input. For attention with h heads of d channels, T h N d^2 (min(r_k, r_v) + r_q) ACs, r the
                    rates. A stem that runs at every step is counted at every step (Zhou et al., arXiv 2304.11954; by syops-counter)
    resformer       for each convolution and linear layer but the first and the last, and for both products of attention, every spike times the
                    weights that it meets, fewer at borders; no MACs (Shi et al., CVPR 2024)
    sdt             the first convolution's MACs T times; for each other layer its MACs times T times the rate of its input; for the mask N D times T
                    times the rate of k (Yao et al., NeurIPS 2023, who give formulas and no program)
    own             every value that is 1 and enters a layer, times the weights that it meets, fewer at borders: ACs; other values that are not 0:
                    MACs; an input that is the same at every step, as for the stem, once; for attention each pair of values that are not 0: ACs
                    where both are 1 or one is a spike, else MACs

If a layer's inputs are real values, not spikes, their rate is the share of them that are not 0.
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import nn

from snnfast import checks
from snnfast.models.direct import DirectNetwork

AC, MAC = 0.9, 4.6  # pJ
NAMES = "own", "spikingformer", "resformer", "sdt"
_LAYERS = (nn.modules.conv._ConvNd, nn.Linear)


@dataclasses.dataclass(frozen=True)
class Operations:
    """What an image costs. ACs, MACs: how many, per image; layers: {name: (ACs, MACs)} of each layer and attention."""

    convention: str
    images: int
    layers: dict[str, tuple[float, float]]

    @property
    def ACs(self) -> float:
        return sum(acs for acs, _ in self.layers.values())

    @property
    def MACs(self) -> float:
        return sum(macs for _, macs in self.layers.values())

    @property
    def energy_mJ(self) -> float:
        return (AC * self.ACs + MAC * self.MACs) / 1e9

    def __str__(self):
        counted = f"{self.MACs / 1e6:.3f} M MACs, {self.ACs / 1e6:.3f} M ACs"
        return f"{self.convention}: {counted}, {self.energy_mJ:.6f} mJ per image ({self.images} images)"


def operations(net: DirectNetwork, loader: Iterable, convention: Literal["own", "spikingformer", "resformer", "sdt"] = "own") -> Operations:
    """Counts the operations of a network on images, by one convention: `snnfast/evaluation/conventions.py` says what each counts.

    Args:
        net: a network that is trained directly. It runs all T steps at once, as in training.
        loader: batches (images, labels), of which a few are enough: rates are means.
        convention: "own", "spikingformer", "resformer" or "sdt".

    >>> net = snnfast.models.spikingformer_cifar(1, 32, 4).eval()
    >>> found = snnfast.operations(net, [(torch.randn(2, 3, 32, 32), torch.zeros(2))], "spikingformer")
    >>> found.MACs, found.images
    (442698.0, 2)
    """
    if not isinstance(net, DirectNetwork):
        raise TypeError(
            f"net must be a network that is trained directly, a DirectNetwork, got {type(net).__name__}; of others evaluate(statistics=True) counts"
        )
    checks.choice("convention", convention, NAMES)
    if not isinstance(loader, Iterable):
        raise TypeError(f"loader must be batches (images, labels), got {type(loader).__name__}")
    count = _Count(net, convention)
    modes, hooks = {m: m.training for m in net.modules()}, count.hooks()
    try:
        with torch.no_grad():
            net.eval()
            for batch in loader:
                if not isinstance(batch, (tuple, list)) or not batch or not isinstance(batch[0], torch.Tensor):
                    raise TypeError(f"loader must give batches (images, labels), got {type(batch).__name__}")
                x = batch[0]
                count.images += len(x)
                count.B, count.T = len(x), net.steps_of(x)
                net(x)
                count.batch_done()
    finally:
        for hook in hooks:
            hook.remove()
        for m, mode in modes.items():
            m.training = mode
    if not count.images:
        raise ValueError("loader gave no images")
    return Operations(
        convention, count.images, {name: (acs / count.images, macs / count.images) for name, (acs, macs) in count.found.items()}
    )


class _Count:
    """Operations of all images seen so far, by layer."""

    def __init__(self, net, convention):
        self.net, self.convention, self.images, self.B, self.T = net, convention, 0, 0, 0
        self.found: dict[str, tuple[float, float]] = {}
        self.fires: dict[tuple[str, str], torch.Tensor] = {}  # (attention, its neuron): spikes of this batch
        self.layers = [(name, m) for name, m in net.named_modules() if isinstance(m, _LAYERS) and not name.endswith("talking_heads")]
        self.last = {self.layers[-1][0], "head"} if hasattr(net, "head_kd") else {self.layers[-1][0]}
        self.attentions = [(name, m) for name, m in net.named_modules() if _kind(m)]

    def hooks(self):
        found = [m.register_forward_hook(functools.partial(self._layer, name, i == 0)) for i, (name, m) in enumerate(self.layers)]
        for name, m in self.attentions:
            for part in ("q_lif", "k_lif", "v_lif", "attn_lif", "activation_in", "activation_attn"):
                if hasattr(m, part):
                    found.append(getattr(m, part).register_forward_hook(functools.partial(self._fired, name, part)))
        return found

    def _add(self, name, acs, macs=0.0):
        before = self.found.get(name, (0.0, 0.0))
        self.found[name] = before[0] + acs, before[1] + macs

    def _fired(self, name, part, layer, x, s):
        self.fires[name, part] = s.flatten(3) if part != "activation_attn" and s.dim() == 5 else s

    def _layer(self, name, first, layer, inputs, y):
        x = inputs[0]
        if isinstance(layer, nn.modules.conv._ConvNd) and x.dim() > len(layer.kernel_size) + 2:  # [T, B, C, ...]
            x = x.flatten(0, 1)
        if self.convention == "own":
            steps = self.T if x.size(0) == self.T * self.B else 1
            if bool((x.unflatten(0, (steps, -1)) == x[: len(x) // steps]).all()):  # what is the same at every step is computed once
                x = x[: len(x) // steps]
            fan, ones = fan_out(layer, x), (x == 1).sum(0, dtype=torch.float64)
            self._add(name, float((ones * fan).sum()), float((((x != 0).sum(0, dtype=torch.float64) - ones) * fan).sum()))
        elif self.convention == "resformer":
            if not first and name not in self.last:
                whole = bool(((x >= 0) & (x == x.round())).all())  # spikes, or sums of them
                spikes = x.sum(0, dtype=torch.float64) if whole else (x != 0).sum(0, dtype=torch.float64)
                self._add(name, float((spikes * fan_out(layer, x)).sum()))
        elif self.convention == "sdt":
            macs = _macs(layer, y) * (self.T if x.size(0) == self.B else 1)  # a layer that runs on a mean, or once, counts at every step
            self._add(name, *((0.0, float(macs)) if first else (macs * float((x != 0).double().mean()), 0.0)))
        else:
            macs = _macs(layer, y) + (y.numel() if layer.bias is not None else 0)
            spikes, rate = bool(((x == 0) | (x == 1)).all()), float(x.mean(dtype=torch.float64))
            self._add(name, *((macs * rate, 0.0) if spikes and rate != 1 else (0.0, float(macs))))

    def batch_done(self):
        """Counts the products of attention, from what its neurons sent in this batch."""
        for name, module in self.attentions:
            s = {part: t for (of, part), t in self.fires.items() if of == name}
            getattr(self, f"_{_kind(module)}")(name, module, s)
        self.fires.clear()

    def _softmax_free(self, name, module, s):
        q, k, v = (s[f"{part}_lif"] for part in "qkv")  # [T, B, C, N]
        h, (B, C, N) = module.heads, q.shape[1:]
        if self.convention == "spikingformer":
            r = {part: float(s[f"{part}_lif"].mean(dtype=torch.float64)) for part in "qkv"}
            self._add(f"{name}.products", B * self.T * h * N * (C // h) ** 2 * (min(r["k"], r["v"]) + r["q"]))
        elif self.convention == "sdt":
            self._add(f"{name}.products", B * self.T * N * C * float(k.mean(dtype=torch.float64)))
        elif self.convention == "resformer":  # each spike of the right factor meets every row of the left: q k^T, and then by v
            self._add(f"{name}.products", float(k.sum(dtype=torch.float64)) * N + float(v.sum(dtype=torch.float64)) * N)
        else:
            self._pairs(name, *(x.unflatten(2, (h, -1)) for x in (q, k, v)))

    def _pairs(self, name, q, k, v):
        """Counts the pairs in both products of (q k^T) v, whole numbers, of which neither is 0; q, k, v: [T, B, h, d, N]."""
        q, k, v = (x.double() for x in (q, k, v))
        first = (q.sum(-1) * k.sum(-1)).sum()
        scores = q.mT @ k  # [T, B, h, N, N]
        ones, more = (scores == 1).sum(-2, dtype=torch.float64), (scores > 1).sum(-2, dtype=torch.float64)  # per column, a token of v
        each = v.sum(-2)
        self._add(f"{name}.products", float(first + (ones * each).sum()), float((more * each).sum()))

    def _masked(self, name, module, s):
        k = s["k_lif"]
        if self.convention == "sdt":
            self._add(f"{name}.mask", k.size(1) * self.T * k.size(2) * k.size(3) * float(k.mean(dtype=torch.float64)))
        else:  # every token with a spike in both k and v is added up
            self._add(f"{name}.mask", float((k * s["v_lif"]).sum(dtype=torch.float64)))

    def _dual(self, name, module, s):
        x, a = s["activation_in"], s["activation_attn"]
        first, second = (float(t.sum(dtype=torch.float64)) * rows for t, rows in ((x, module.patches), (a, module.channels)))
        self._add(f"{name}.products", first + second)  # each spike meets a real value of every patch, or of every channel of its head


def _kind(module):
    """Which attention a module is, or None."""
    if hasattr(module, "talking_heads_lif"):
        return "masked"
    if hasattr(module, "activation_attn"):
        return "dual"
    return "softmax_free" if hasattr(module, "attn_lif") and hasattr(module, "q_lif") else None


def _macs(layer, y):
    """Multiplications of a layer for its output, borders among them."""
    return y.numel() * layer.weight[0].numel()


@functools.lru_cache(maxsize=256)
def _fan_out(kind, shape, dims, *how):
    make: Any = getattr(nn.functional, f"conv{dims}d")
    out, *weight = shape
    x = torch.ones(1, *kind, requires_grad=True)
    with torch.enable_grad():
        make(x, torch.ones(out, *weight), None, *how).sum().backward()
    return x.grad[0].double()


def fan_out(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """How many weights each value of an image meets, [C, H, W] of x [B, C, H, W]; of a linear layer its outputs."""
    if isinstance(layer, nn.Linear):
        return torch.tensor(float(layer.out_features), dtype=torch.float64, device=x.device)
    assert isinstance(layer, nn.modules.conv._ConvNd)
    dims = len(layer.kernel_size)
    how = layer.stride, layer.padding, layer.dilation, layer.groups
    return _fan_out(tuple(x.shape[1:]), tuple(layer.weight.shape), dims, *how).to(x.device)

"""The quantised activations that neurons stand for, as layers: a parameter and one call each.

                 one per layer    per channel    per attention head    per feature
    theta        QCFS             CQCFS          HQCFS                 NQCFS
    softplus     SQCFS            CSQCFS         HSQCFS                NSQCFS
    exp          EQCFS            CEQCFS         HEQCFS                NEQCFS

The thresholds of a layer lie along one axis of its input: channels along 1 [B, C, ...], heads along -3 [..., H, tokens, D], features along -1.
"""

from typing import Any, Literal

import torch
from torch import nn

from snnfast import checks
from snnfast.ops.qcfs import cs_qcfs, qcfs


def inverse_softplus(theta):
    """lam with softplus(lam) = theta: theta + log(-expm1(-theta)), defined for theta > 0."""
    # A number on the CPU: on the device "meta", where a file's network is built, expm1 would bring in torch._dynamo, two seconds of imports.
    device = theta.device if isinstance(theta, torch.Tensor) else torch.device("cpu")
    given = torch.as_tensor(theta, dtype=torch.get_default_dtype(), device=device)
    checks.positive("theta", given)
    lam = given + torch.log(-torch.expm1(-given))
    return lam if isinstance(theta, torch.Tensor) else lam.to(torch.get_default_device())


_ALONG = {1: "channel need [B, {}, ...]", -3: "head need [..., {}, tokens, D]", -1: "feature need [..., {}]"}


def spread(t, x, axis=1):
    """Thresholds [C] -> a shape in which they broadcast along `axis` of x; a single one stays as it is."""
    if t.numel() == 1:
        return t
    place = axis if axis >= 0 else x.dim() + axis
    if not 0 <= place < x.dim() or x.size(place) != t.numel():
        raise ValueError(f"x has shape {tuple(x.shape)}; {t.numel()} thresholds per {_ALONG[axis].format(t.numel())}")
    return t.view(-1, *(1,) * (x.dim() - 1 - place))


class Quantised(nn.Module):
    """An activation with levels, for which a neuron stands in a converted network: what those of this package share, and the base of your own.

    A class of your own has `threshold()`, theta [1] or [C], and `quantised(x)`, or a `forward` of its own. Its values must be
    size * clamp(floor(x/size + 1/2), lowest, highest), with what `rungs()` gives: `convert` tries some, and those of its images, and refuses by name
    where they differ.
    `spiking(theta, options)` gives the neuron that stands for it.

    Args:
        levels: L >= 1.
        theta: first threshold > 0.
        grad: see `snnfast.qcfs`; an activation of your own need not heed it.
        many: number of thresholds, along `axis` of the input; None: one.

    Attributes:
        axis: dimension of the input along which several thresholds lie, 1 (channels), -1 (features) or -3 (attention heads).
        mask: a `snnfast.nn.SpikeMask` behind the activation, or None.

    >>> class PACT(snnfast.nn.Quantised):  # clipped at a learned alpha (Choi et al., 2018)
    ...     def __init__(self, bits=4, alpha=6.0):
    ...         super().__init__(levels=2**bits - 1, theta=alpha)
    ...         self.alpha = torch.nn.Parameter(torch.tensor([alpha]))
    ...     def threshold(self):
    ...         return self.alpha
    ...     def quantised(self, x):
    ...         step = self.alpha / self.levels
    ...         y = torch.minimum(x.clamp(min=0), self.alpha) / step
    ...         return (y + (y.round() - y).detach()) * step
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), PACT(), torch.nn.Linear(8, 2))
    >>> snnfast.convert(net).logits(torch.randn(3, 4), T=8, at=[8]).shape
    torch.Size([1, 3, 2])
    """

    axis = 1

    def __init__(self, levels: int, theta: float = 1.0, grad: str = "qcfs", many: int | None = None, name: str = "channels"):
        super().__init__()
        self.levels = checks.integer("levels", levels)
        self.grad = checks.choice("grad", grad, ("qcfs", "srp", "paper"))
        if checks.number("theta", theta, positive=True) > torch.finfo(torch.float32).max:
            raise ValueError(f"theta must be a number of fp32, got {theta}")
        self.shape = (1,) if many is None else (checks.integer(name, many),)
        self.mask = None

    def forward(self, x):
        y = self.quantised(x)
        return y if self.mask is None else self.mask(y)

    def threshold(self) -> torch.Tensor:
        """theta, the largest value, [1] or [C]."""
        raise TypeError(f"{type(self).__name__} has no threshold(): it gives theta, the largest value, [1] or [C]")

    def quantised(self, x: torch.Tensor) -> torch.Tensor:
        """The activation of x, of any shape."""
        raise TypeError(f"{type(self).__name__} has no quantised(x): it gives the activation's values")

    def rungs(self) -> tuple[torch.Tensor, int, int]:
        """(size of a level, [1] or [C]; lowest level; highest level): y = size * a whole number between the two."""
        return self.threshold() / self.levels, 0, self.levels

    def spiking(self, theta: torch.Tensor, options: dict[str, Any]) -> nn.Module | None:
        """The `snnfast.nn.IF` in its place, None for the one of the method. theta: what a spike weighs, [1] or [C]: the threshold, in mode
        "differential" the size of a level.  options: keywords of `IF` that method and mode ask for."""
        return None

    def extra_repr(self):
        return f"levels={self.levels}, thresholds={self.shape[0]}, grad={self.grad!r}"


class QCFS(Quantised):
    """y = theta floor(L clamp(x/theta, 0, 1) + 1/2)/L with one theta (Bu et al., ICLR 2022). Parameter `thresh` [1], as in its authors' files.

    >>> layer = snnfast.nn.QCFS(levels=4, theta=1.0)
    >>> layer(torch.tensor([-1.0, 0.3, 5.0])).tolist(), layer.thresh.shape
    ([0.0, 0.25, 1.0], torch.Size([1]))
    """

    def __init__(
        self, levels: int = 8, theta: float = 8.0, grad: Literal["qcfs", "srp", "paper"] = "qcfs", channels: int | None = None, **many: Any
    ):
        super().__init__(levels, theta, grad, channels, **many)
        self.thresh = nn.Parameter(torch.full(self.shape, float(theta)))

    def threshold(self):
        return self.thresh

    def quantised(self, x):
        return qcfs(x, spread(self.thresh, x, self.axis), self.levels, self.grad)


class SQCFS(Quantised):
    """QCFS with theta = softplus(lam), which stays > 0. Parameter `lam` [1]; `theta` gives the first threshold.

    >>> layer = snnfast.nn.SQCFS(levels=4, theta=1.0)
    >>> layer(torch.tensor([-1.0, 0.3, 5.0])).tolist(), layer.lam.shape
    ([0.0, 0.25, 1.0], torch.Size([1]))
    """

    def __init__(
        self, levels: int = 4, theta: float = 4.0, grad: Literal["qcfs", "srp", "paper"] = "qcfs", channels: int | None = None, **many: Any
    ):
        super().__init__(levels, theta, grad, channels, **many)
        self.lam = nn.Parameter(inverse_softplus(theta).expand(self.shape).clone())

    def threshold(self):
        return nn.functional.softplus(self.lam)

    def quantised(self, x):
        return cs_qcfs(x, spread(self.lam, x, self.axis), self.levels, self.grad)


class EQCFS(Quantised):
    """QCFS with theta = exp(lam). Parameter `lam` [1]; `theta` gives the first threshold.

    >>> layer = snnfast.nn.EQCFS(levels=4, theta=1.0)
    >>> layer(torch.tensor([-1.0, 0.3, 5.0])).tolist(), layer.lam.shape
    ([0.0, 0.25, 1.0], torch.Size([1]))
    """

    def __init__(
        self, levels: int = 4, theta: float = 4.0, grad: Literal["qcfs", "srp", "paper"] = "qcfs", channels: int | None = None, **many: Any
    ):
        super().__init__(levels, theta, grad, channels, **many)
        self.lam = nn.Parameter(torch.full(self.shape, float(theta)).log())

    def threshold(self):
        return self.lam.exp()

    def quantised(self, x):
        return qcfs(x, spread(self.threshold(), x, self.axis), self.levels, self.grad)


class CQCFS(QCFS):
    """QCFS with a theta per channel. Parameter `thresh` [C].

    >>> layer = snnfast.nn.CQCFS(channels=3, levels=4)
    >>> layer(torch.zeros(2, 3, 8, 8)).shape, layer.thresh.shape
    (torch.Size([2, 3, 8, 8]), torch.Size([3]))
    """

    def __init__(self, channels: int, levels: int = 8, theta: float = 8.0, grad: Literal["qcfs", "srp", "paper"] = "qcfs"):
        super().__init__(levels, theta, grad, channels)


class CSQCFS(SQCFS):
    """QCFS with theta = softplus(lam) per channel. Parameter `lam` [C].

    >>> layer = snnfast.nn.CSQCFS(channels=3, levels=4)
    >>> layer(torch.zeros(2, 3, 8, 8)).shape, layer.lam.shape
    (torch.Size([2, 3, 8, 8]), torch.Size([3]))
    """

    def __init__(self, channels: int, levels: int = 4, theta: float = 4.0, grad: Literal["qcfs", "srp", "paper"] = "qcfs"):
        super().__init__(levels, theta, grad, channels)


class CEQCFS(EQCFS):
    """QCFS with theta = exp(lam) per channel. Parameter `lam` [C].

    >>> layer = snnfast.nn.CEQCFS(channels=3, levels=4)
    >>> layer(torch.zeros(2, 3, 8, 8)).shape, layer.lam.shape
    (torch.Size([2, 3, 8, 8]), torch.Size([3]))
    """

    def __init__(self, channels: int, levels: int = 4, theta: float = 4.0, grad: Literal["qcfs", "srp", "paper"] = "qcfs"):
        super().__init__(levels, theta, grad, channels)


class _PerHead(Quantised):
    """For x [..., heads, tokens, D]."""

    axis = -3

    def __init__(self, heads: int, levels: int = 16, theta: float = 3.0, grad: Literal["qcfs", "srp", "paper"] = "qcfs"):
        super().__init__(levels, theta, grad, heads, name="heads")


class _PerFeature(Quantised):
    """For x [..., features]."""

    axis = -1

    def __init__(self, features: int, levels: int = 16, theta: float = 3.0, grad: Literal["qcfs", "srp", "paper"] = "qcfs"):
        super().__init__(levels, theta, grad, features, name="features")


class HQCFS(_PerHead, QCFS):
    """QCFS with a theta per attention head, for x [..., heads, tokens, D]. Parameter `thresh` [heads].

    >>> layer = snnfast.nn.HQCFS(heads=2)
    >>> layer(torch.zeros(1, 2, 5, 8)).shape, layer.thresh.shape
    (torch.Size([1, 2, 5, 8]), torch.Size([2]))
    """


class HSQCFS(_PerHead, SQCFS):
    """QCFS with theta = softplus(lam) per attention head, for x [..., heads, tokens, D]. Parameter `lam` [heads].

    >>> layer = snnfast.nn.HSQCFS(heads=2)
    >>> layer(torch.zeros(1, 2, 5, 8)).shape, layer.lam.shape
    (torch.Size([1, 2, 5, 8]), torch.Size([2]))
    """


class HEQCFS(_PerHead, EQCFS):
    """QCFS with theta = exp(lam) per attention head, for x [..., heads, tokens, D]. Parameter `lam` [heads].

    >>> layer = snnfast.nn.HEQCFS(heads=2)
    >>> layer(torch.zeros(1, 2, 5, 8)).shape, layer.lam.shape
    (torch.Size([1, 2, 5, 8]), torch.Size([2]))
    """


class NQCFS(_PerFeature, QCFS):
    """QCFS with a theta per feature, for x [..., features]. Parameter `thresh` [features].

    >>> layer = snnfast.nn.NQCFS(features=8)
    >>> layer(torch.zeros(1, 5, 8)).shape, layer.thresh.shape
    (torch.Size([1, 5, 8]), torch.Size([8]))
    """


class NSQCFS(_PerFeature, SQCFS):
    """QCFS with theta = softplus(lam) per feature, for x [..., features]. Parameter `lam` [features].

    >>> layer = snnfast.nn.NSQCFS(features=8)
    >>> layer(torch.zeros(1, 5, 8)).shape, layer.lam.shape
    (torch.Size([1, 5, 8]), torch.Size([8]))
    """


class NEQCFS(_PerFeature, EQCFS):
    """QCFS with theta = exp(lam) per feature, for x [..., features]. Parameter `lam` [features].

    >>> layer = snnfast.nn.NEQCFS(features=8)
    >>> layer(torch.zeros(1, 5, 8)).shape, layer.lam.shape
    (torch.Size([1, 5, 8]), torch.Size([8]))
    """


class LSQ(Quantised):
    """y = s clamp(floor(x/s + 1/2), n_min, p_max), a learned step s (Esser et al., "Learned step size quantization", ICLR 2020).

    The levels are SpikeZIP's (You et al., "SpikeZIP-TF", ICML 2024): with a sign n_min = -levels/2 and p_max = levels/2 - 1, without one 0 and
    levels - 1. Parameter `s` [], as in its authors' files.

    Args:
        levels: how many there are, >= 2; even with a sign.
        signed: whether there are levels below 0.
        theta: first largest value, p_max s.

    >>> layer = snnfast.nn.LSQ(levels=4, signed=True, theta=1.0)  # levels -2, -1, 0, 1 times s = 1
    >>> layer(torch.tensor([-5.0, -0.6, 0.4, 3.0])).tolist()
    [-2.0, -1.0, 0.0, 1.0]
    """

    def __init__(self, levels: int = 16, signed: bool = False, theta: float = 3.0):
        super().__init__(checks.integer("levels", levels, 2), theta, "srp")
        self.signed = checks.yes_or_no("signed", signed)
        if signed and levels % 2:
            raise ValueError(f"levels must be even where they have a sign, got {levels}")
        self.n_min, self.p_max = (-(levels // 2), levels // 2 - 1) if signed else (0, levels - 1)
        self.s = nn.Parameter(torch.tensor(theta / max(1, self.p_max)))

    def threshold(self):
        return self.s.reshape(1) * max(1, self.p_max)

    def rungs(self):
        return self.s.reshape(1), self.n_min, self.p_max

    def quantised(self, x):
        s = self.s
        if self.training and x.numel():  # the paper's scale of its gradient
            scale = (max(1, self.p_max) * x.numel()) ** -0.5
            s = s * scale + (s * (1 - scale)).detach()
        z = x / s + 0.5
        return (z + (z.floor() - z).detach()).clamp(self.n_min, self.p_max) * s

    def extra_repr(self):
        return f"levels={self.levels}, signed={self.signed}"

"""Fused forwards for the modules of the QCFS, SRP and COS authors' programs. Each class keeps the module's attributes, parameters and reset.

A fused class is put over a module's own class (`snnfast.accelerate`), so `self` has everything that the authors' constructor made. Nothing is
imported from their programs: a module is known by its attributes, and must give the same outputs on a probe.
"""

import torch

from snnfast.nn import qcfs_neuron
from snnfast.ops.cos import cos_start
from snnfast.ops.iaf import iaf, in_units
from snnfast.ops.neuron import IAFState
from snnfast.ops.qcfs import qcfs


def _has(module, *names):
    return all(hasattr(module, name) for name in names)


def _normalised(x, scale, **options):
    """T steps of x [T, ...] in units of theta, scaled by it; a number divides as torch divides by it."""
    z, theta = in_units(x, scale)
    s, state = iaf(z, theta, unit="normalised", **options)
    return (s if theta is scale else s * scale), state


class FusedIF:
    """The QCFS program's IF (Bu et al., ICLR 2022): T = 0 is the activation, T > 0 takes [T*B, ...]."""

    kind, differentiable = "QCFS neuron", True

    @staticmethod
    def fits(m):
        return _has(m, "thresh", "T", "L", "gama", "act")

    def forward(self, x):
        return qcfs_neuron(x, self.thresh, self.T, self.L, float(self.gama)).contiguous()

    @staticmethod
    def probes(m):
        theta = float(m.thresh.detach().abs().max())
        return [({"T": T}, [_probe(theta, max(1, T) * 3, 4, 5)]) for T in sorted({0, 1, 4, m.T})]


class FusedQCFS:
    """The SRP, COS and older QCFS programs' activation: `up`, floor before clamp, `t` levels; raw thresholds."""

    kind, differentiable = "quantised activation", True
    softplus = False

    @staticmethod
    def fits(m):
        return _has(m, "up", "t") and not _has(m, "neuron") and isinstance(m.up, torch.nn.Parameter)

    def forward(self, x):
        theta = torch.nn.functional.softplus(self.up) if self.softplus else self.up
        return qcfs(x, theta if theta.numel() == 1 else theta.reshape(-1, *(1,) * (x.dim() - 2)), int(self.t), "srp")

    @staticmethod
    def probes(m):
        channels = m.up.numel() if m.up.numel() > 1 else 3
        return [({}, [_probe(float(m.up.detach().abs().max()), 6, channels, 4, 4)])]


class FusedSoftplusQCFS(FusedQCFS):
    """The CS-QCFS program's activation: theta = softplus(up)."""

    softplus = True


class FusedScaledNeuron:
    """The SRP and COS programs' neuron for the plain run, ScaledNeuron or IFNeuron: one step a call, from 1/2."""

    kind, differentiable = "neuron, step by step", False

    @staticmethod
    def fits(m):
        return _has(m, "neuron", "t", "reset") and not _has(m, "presim_len") and (_has(m, "scale") or _has(m, "v_threshold"))

    def forward(self, x):
        scale = self.scale if hasattr(self, "scale") else self.v_threshold
        state = None
        if self.t:
            self._fused_count = _count_like(getattr(self, "_fused_count", None), x)
            state = IAFState(self.neuron.v, self._fused_count)
        y, end = _normalised(x.unsqueeze(0), scale, state=state)
        self.neuron.v = end.v
        self.t += 1
        return y[0]

    @staticmethod
    def probes(m):
        theta = float(m.scale if hasattr(m, "scale") else m.v_threshold)
        return [({}, [_probe(theta, 2, 3, 4, seed=i) for i in range(5)])]


class FusedSRP:
    """The SRP program's MPLayer (Hao et al., AAAI 2023): one step a call, presim_len steps, then sim_len masked ones."""

    kind, differentiable = "SRP neuron, step by step", False

    @staticmethod
    def fits(m):
        return _has(m, "neuron", "t", "v_threshold", "presim_len", "sim_len", "membrane_lower") and not _has(m, "batchsize")

    @torch.no_grad()
    def forward(self, x):
        self._fused_count = _count_like(getattr(self, "_fused_count", None), x)
        masked = self.t >= self.presim_len > 0
        y, end = _normalised(
            x.unsqueeze(0), self.v_threshold, state=None if self.t == 0 else IAFState(self.neuron.v, self._fused_count),
            mask=self._fused_mask if masked else None,
        )  # fmt: skip
        self.neuron.v = end.v
        self.t += 1
        if self.t == self.presim_len:
            self._fused_mask = end.v > 1e-3
            self.membrane_lower = self._fused_mask.to(y.dtype)
            self.neuron.v = torch.full_like(end.v, 0.5)
        if self.t == self.presim_len + self.sim_len:
            self.t = 0
        return y[0]

    @staticmethod
    def probes(m):
        return [({}, [_probe(float(m.v_threshold), 2, 3, 4, seed=i) for i in range(m.presim_len + m.sim_len + 2)])]


class FusedCOS:
    """The COS program's MPLayer (Hao et al., ICLR 2023): [sim_len * B, ...] or, for the image, [B, ...]; calibrates on presim_len steps."""

    kind, differentiable = "COS neuron", False

    @staticmethod
    def fits(m):
        return _has(m, "neuron", "v_threshold", "presim_len", "sim_len", "batchsize", "snn_mode")

    @torch.no_grad()
    def forward(self, x):
        if not self.snn_mode or self.t:
            return super().forward(x)
        constant = x.dim() == 4 and x.size(0) <= self.batchsize
        x = x if constant else x.unflatten(0, (self.sim_len, -1))
        v0, scale = 0.5, self.v_threshold
        if self.presim_len:
            current, theta = in_units(x, scale)
            rho = self.presim_len
            v0 = cos_start(current if constant else current[:rho], theta, T=rho if constant else None, unit="normalised")
        y, end = _normalised(x, scale, v0=v0, T=self.sim_len) if constant else _normalised(x, scale, v0=v0)
        self.neuron.v = end.v
        return y.flatten(0, 1)

    @staticmethod
    def probes(m):
        theta, few = float(m.v_threshold), max(1, min(2, m.batchsize))
        merged = max(few, m.batchsize // m.sim_len + 1)  # images, so that time and batch merged are more than batchsize
        return [
            ({}, [_probe(theta, few, 3, 4, 4)]),
            ({}, [_probe(theta, m.sim_len * merged, 3, 4, 4)]),
            ({}, [_probe(theta, m.sim_len * few, 6)]),
        ]


def _count_like(count, x):
    """A count that nothing reads: the plain neuron's state has one."""
    if count is None or count.shape != x.shape or count.device != x.device:
        return torch.zeros(x.shape, dtype=torch.int32, device=x.device)
    return count


def _probe(theta, *shape, seed=0):
    """Currents about the threshold; a third of them multiples of theta/8, where programs that differ in rounding differ in spikes."""
    g = torch.Generator().manual_seed(sum(shape) + seed)
    x = (torch.randn(shape, generator=g) * 0.8 + 0.3) * theta
    ties = (torch.rand(shape, generator=g) < 0.33) & (theta > 0)
    return torch.where(ties, (x * 8 / theta).round() * (theta / 8), x) if theta > 0 else x


KNOWN = (FusedIF, FusedQCFS, FusedSoftplusQCFS, FusedScaledNeuron, FusedSRP, FusedCOS)

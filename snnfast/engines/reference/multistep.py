"""The time loop in plain torch: the semantics of every neuron op.

x is [T, N], or [1, N] for a constant current; per-neuron arrays are [N] in the memory order of one step. theta is [C], or [K, C] for a neuron
with K parameters, of which theta is the first; neuron i has those of (i // inner) % C. The state (v, n) is in theta's dtype: fp32, or fp64 for fp64
input; between calls n is int32, unless it is a float memory.
"""

import torch

from snnfast.engines.form import EVERY, allocate, kept_shape
from snnfast.equations.bind import remembers, signed


def spread(theta, inner, N):
    """[C] -> [N] (a view where theta is one number)."""
    if theta.numel() == 1:
        return theta.expand(N)
    return theta.repeat_interleave(inner).repeat(N // (theta.numel() * inner))


def pack_bits(on):
    """[..., N] bool -> [..., ceil(N/32)] int32; neuron 32 w + j is bit j of word w; the tail is zero."""
    words = -(-on.size(-1) // 32)
    on = torch.nn.functional.pad(on.to(torch.int64), (0, 32 * words - on.size(-1))).unflatten(-1, (words, 32))
    w = (on << torch.arange(32, device=on.device)).sum(-1)
    return torch.where(w >= 2**31, w - 2**32, w).to(torch.int32)


def own_of(eq, theta, inner, N):
    """What the equation takes for theta: [N], or a tuple of [N] where it has more parameters."""
    if len(eq.parameters) == 1:
        return spread(theta, inner, N)
    return tuple(spread(row, inner, N) for row in theta)


def start(eq, x, theta, v, count, inner, v0, k):
    own = own_of(eq, theta, inner, x.size(1))
    v = eq.start(v0, own, k) if v is None else v.clone()
    n = torch.zeros_like(v) if count is None else count.to(v.dtype)
    return own, v, n


def row(x, t, dtype):
    return x[t if x.size(0) > 1 else 0].to(dtype)


def fwd_into(eq, s, x, theta, v, count, mask, T, inner, v0, spikes, every, k):
    """Runs T steps, writes the spikes to s, returns the final v, count and the kept states."""
    own, v, n = start(eq, x, theta, v, count, inner, v0, k)
    th, first = own[0] if isinstance(own, tuple) else own, n
    kept = v.new_empty(kept_shape(T, x.size(1), every, eq.gates(k)))
    for t in range(T):
        if every and t % every == 0:
            kept[t // every] = torch.stack((v, n))[: kept.size(1)]
        v, n, spike = eq.step(v, n, row(x, t, th.dtype), own, k)
        if mask is not None:
            spike = torch.where(mask, spike, 0.0)
        if spikes == "scaled":
            s[t] = spike * th
        elif spikes in ("unit", "int8"):
            s[t] = spike
        elif spikes == "bits" and not signed(k):
            s[t] = pack_bits(spike > 0)
        elif spikes == "bits":
            s[:, t] = pack_bits(torch.stack((spike > 0, spike < 0)))
    if spikes == "count":
        s.copy_(n - first if mask is None else torch.where(mask, n - first, 0.0))
    return v, n if remembers(k) else n.to(torch.int32), kept


def fwd(eq, x, theta, v, count, mask, T, inner, v0, spikes, every, k):
    s = allocate(x, T, spikes, signed(k))
    return s, *fwd_into(eq, s, x, theta, v, count, mask, T, inner, v0, spikes, every, k)


def bwd(eq, ds, dv, x, theta, v, count, mask, kept, T, inner, v0, k, every=EVERY):
    """Gradients of x (its shape and dtype), of the v before the first step [N], and of theta per neuron [N], or of K parameters [K, N]; an equation
    may ask for the last of them only (`eq.asked`).

    `kept` is what `fwd` kept; where that is nothing, the states are computed again.
    """
    started = v is None
    own, v, n = start(eq, x, theta, v, count, inner, v0, k)
    if kept.size(0) == 0:
        kept = fwd(eq, x, theta, v, count, None, T, inner, v0, "count", every, k)[3]
    n0, per_step, dtype = n, x.size(0) > 1 or T == 1, theta.dtype
    c = theta.new_zeros(x.size(1)) if dv is None else dv.to(dtype)
    shares = [theta.new_zeros(x.size(1)) for _ in eq.parameters]
    dx = x.new_zeros(x.shape) if per_step else theta.new_zeros(x.size(1))
    for r in range(kept.size(0) - 1, -1, -1):
        v = kept[r, 0]
        n = kept[r, 1] if kept.size(1) > 1 else n0
        states = []
        for t in range(r * every, min(T, (r + 1) * every)):
            states.append((t, v, n))
            v, n, _ = eq.step(v, n, row(x, t, dtype), own, k)
        for t, v, n in reversed(states):
            dy = theta.new_zeros(x.size(1)) if ds is None else ds[t].to(dtype)
            if mask is not None:
                dy = torch.where(mask, dy, 0.0)
            c, dx_t, share = eq.step_bwd(c, dy, v, n, row(x, t, dtype), own, k)
            shares = [total + new for total, new in zip(shares, share if isinstance(share, tuple) else (share,))]
            if per_step:
                dx[t] = dx_t
            else:
                dx = dx + dx_t
    if started:
        shares[0] = shares[0] + eq.start_bwd(c, v0, own, k)
    return dx.reshape(x.shape).to(x.dtype), c, shares[0] if theta.dim() == 1 else torch.stack(shares[len(shares) - eq.asked(k) :])

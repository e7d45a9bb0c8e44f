"""Channels in plain torch: the semantics of their sums, and of the line that is added to them.

x is [N] in memory order, [outer, C, inner]: element i is of channel (i // inner) % C.
"""

import torch

from snnfast.engines.reference.multistep import spread


def sums(eq, x, pivot, inner):
    """[2, C] in fp64: the sums of x - pivot and of its squares; pivot [C] in fp64."""
    C = pivot.numel()
    x = x.view(x.numel() // (C * inner), C, inner).double()
    zero = torch.zeros((), dtype=torch.float64, device=x.device)
    return torch.stack(eq.add(zero, zero, x, pivot.view(C, 1))).sum((1, 3))


def add(eq, y, x, line, inner):
    """y, in place; line: [2, C] in fp32 (fp64 for fp64 input)."""
    q, p = (spread(row, inner, x.numel()) for row in line)
    y.copy_(eq.corrected(y.to(q.dtype), x.to(q.dtype), q, p))

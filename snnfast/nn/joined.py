"""A network of several inputs as one of a single input, in which the values of an image lie one after the other."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from snnfast import checks


class JoinedInputs(torch.nn.Module):
    """A network of several inputs as a module of one tensor, which is what `snnfast.convert` and its runs take.

    `joined(net_inputs)` puts the inputs of a batch into one tensor [B, values of an image]; the module takes it apart and calls the network.
    Whole numbers (of an embedding) lie in it as floating ones and come out as they were.

    Args:
        net: the network.
        inputs: what it is called with for a batch: a tuple of tensors, net(*inputs), or a dictionary of them, net(**inputs); [B, ...] each. They
            give the shapes and dtypes.

    Raises:
        TypeError, ValueError: inputs are no tensors with a batch in front, or hold whole numbers that the floating ones' dtype
            rounds (beyond 2^24 in fp32, 2^11 in fp16); the message names which.

    >>> class Sum(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.a, self.b = torch.nn.Linear(4, 8), torch.nn.Linear(3, 8)
    ...         self.act, self.out = snnfast.nn.QCFS(levels=8, theta=1.0), torch.nn.Linear(8, 2)
    ...     def forward(self, x, y):
    ...         return self.out(self.act(self.a(x) + self.b(y)))
    >>> x, y = torch.randn(5, 4), torch.randn(5, 3)
    >>> net = snnfast.nn.JoinedInputs(Sum(), (x, y))
    >>> z = net.joined((x, y))
    >>> z.shape
    torch.Size([5, 7])
    >>> snn = snnfast.convert(net, sample=z)
    >>> snn(z, T=16).shape
    torch.Size([5, 2])
    """

    def __init__(self, net: torch.nn.Module, inputs: Any):
        super().__init__()
        self.net, self.names = net, tuple(map(str, inputs)) if isinstance(inputs, Mapping) else None
        given = self._tensors(inputs)
        self.shapes = tuple(tuple(t.shape[1:]) for _, t in given)
        self.dtypes = tuple(t.dtype for _, t in given)
        floating = {t.dtype for _, t in given if t.is_floating_point()}
        if len(floating) > 1:
            raise ValueError(f"inputs must be of one floating dtype, got {' and '.join(sorted(map(checks.dtype_name, floating)))}")
        self.joined(inputs)

    def _tensors(self, inputs):
        """[(name, tensor)]"""
        wanted = None if self.names is None else set(self.names)
        if self.names is None and isinstance(inputs, (tuple, list)):
            found = [(f"inputs[{i}]", t) for i, t in enumerate(inputs)]
        elif isinstance(inputs, Mapping) and wanted is not None and set(map(str, inputs)) == wanted:
            found = [(name, inputs[name]) for name in self.names]
        else:
            told = ", ".join(map(str, inputs)) if isinstance(inputs, Mapping) else type(inputs).__name__
            raise TypeError(f"inputs must be {'a tuple' if wanted is None else f'a dictionary of {self.names}'} of tensors, got {told}")
        for name, t in found:
            if not isinstance(t, torch.Tensor) or t.is_complex():
                told = checks.dtype_name(t.dtype) if isinstance(t, torch.Tensor) else type(t).__name__
                raise TypeError(f"{name} must be a torch.Tensor of real or whole numbers, got {told}")
            if t.dim() < 1 or not t.size(0) or t.size(0) != found[0][1].size(0):
                raise ValueError(f"{name} must be [B, ...] with the B of the others, got shape {tuple(t.shape)}")
        if not found:
            raise ValueError("inputs must hold at least one tensor")
        return found

    def joined(self, inputs: Any) -> torch.Tensor:
        """The inputs of a batch, in the form that they were given for, as one tensor [B, values of an image]."""
        found = self._tensors(inputs)
        if len(found) != len(self.shapes):
            raise ValueError(f"inputs must be {len(self.shapes)} tensors, got {len(found)}")
        for (name, t), shape in zip(found, self.shapes):
            if tuple(t.shape[1:]) != shape:
                raise ValueError(f"{name} must be [B{''.join(f', {n}' for n in shape)}], got shape {tuple(t.shape)}")
        dtype = next((d for d in self.dtypes if d.is_floating_point), torch.float32)
        digits = round(1 - math.log2(torch.finfo(dtype).eps))
        for name, t in found:
            if not t.is_floating_point() and t.numel() and int(t.long().abs().max()) > 1 << digits:
                raise ValueError(
                    f"{name} holds whole numbers beyond 2^{digits}, which do not lie in {checks.dtype_name(dtype)} as they are"
                )
        return torch.cat([t.reshape(t.size(0), -1).to(dtype) for _, t in found], 1)

    def forward(self, x: torch.Tensor) -> Any:
        parts = x.split([math.prod(shape) for shape in self.shapes], 1)
        own = [p.reshape(-1, *s) if d.is_floating_point else p.reshape(-1, *s).to(d) for p, s, d in zip(parts, self.shapes, self.dtypes)]
        return self.net(*own) if self.names is None else self.net(**dict(zip(self.names, own)))

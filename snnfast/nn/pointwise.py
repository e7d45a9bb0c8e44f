"""A function of single values that is written out in several operators, such as x sigmoid(1.702 x), as one layer."""

from torch import Tensor, nn


class Pointwise(nn.Module):
    """The value of the last of several calls.

    calls: `Call`s in order.  wires: for each call, the places of its inputs among x, the constants, and the results of the calls before it.
    constants: tensors among the arguments.
    """

    def __init__(self, calls, wires, constants=()):
        super().__init__()
        self.calls, self.wires, self.many = nn.ModuleList(calls), [list(w) for w in wires], len(constants)
        for i, constant in enumerate(constants):
            register = self.register_parameter if isinstance(constant, nn.Parameter) else self.register_buffer
            register(f"constant_{i}", constant)

    def forward(self, x: Tensor) -> Tensor:
        values = [x, *(getattr(self, f"constant_{i}") for i in range(self.many))]
        for call, wires in zip(self.calls, self.wires, strict=True):
            values.append(call(*(values[i] for i in wires)))
        return values[-1]

"""Memory that the layers of one run share: a buffer goes back when no value uses it any more, and the next layer takes it.

Touched pages stay touched, so a run pays for their first touch once, and its memory is that of the values that live at the same time.
"""

import torch


def choose(sizes, size):
    """Which of the free buffers of these sizes to take: (place, True) of the smallest that holds `size`; (place, False) of the largest, which is
    given up for a new one; (None, False) where none is free."""
    fits = [i for i, s in enumerate(sizes) if s >= size]
    if fits:
        return min(fits, key=lambda i: sizes[i]), True
    return (max(range(len(sizes)), key=lambda i: sizes[i]), False) if sizes else (None, False)


def new(device):
    """`Arena.take` of memory that nobody shares."""
    return lambda numel, dtype: torch.empty(numel, dtype=dtype, device=device)


class Arena:
    def __init__(self, device):
        self.device, self.free, self.used = device, [], []

    def take(self, numel, dtype):
        """A flat tensor of `numel` elements."""
        size = numel * dtype.itemsize
        at, fits = choose([b.numel() for b in self.free], size)
        buffer = None if at is None else self.free.pop(at)
        if not fits:
            buffer = None  # given up before the new one is made
            buffer = torch.empty(size, dtype=torch.uint8, device=self.device)
        self.used.append(buffer)
        return buffer[:size].view(dtype)

    def give_back(self, alive):
        """Buffers that no tensor of `alive` lies in become free."""
        if not self.used:
            return
        addresses = {_address(t) for t in alive if isinstance(t, torch.Tensor)}
        addresses |= {_address(t) for v in alive if isinstance(v, (tuple, list)) for t in v if isinstance(t, torch.Tensor)}
        still = [b for b in self.used if _address(b) in addresses]
        if len(still) < len(self.used):
            self.free += [b for b in self.used if _address(b) not in addresses]
            self.used = still

    def holds(self, tensor):
        return any(_address(tensor) == _address(b) for b in [*self.used, *self.free])


def _address(t):
    return t.untyped_storage().data_ptr()

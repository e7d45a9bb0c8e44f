"""Memory that the layers of one run share: a buffer that no value uses any more becomes free, and the next layer takes it.

Touched pages stay touched, so a run pays for the first touch of each page once. The memory of a run is that of the values alive at the same time.
"""

import torch

from snnfast.system import heap


def choose(sizes, size):
    """Which of the free buffers of these sizes to take, by best fit: (place, True) of the smallest buffer that holds `size`. If none fits,
    (place, False) of the largest, which the caller evicts for a new one. If no buffer is free, (None, False)."""
    fits = [i for i, s in enumerate(sizes) if s >= size]
    if fits:
        return min(fits, key=lambda i: sizes[i]), True
    return (max(range(len(sizes)), key=lambda i: sizes[i]), False) if sizes else (None, False)


class Arena:
    def __init__(self, device):
        self.device, self.free, self.used = device, [], []

    def take(self, numel, dtype):
        """A flat tensor of `numel` elements."""
        size = numel * dtype.itemsize
        at, fits = choose([b.numel() for b in self.free], size)
        buffer = None if at is None else self.free.pop(at)
        if not fits:
            buffer = None  # drop the evicted buffer before the new one is allocated
            buffer = torch.empty(size, dtype=torch.uint8, device=self.device)
        self.used.append(buffer)
        return buffer[:size].view(dtype)

    def give_back(self, alive):
        """Frees the buffers in which no tensor of `alive` lies."""
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


class Slabs:
    """Memory outside the heap for the tensors that a run keeps from chunk to chunk. On the heap, kept tensors would lie between short-lived ones:
    the freed blocks then fit no other tensor, and the heap grows to several times what is used. Pages of a slab that were never written are not
    resident."""

    SIZE = 64 << 20  # above 32 MiB the C library asks the system for memory of its own
    PLACE = 64
    SMALL = 1 << 20  # bytes of kept tensors that stay on the heap, so that a small network needs no slab
    LEFT = 32 << 20  # bytes of tensors that were let go, after which the heap is trimmed

    def __init__(self, device):
        self.wanted, self.slab, self.used, self.left, self.small = torch.device(device).type == "cpu", None, 0, 0, 0

    def keep(self, t):
        """A tensor with the values and the layout of t: t itself, which must be newly allocated, or a copy in a slab."""
        if not self.wanted or not t.numel() or not _is_dense(t):
            return t
        size = -(-t.nbytes // self.PLACE) * self.PLACE
        self.small += size
        if self.small <= self.SMALL:
            return t
        if self.slab is None or self.used + size > len(self.slab):
            self.slab, self.used = torch.empty(max(size, self.SIZE), dtype=torch.uint8), 0
        flat = self.slab[self.used : self.used + t.nbytes].view(t.dtype)
        self.used += size
        self.let_go(size)
        return flat.as_strided(t.shape, t.stride(), flat.storage_offset()).copy_(t)

    def let_go(self, size):
        """Notes that `size` bytes of a tensor on the heap are not kept."""
        self.left += size
        if self.wanted and self.left > self.LEFT:
            self.left = 0
            heap.release()


def _is_dense(t):
    """No gaps and no overlaps: [shape, stride] sorted by stride are those of a contiguous tensor."""
    expected = 1
    for stride, n in sorted((stride, n) for n, stride in zip(t.shape, t.stride()) if n > 1):
        if stride != expected:
            return False
        expected *= n
    return True


def _address(t):
    return t.untyped_storage().data_ptr()

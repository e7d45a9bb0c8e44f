"""What a chunk of time starts from, so that it runs a second time as it did the first: states of neurons, random numbers, autocast."""

import contextlib

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from snnfast.nn.neurons import IF


class Held:
    """The states that layers hold themselves: SpikingJelly's memories, and `IF(carry=True)`."""

    def __init__(self, net):
        self.layers = [m for m in net.modules() if isinstance(getattr(m, "_memories", None), dict) or (isinstance(m, IF) and m.carry)]

    def take(self):
        return [m.state if isinstance(m, IF) else dict(m._memories) for m in self.layers]

    def check(self):
        """Refuses memories with a graph."""
        if any(isinstance(t, Tensor) and t.requires_grad for t in tree_flatten(self.take())[0]):
            raise ValueError("a layer's memory has a graph from an earlier call: reset the network's states first, or detach them")

    def put(self, states):
        for m, state in zip(self.layers, states):
            if isinstance(m, IF):
                m.state = state
            else:
                m._memories.update(state)


class States:
    """States at boundaries of chunks, by the number of the chunk behind.

    most: how many. Their tensors lie in one piece of memory: one by one, between the values of chunks that come and go, they would leave gaps.
    """

    def __init__(self, most):
        self.most, self.at, self.rows = most, {}, None

    def put(self, i, state):
        leaves, form = tree_flatten(state)
        tensors = [t for t in leaves if isinstance(t, Tensor)]
        if not self.at or not tensors:  # the first is at rest, or the caller's own
            self.at[i] = state
            return
        if self.rows is None:
            self.rows = [t.new_empty((self.most, *t.shape)) for t in tensors]
        if [(t.shape, t.dtype) for t in tensors] != [(row.shape[1:], row.dtype) for row in self.rows]:
            raise ValueError("the states of net's neurons change their shape or dtype with time, and cannot be carried")
        place, rows = len(self.at) % self.most, iter(self.rows)
        self.at[i] = tree_unflatten([next(rows)[place].copy_(t) if isinstance(t, Tensor) else t for t in leaves], form)


def random_state(device):
    """The states of the generators that code on a device draws from."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


class Surroundings:
    """What a chunk finds around it, so that its second run is like its first: random numbers, autocast."""

    def __init__(self, device):
        self.device = device
        self.cast = dict(
            device_type=device.type, enabled=torch.is_autocast_enabled(device.type), dtype=torch.get_autocast_dtype(device.type),
            cache_enabled=torch.is_autocast_cache_enabled(),
        )  # fmt: skip
        self.rng = [random_state(device)]

    def note(self):
        """After each chunk. One that draws nothing keeps nothing more."""
        now, last = random_state(self.device), self.rng[-1]
        self.rng.append(last if all(map(torch.equal, now, last)) else now)

    @contextlib.contextmanager
    def again(self, i):
        """For chunk i."""
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []), torch.autocast(**self.cast):
            cpu, *cuda = self.rng[i]
            torch.set_rng_state(cpu)
            for state in cuda:
                torch.cuda.set_rng_state(state, self.device)
            yield


def detached(state):
    """A state without its graph."""
    leaves, form = tree_flatten(state)
    return tree_unflatten([t.detach() if isinstance(t, Tensor) else t for t in leaves], form)


def differentiable(state):
    """(a state whose floating numbers have gradients, those tensors)."""
    leaves, form = tree_flatten(state)
    leaves = [t.detach().requires_grad_(t.is_floating_point()) if isinstance(t, Tensor) else t for t in leaves]
    return tree_unflatten(leaves, form), [t for t in leaves if isinstance(t, Tensor) and t.is_floating_point()]

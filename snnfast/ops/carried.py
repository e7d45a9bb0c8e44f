"""States that neurons carry from one chunk of time to the next, while a network's own code runs chunk by chunk (`snnfast.backward_through_time`).

Inside `carrying`, the i-th neuron that is called without a state goes on from the i-th state of the chunk before. A call that is given the state
which an earlier call of the same chunk returned goes on from that one, as a loop over single steps does. The count of a neuron whose spikes do not
depend on it is not carried.
"""

import contextlib
import contextvars

import torch

_tape: contextvars.ContextVar = contextvars.ContextVar("_tape", default=None)
_depth = [0]  # how many chunks run at present: a plain number, which a compiler reads where it knows no context variables
_closed = [0]  # how many chunks take their gradients


class Tape:
    """The states of one chunk. before: those it starts from, or None for the first; after: those it ends with, in the order of the calls."""

    def __init__(self, before):
        self.before, self.after = before, []

    def through(self, call, make, stem, counted, state):
        """(spikes, state) of `call(state)`. make: a state of (v, count).  counted: whether the spikes depend on the count."""
        slot = None
        if state is not None:
            slot = next((i for i, end in enumerate(self.after) if end[0] is state[0]), None)
            if slot is None:
                raise ValueError(
                    f"{stem}: state comes from outside of the chunk that runs, and in backward_through_time neurons carry their state themselves: "
                    "call the neuron without state"
                )
        elif self.before is not None:
            if len(self.after) >= len(self.before):
                raise ValueError(
                    f"{stem}: this chunk calls more neurons than the one before, {len(self.before)}: the network changes with time"
                )
            state = self.before[len(self.after)]
        s, (v, count) = call(state if state is None or counted else (state[0], None))
        end = make(v, count if counted else NOT_CARRIED)
        if slot is None:
            self.after.append(end)
        else:
            self.after[slot] = end
        return s, end

    def check(self):
        """Refuses a chunk that called fewer neurons than the one before it."""
        if self.before is not None and len(self.after) != len(self.before):
            raise ValueError(
                f"this chunk calls {len(self.after)} neurons, and the one before called {len(self.before)}: the network changes with time"
            )


class _NotCarried:
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        raise RuntimeError("the count of a neuron whose spikes do not depend on it is not carried in backward_through_time: sum its spikes")


NOT_CARRIED = _NotCarried()


class _Closed:
    """In place of a tape while a chunk takes its gradients."""

    def through(self, call, make, stem, counted, state):
        raise RuntimeError(
            f"{stem} runs again while gradients are taken, as torch.utils.checkpoint makes it: backward_through_time runs each chunk again itself; "
            "leave the checkpoint out, or give a smaller chunk"
        )


_CLOSED = _Closed()


def active():
    """The tape of the chunk that runs, or None."""
    if not _depth[0]:
        return None
    tape = _tape.get()
    if tape is None and _closed[0] and torch._C._current_graph_task_id() != -1:  # in the backward, on whichever thread
        return _CLOSED
    return tape


@contextlib.contextmanager
def closed():
    """Inside, gradients of a chunk are taken, and a neuron that runs is refused: its tape is over."""
    _closed[0] += 1
    try:
        with carrying(None):
            yield
    finally:
        _closed[0] -= 1


@contextlib.contextmanager
def carrying(tape):
    """Neurons that are called inside carry their state by `tape`; with None, as they do otherwise."""
    token = _tape.set(tape)
    _depth[0] += 1
    try:
        yield tape
    finally:
        _depth[0] -= 1
        _tape.reset(token)


def alone():
    """Inside, a layer that holds its state itself is called."""
    return contextlib.nullcontext() if active() is None else carrying(None)

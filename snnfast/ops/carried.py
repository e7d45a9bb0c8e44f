"""States that neurons carry from one chunk of time to the next, while a network's own code runs chunk by chunk (`snnfast.backward_through_time`).

Inside `carrying`, the i-th neuron that is called without a state goes on from the i-th state of the chunk before. A call that is given the state
which an earlier call of the same chunk returned goes on from that one, as a loop over single steps does. The count of a neuron whose spikes do not
depend on it is not carried: it is None.
"""

import contextlib
import contextvars

_tape: contextvars.ContextVar = contextvars.ContextVar("_tape", default=None)
_depth = [0]  # how many chunks run at present: a plain number, which a compiler reads where it knows no context variables


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
        s, (v, count) = call(state)
        end = make(v, count if counted else None)
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


def active():
    """The tape of the chunk that runs, or None."""
    return _tape.get() if _depth[0] else None


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

"""Where the weights of a file and those of a network differ: names that are missing, names of others, shapes."""

from snnfast.system.text import plain

MOST_NAMED = 10


def differing(expected, state, of):
    """What is wrong with the weights `state`, a line each. expected: the network's.  of: what the network is called."""
    wrong = [f"{key} is missing" for key in expected if key not in state]
    wrong += [f"{plain(key, 80)} is not of {of}" for key in state if key not in expected]
    shapes = [(key, state[key].shape, t.shape) for key, t in expected.items() if key in state and not state[key].is_nested]
    return wrong + [f"{key} has shape {tuple(found)}, not {tuple(asked)}" for key, found, asked in shapes if found != asked]


def told(wrong, most=MOST_NAMED):
    """The first of them, in one line, and how many more there are."""
    more = f" and {len(wrong) - most} more" if len(wrong) > most else ""
    return "; ".join(wrong[:most]) + more

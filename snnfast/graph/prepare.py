"""A network's graph made ready for conversion, by one of two front ends: torch.export if there are sample images, else torch.fx."""

import contextlib
import contextvars
import copy

import torch

from snnfast import checks, nn
from snnfast.graph import drawn, guard, levels, trace
from snnfast.graph.copies import copied
from snnfast.graph.rewrite import fold_batch_norms

_kept: contextvars.ContextVar = contextvars.ContextVar("_kept", default=None)


@contextlib.contextmanager
def captured_once():
    """In this context, a network is captured once, however often it is converted. The network must not change meanwhile."""
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def prepared(net, samples=(), read=None):
    """As `_prepared`; inside `captured_once` a copy of what `_prepared` gave the first time."""
    kept = _kept.get()
    if kept is None or not len(samples):
        return _prepared(net, samples, read)
    if (id(net), read) not in kept:
        kept[id(net), read] = _prepared(net, samples, read)
    return copy.deepcopy(kept[id(net), read])


def _prepared(net, samples, read):
    """The fx.GraphModule of a copy of `net` in eval mode: nothing in place, no dropout, batch norms folded, no weight that is computed.

    samples: images [1, ...], for each of which the graph must give what the network gives. Without samples torch.fx records the forward, which must
    then ask for no size and take no branch; the caller then checks the graph with `doubt`.  read: which of several outputs.
    """
    if not len(samples):
        if read is not None:
            raise ValueError(f"read= names one of several outputs, which torch.fx does not take: {trace.GIVE}")
        return trace.prepared(net)
    from snnfast.graph.export import capture  # torch.export takes a second to import
    from snnfast.graph.lower import lowered

    net = copied(net)
    net = torch.nn.Sequential(net) if nn.is_quantised(net) else net
    guard.check_layers((name, m) for name, m in net.named_modules() if nn.is_quantised(m))
    levels.check_on(net, samples[0])
    gm = lowered(capture(net, samples), net, read)
    guard.check(gm, net, samples, fold_batch_norms)
    fold_batch_norms(gm)
    gm.graph.eliminate_dead_code()
    gm.delete_all_unused_submodules()
    gm.recompile()
    checks.weights(gm, "the captured network")
    for name, value in gm.named_buffers(recurse=False):
        checks.constant(name, value, "the captured network")
    return gm


def doubt(gm, net):
    """The error that refuses a graph of torch.fx, or None. A graph is refused if its outputs for a random image differ from the network's or cannot
    be compared, or if no image was found that the network takes."""
    net = copied(net)
    x = drawn.image(net)
    if x is None:
        told = "no image was found that it takes, to compare what torch.fx recorded of it"
        return ValueError(f"net cannot be converted without images: {told}; {trace.GIVE}")
    try:
        compared = guard.check(gm, net, [x])
    except ValueError as error:
        return error
    told = "what it gives for an image that was drawn is not finite, and cannot be compared with what torch.fx recorded of it"
    return None if compared else ValueError(f"net cannot be converted without images: {told}; {trace.GIVE}")

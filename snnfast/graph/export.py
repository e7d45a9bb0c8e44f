"""Networks captured by torch.export: a graph of operators that write nothing, with the batch as the one unknown size.

Layers of `snnfast.nn` stay whole: before the capture each calls an operator `snnfast::site`, one node with its name, in place of its own forward.
"""

import builtins
import contextlib
import functools
import warnings

import torch
from torch._subclasses import FakeTensor

from snnfast.graph.copies import stays_whole
from snnfast.system.text import first_line

# Images of a captured batch. torch takes another kernel for more: cuDNN's batch norm serves no more than these. A graph that is free above them too
# would be refused. It is a bound of the capture alone: a run goes through the modules, with as many images as it likes.
MOST = 65535


@torch.library.custom_op("snnfast::site", mutates_args=())
def site(x: torch.Tensor, name: str) -> torch.Tensor:
    """The place of a layer of the same shape in a captured network."""
    return x.clone()


@site.register_fake
def _(x, name):
    return torch.empty_like(x)


def capture(net, samples):
    """torch.export's program. net: a copy in eval mode, left as it was.

    samples: images [1, ...]; shapes are read off the first two, and no size but the batch's is unknown.
    """
    same = [s for s in samples if s.shape == samples[0].shape and s.dtype == samples[0].dtype]
    x = torch.cat([same[0], same[-1]]).contiguous().clone()
    whole = {name: m for name, m in net.named_modules(remove_duplicate=False) if stays_whole(m)}
    marked = {}
    for name, m in whole.items():
        marked.setdefault(m, name)
    for m, name in marked.items():
        m.forward = functools.partial(torch.ops.snnfast.site, name=name)
    try:
        try:
            return _program(net, x)
        except Exception as error:
            if not _makes_a_constant(error):
                raise
            with _sizes_from_len():
                return _program(net, x)
    except Exception as error:  # torch.export raises many kinds
        raise ValueError(f"net cannot be converted: {_why(net, error)}") from error
    finally:
        for m in marked:
            del m.forward


def _program(net, x):
    with warnings.catch_warnings(), torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        warnings.simplefilter("ignore")
        program = torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim("batch", max=MOST)},), strict=False)
        return program.run_decompositions({})


def _makes_a_constant(error):
    return "specialized" in str(error) or "Constraints violated" in str(error)


@contextlib.contextmanager
def _sizes_from_len():
    """Inside, len(h) of a tensor that is captured is a size, as h.size(0) is: Python's own makes a number of it."""
    plain = builtins.len

    def size(x):
        return x.shape[0] if isinstance(x, FakeTensor) and x.dim() else plain(x)

    builtins.len = size
    try:
        yield
    finally:
        builtins.len = plain


def _why(net, error):
    """What to say of a network that torch.export does not take."""
    text, name = first_line(error), f"{type(net).__name__}.forward{_where(net, error)}"
    if "data-dependent" in str(error) or "GuardOnDataDependent" in type(error).__name__:
        return f"a branch or a number of {name} goes by the values of the image ({text})"
    if _makes_a_constant(error):
        return f"{name} makes a constant of the number of images: write h.size(0) in its place ({text})"
    return f"torch.export cannot capture {name} ({text})"


def _where(net, error):
    """The innermost layer in whose forward an error was raised."""
    names, found, frame = {m: name for name, m in net.named_modules()}, "", error.__traceback__
    while frame is not None:
        m = frame.tb_frame.f_locals.get("self")
        if isinstance(m, torch.nn.Module) and names.get(m):
            found = f", in {names[m]} ({type(m).__name__})"
        frame = frame.tb_next
    return found

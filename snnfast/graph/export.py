"""Networks captured by torch.export: a graph of operators that write nothing, with the batch as the one unknown size.

Layers of `snnfast.nn` stay whole: during the capture each calls an operator `snnfast::site`, one node with the layer's name, not its own forward.
"""

import builtins
import contextlib
import functools
import warnings

import torch
from torch._subclasses import FakeTensor

from snnfast.graph.copies import stays_whole
from snnfast.system.text import first_line

# Most images in a captured batch. For more, torch takes another kernel, because cuDNN's batch norm serves no more than these; a graph without this
# bound would be refused. The bound holds for the capture alone: a run goes through the modules, with any number of images.
MOST = 65535


@torch.library.custom_op("snnfast::site", mutates_args=())
def site(x: torch.Tensor, name: str) -> torch.Tensor:
    """Marks the place of a layer in a captured network; the layer keeps the shape of its input."""
    return x.clone()


@site.register_fake
def _(x, name):
    return torch.empty_like(x)


def capture(net, samples):
    """torch.export's program. net: a copy in eval mode, left as it was.

    samples: images [1, ...]; the capture runs on the first and the last of those shaped as the first, and only the batch's size is unknown.
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
    """In this context, len(h) of a captured tensor is a symbolic size, as h.size(0) is. Python's own len makes a number of it."""
    plain = builtins.len

    def size(x):
        return x.shape[0] if isinstance(x, FakeTensor) and x.dim() else plain(x)

    builtins.len = size
    try:
        yield
    finally:
        builtins.len = plain


def _why(net, error):
    """The message for a network that torch.export does not take."""
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

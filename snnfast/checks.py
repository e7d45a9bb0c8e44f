"""Checks of what a caller gave: ValueError or TypeError that names the argument, what was given and what is allowed."""

import os

import torch
from torch._subclasses.fake_tensor import FakeTensor

INF = float("inf")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def dtype_name(dtype):
    """ "float32" of torch.float32."""
    return str(dtype).removeprefix("torch.")


def layout_name(value):
    """ "sparse_coo" of a tensor with the layout torch.sparse_coo."""
    return str(value.layout).removeprefix("torch.").removeprefix("_")


def tensor(name, value, dtypes=FLOATS, device=None):
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if value.dtype not in dtypes:
        allowed = ", ".join(map(dtype_name, dtypes))
        raise TypeError(f"{name} has dtype {dtype_name(value.dtype)}; allowed: {allowed}")
    if value.layout is not torch.strided or value.is_nested:
        raise TypeError(f"{name} must be a dense tensor, got a {'nested' if value.is_nested else layout_name(value)} one")
    if device is not None and value.device != device:
        raise ValueError(f"{name} is on {value.device}, but x is on {device}")
    return value


def resolved(value):
    """A tensor that waits to be computed, as `snnfast.nn.deferred` has them, as what it stands for; anything else as it is."""
    waits = type(value) is not torch.Tensor and isinstance(value, torch.Tensor) and hasattr(value, "resolve")
    return value.resolve() if waits else value


def number(name, value, positive=False):
    kind = type(value)
    if kind is not float and kind is not int and (kind is bool or not isinstance(value, (int, float, torch.SymInt, torch.SymFloat))):
        raise TypeError(f"{name} must be a number, got {kind.__name__}")
    # Comparisons only: torch.compile follows them with a number that varies.
    if value != value or value in (INF, -INF) or (positive and value <= 0):
        raise ValueError(f"{name} must be {'> 0 and ' if positive else ''}finite, got {value}")
    return value if isinstance(value, torch.SymFloat) else float(value)


def share(name, value):
    """A number in [0, 1)."""
    if not 0 <= number(name, value) < 1:
        raise ValueError(f"{name} must be in [0, 1), got {value}")
    return float(value)


def integer(name, value, least=1):
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be >= {least}, got {value}")
    return value


MOST_STEPS = 1 << 24  # up to which fp32 counts exactly


def steps(name, value):
    """A number of time steps of a run."""
    if integer(name, value) > MOST_STEPS:
        raise ValueError(f"{name} must be <= 2^24 = {MOST_STEPS}, up to which counts are exact, got {value}")
    return value


SEEDS = 1 << 63


def seed(name, value):
    if integer(name, value, 0) >= SEEDS:
        raise ValueError(f"{name} must be < 2^63, got {value}")
    return value


def yes_or_no(name, value):
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {type(value).__name__}")
    return value


def device(name, value):
    """A device that is there."""
    try:
        found = torch.device(value)
        torch.empty(1, device=found)
    except Exception as error:  # torch raises many kinds, all with a reason
        raise ValueError(f"{name} {value}: {str(error).splitlines()[0].split('. ')[0]}") from None
    if found.type == "meta":
        raise ValueError(f"{name} meta: its tensors hold no numbers, so there is nothing to compute with")
    return found


def workers(value):
    """A number of processes that load images: no more than four for each processor, and 64 on a small machine."""
    most = max(64, 4 * (os.cpu_count() or 1))
    if integer("workers", value, 0) > most:
        raise ValueError(f"workers must be at most {most} here, got {value}: each is a process")
    return value


def choice(name, value, allowed):
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(repr(a) for a in allowed)}; got {value!r}")
    return value


def broadcasts(name, shape, onto):
    """`shape` broadcasts over `onto` without growing it."""
    pairs = zip(reversed(shape), reversed(onto))
    if len(shape) > len(onto) or any(a != b and a != 1 for a, b in pairs):
        raise ValueError(f"{name} has shape {tuple(shape)}, which does not broadcast over one step of shape {tuple(onto)}")


def positive(name, theta):
    """Thresholds are finite and > 0. Reads the values (a host synchronisation): for set-up, never for launches."""
    t = theta.detach()
    if t.is_meta:  # has no values
        return theta
    bad = ~(torch.isfinite(t) & (t > 0))
    if bool(bad.any()):
        value = t[bad].flatten()[0].item()
        raise ValueError(f"{name} must be > 0 and finite, got {value} ({int(bad.sum())} of {t.numel()} thresholds)")
    return theta


def start(t):
    """Where t begins: (0, its address); of a meta or fake tensor, whose address is 0 wherever it lies, (its storage, the byte there)."""
    if t.is_meta or isinstance(t, FakeTensor):
        return t.untyped_storage()._cdata, t.storage_offset() * t.element_size()
    return 0, t.data_ptr()


def span(t):
    """Where t lies, as `start` says it, and the bytes [first, last) that it touches there."""
    where, low = start(t)
    if t.is_contiguous():
        return where, low, low + t.nbytes
    reach = sum((n - 1) * s for n, s in zip(t.shape, t.stride()))
    return where, low, low + (reach + 1) * t.element_size()


def disjoint(out, **inputs):
    """No input shares memory with out."""
    if torch.compiler.is_compiling() or out.numel() == 0:
        return
    where, low, high = span(out)
    for name, t in inputs.items():
        if t is None or t.numel() == 0 or t.device != out.device:
            continue
        there, a, b = span(t)
        if there == where and a < high and low < b:
            raise ValueError(f"out overlaps the memory of {name}; give it memory of its own")


def count_not_finite(t):
    """How many numbers of t are NaN or infinite. Where there are none it takes no memory: the least and the largest are NaN where one is."""
    if not t.numel() or bool(torch.isfinite(torch.stack(torch.aminmax(t))).all()):
        return 0
    return int(torch.count_nonzero(~torch.isfinite(t)))


def weights(net, where="net"):
    """Refuses a network with a parameter or a running statistic that is not finite, or with a variance below 0: nothing that it computes would mean
    anything."""
    statistics = [(name, t) for name, t in net.named_buffers() if name.endswith(("running_mean", "running_var"))]
    for name, t in [*net.named_parameters(), *statistics]:
        if torch.nn.parameter.is_lazy(t) or t.is_meta or not t.is_floating_point():
            continue
        bad = count_not_finite(t.detach())
        if bad:
            raise ValueError(f"{name} of {where} has {bad} of {t.numel()} numbers that are not finite (NaN or infinity)")
        if name.endswith("running_var") and bool((t < 0).any()):
            raise ValueError(f"{name} of {where} has {int((t < 0).sum())} of {t.numel()} variances below 0")


def constant(name, t, where):
    """Refuses a constant with NaN. It may be infinite, as a mask is, and of a kind that is not looked into."""
    if t.dtype in FLOATS and t.layout == torch.strided and not t.is_meta and bool(t.isnan().any()):
        raise ValueError(f"{name} of {where} has {int(t.isnan().sum())} of {t.numel()} numbers that are NaN")

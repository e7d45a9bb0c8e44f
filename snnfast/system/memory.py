"""How much memory there is, how much is used, and how a budget is written."""

import contextlib
import importlib
import os
import re
import sys
import threading
import warnings
from pathlib import Path

import torch

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}
MARGIN = {"cpu": 0.8, "cuda": 0.9}  # share of the free memory that "auto" takes


def parse(memory):
    """Bytes of "8GiB", "500 MB" or a number; "auto" and None as they are."""
    if memory in (None, "auto"):
        return memory
    if isinstance(memory, bool) or not isinstance(memory, (int, float, str)):
        raise TypeError(f"memory must be 'auto', a number of bytes or a text such as '8GiB', got {type(memory).__name__}")
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:[eE][0-9]+)?)\s*([A-Za-z]*)\s*", str(memory))
    if not found or found[2].upper() not in UNITS:
        raise ValueError(f"memory must be 'auto', a number of bytes or a text such as '8GiB' or '500MB', got {memory!r}")
    size = float(found[1]) * UNITS[found[2].upper()]
    if size < 1:
        raise ValueError(f"memory must be > 0, got {memory!r}")
    if size >= 1 << 63:
        raise ValueError(f"memory must be below 2^63 bytes, got {memory!r}")
    return int(size)


def told(size):
    """Bytes for people."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size / unit:.2f} {name}" if size < 10 * unit else f"{size / unit:.0f} {name}"
    return f"{size} B"


def used(device):
    """Bytes this process holds now: resident memory on a CPU, what torch reserved on a GPU."""
    if torch.device(device).type == "cuda":
        return torch.cuda.memory_reserved(device)
    return _status("VmRSS")


def peak(device):
    """The most this process held since `restart_peak` (on systems that cannot restart it: since it began)."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return _status("VmHWM")


def restart_peak(device):
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not allowed here: the peak is that of the process
        pass


def _status(key):
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:  # not Linux
        return _elsewhere(key)
    return int(next(line for line in lines if line.startswith(key + ":")).split()[1]) << 10


def _elsewhere(key):
    """The same by psutil where it is installed, else the peak alone, where the system tells it; else 0, with a warning."""
    info = resource = None
    with contextlib.suppress(ImportError):
        info = importlib.import_module("psutil").Process().memory_info()
    with contextlib.suppress(ImportError):
        resource = importlib.import_module("resource")
    if info is not None and key == "VmRSS":
        return int(info.rss)
    if hasattr(info, "peak_wset"):  # Windows
        return int(info.peak_wset)
    if resource is not None:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most << 10
    if info is not None:
        return int(info.rss)
    warnings.warn("how much memory this process holds is not known here, and told as 0: install psutil", stacklevel=3)
    return 0


def free(device):
    """Bytes that could still be taken: of the GPU, or of the machine and the control group this process is in."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        raise ValueError("memory='auto' reads /proc/meminfo, which is not here: give a number, such as '8GiB'") from None
    found = int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]) << 10
    for limit, now in (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")):
        try:
            limit, now = (Path("/sys/fs/cgroup", name).read_text().strip() for name in (limit, now))
        except OSError:
            continue
        if limit.isdigit() and int(limit) < 1 << 60:
            found = min(found, max(0, int(limit) - int(now)))
    return found


def budget(memory, device):
    """Bytes that the whole process may hold, from what `parse` gave."""
    if memory == "auto":
        kind = "cuda" if torch.device(device).type == "cuda" else "cpu"
        beside = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if kind == "cpu" else 1  # torchrun's processes share the machine
        return used(device) + int(MARGIN[kind] * free(device)) // beside
    return memory


_WORDS = (
    "out of memory",
    "can't allocate memory",
    "bad_alloc",
    "bad allocation",
    "Cannot allocate memory",
    "STATUS_ALLOC_FAILED",
    "could not create a primitive",
)


def is_out(error):
    """Whether an error says that there was not enough memory."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


_limits: dict[int, list[float]] = {}  # of a GPU: its share before, and what runs at the same time asked for
_lock = threading.Lock()


@contextlib.contextmanager
def within(budget, device):
    """On a GPU, torch takes no more than `budget` bytes inside: cuDNN then chooses algorithms whose working memory fits, which no plan knows
    beforehand (an H200 took 2.9 GiB of a budget of 1.7), and what still does not fit is out of memory. Of several at the same time the smallest
    holds. None: no limit. A CPU has none."""
    device = torch.device(device)
    if budget is None or device.type != "cuda":
        yield
        return
    index = torch.cuda.current_device() if device.index is None else device.index
    share = min(1.0, budget / torch.cuda.mem_get_info(index)[1])
    with _lock:
        limits = _limits.setdefault(index, [torch.cuda.get_per_process_memory_fraction(index)])
        limits.append(share)
        torch.cuda.set_per_process_memory_fraction(min(limits), index)
    try:
        yield
    finally:
        with _lock:
            limits.remove(share)
            torch.cuda.set_per_process_memory_fraction(min(limits), index)
            if len(limits) == 1:
                del _limits[index]

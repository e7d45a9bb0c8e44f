"""Systems that are not Linux, simulated: no /proc, other units, no module `resource`, no C library by no name."""

import ctypes
import pathlib
import resource
import subprocess
import sys
import types

import command
import pytest

from snnfast.system import memory


@pytest.fixture
def no_proc(monkeypatch):
    """/proc cannot be read, and psutil is not installed."""
    real = pathlib.Path.read_text

    def read(self, *args, **kwargs):
        if str(self).startswith("/proc"):
            raise FileNotFoundError(str(self))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(pathlib.Path, "read_text", read)
    monkeypatch.setitem(sys.modules, "psutil", None)


@pytest.mark.parametrize("platform, unit", [("darwin", 1), ("freebsd14", 1024)])
def test_the_unit_is_the_systems(no_proc, monkeypatch, platform, unit):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(resource, "getrusage", lambda who: types.SimpleNamespace(ru_maxrss=(300 << 20) // unit))
    assert memory.used("cpu") == memory.peak("cpu") == 300 << 20


def test_psutil_where_it_is_installed(no_proc, monkeypatch):
    process = types.SimpleNamespace(memory_info=lambda: types.SimpleNamespace(rss=5 << 20, peak_wset=7 << 20))
    monkeypatch.setitem(sys.modules, "psutil", types.SimpleNamespace(Process=lambda: process))
    assert (memory.used("cpu"), memory.peak("cpu")) == (5 << 20, 7 << 20)
    process = types.SimpleNamespace(memory_info=lambda: types.SimpleNamespace(rss=5 << 20))  # macOS: the peak is the system's
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(resource, "getrusage", lambda who: types.SimpleNamespace(ru_maxrss=9 << 20))
    assert (memory.used("cpu"), memory.peak("cpu")) == (5 << 20, 9 << 20)


def test_where_nothing_tells_it(no_proc, monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    with pytest.warns(UserWarning, match="told as 0: install psutil"):
        assert memory.used("cpu") == 0


def test_import_where_the_program_is_no_library():
    """On Windows ctypes.CDLL(None) is a TypeError."""
    assert ctypes.CDLL(None)
    program = """
import ctypes
real = ctypes.CDLL.__init__
def init(self, name, *args, **kwargs):
    if name is None:
        raise TypeError("argument of type 'NoneType' is not iterable")
    return real(self, name, *args, **kwargs)
ctypes.CDLL.__init__ = init
import snnfast
from snnfast.system import heap
heap.release()
print("fine")
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=command.ENV)
    assert run.stdout == "fine\n", run.stderr[-1000:]

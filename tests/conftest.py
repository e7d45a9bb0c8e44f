"""Shared by all tests: Triton's interpreter where there is no GPU, memory full of NaN, the backends, the golden files."""

import contextlib
import os
import random
import signal
from pathlib import Path

import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the workers share the cores

HAS_CUDA = torch.cuda.is_available()
DEVICE = "cuda" if HAS_CUDA else "cpu"  # where Triton's kernels run: on the GPU, else interpreted on the CPU
if not HAS_CUDA:
    os.environ["TRITON_INTERPRET"] = "1"  # read when snnfast.engines.triton is first imported

import numpy as np
import on_host
import pytest

import snnfast
from snnfast.data import declare_operators
from snnfast.engines import backends

declare_operators()  # before a test imports timm, which imports torchvision

GOLDEN = Path(__file__).resolve().parent / "golden"


def pytest_addoption(parser):
    parser.addoption("--thorough", action="store_true", help="more kills, more calls, and tests that take long")
    parser.addoption("--shuffle", metavar="SEED", help="the tests in a random order, the same for the same seed")
    parser.addoption("--browser", action="store_true", help="fail where a test of `snnfast web` has no browser")
    parser.addoption("--on-host", metavar="FOLDER", help="the build folder whose CUDA kernels for the host are tested")


def pytest_collectstart(collector):
    """What a file of tests draws when it is imported does not go by the files before it."""
    torch.manual_seed(0)


def pytest_collection_modifyitems(config, items):
    if config.getoption("--shuffle"):
        random.Random(config.getoption("--shuffle")).shuffle(items)
    if not config.getoption("--thorough"):
        for item in items:
            if item.get_closest_marker("thorough"):
                item.add_marker(pytest.mark.skip(reason="takes long: pytest --thorough, as make test-thorough does"))


def pytest_configure(config):
    config.addinivalue_line("markers", "thorough: takes long, and is run with --thorough alone")
    if config.getoption("--on-host"):
        on_host.given.append(config.getoption("--on-host"))


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Uninitialised memory is filled with NaN (or the largest int), so that an element nobody wrote is seen."""
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.manual_seed(0)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def heeds_interrupts():
    """Ctrl-C interrupts, also where the tests are a shell's background job, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def threads(many):
    """Runs on so many threads, then on as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(many)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def isas():
    """The instruction sets that this processor runs."""
    return backends._C.isas() if backends._C else []


@pytest.fixture
def isa(request):
    """Runs a test on one instruction set of the compiled library, then goes back to the best."""
    if backends._C is None:
        pytest.fail("the compiled library is missing: run `make`")
    backends._C.use_isa(request.param)
    yield request.param
    backends._C.use_isa(backends._C.isas()[0])


@pytest.fixture(scope="session")
def golden():
    """Reads what the authors' programs gave, by file name, as a dictionary of arrays."""

    def read(name):
        with np.load(GOLDEN / f"{name}.npz") as file:
            return {k: file[k] for k in file.files}

    return read


@pytest.fixture(scope="session")
def tiny():
    """A trained-looking VGG-11 (batch norm statistics, uneven thresholds) and a batch of images."""
    torch.manual_seed(3)
    net = snnfast.models.vgg11(width=0.0625, in_channels=1, theta=1.0)
    for _ in range(3):
        net.train()(torch.randn(16, 1, 32, 32))
    net = snnfast.to_channelwise(net.eval())
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, snnfast.nn.CSQCFS):
                m.lam += 0.3 * torch.randn(m.lam.shape)
    return net.eval(), torch.randn(6, 1, 32, 32)


@pytest.fixture(scope="session")
def checkpoint(tiny, tmp_path_factory):
    """The tiny network as a file that says it is for digits."""
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.pt"
    snnfast.save_checkpoint(path, tiny[0], data="digits", image_size=32)
    return path

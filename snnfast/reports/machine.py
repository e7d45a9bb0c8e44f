"""What a result was computed with: machine, versions, commit."""

import platform
import subprocess
from pathlib import Path

import torch

from snnfast.ops import info
from snnfast.version import __version__


def cpu():
    """The processor's name, with its family and model: names of virtual machines may hide the generation."""
    try:
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    except OSError:
        return platform.machine()
    found = {key.strip(): value.strip() for key, _, value in reversed(lines)}
    if "model name" not in found:
        return platform.machine()
    return found["model name"] + "".join(
        f" {key} {found[name]}" for key, name in (("family", "cpu family"), ("model", "model")) if name in found
    )


def commit():
    """The commit of the checkout this package runs from, with "+" where files differ from it; None outside of one."""
    folder = Path(__file__).resolve().parent
    try:
        git = lambda *args: subprocess.run(["git", "-C", str(folder), *args], capture_output=True, text=True, timeout=10, check=True).stdout
        if not git("ls-files", "--error-unmatch", Path(__file__).name):
            return None
        return git("rev-parse", "--short=12", "HEAD").strip() + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def machine(device="cpu"):
    """A dictionary of plain values."""
    device = torch.device(device)
    found = dict(
        cpu=cpu(), threads=torch.get_num_threads(), system=platform.platform(), python=platform.python_version(), torch=torch.__version__,
        snnfast=__version__, commit=commit(), kernels=info.info()["cuda" if device.type == "cuda" else "cpu"],
    )  # fmt: skip
    if device.type == "cuda":
        found |= dict(gpu=torch.cuda.get_device_name(device), cuda=torch.version.cuda)
    return found

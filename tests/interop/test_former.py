"""SpikingJelly as the authors' programs have it, 0.0.0.0.12 and 0.0.0.0.14: every neuron fused, each version in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


@pytest.mark.parametrize("version", ["12", "14"])
def test_neurons_of_a_former_version(version):
    packages = Path(sys.prefix) / "former" / version  # where `make` puts them
    if not packages.is_dir():
        pytest.skip(f"spikingjelly 0.0.0.0.{version} is not installed in {packages}")
    path = os.pathsep.join([str(packages), str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, HERE / "former.py", version], env=os.environ | dict(PYTHONPATH=path), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "164 settings, equal"

"""Networks of torchvision and timm as they are: a few of each kind, small; all of them are in bench/zoo.py."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
import zoo

pytest.importorskip("torchvision"), pytest.importorskip("timm")

# (network, steps): in "per_step" the error falls as 1/T; in "differential" with 1/levels.
NETWORKS = [
    ("timm:regnetx_002", 512),
    pytest.param("timm:resnetblur18", 512, marks=pytest.mark.thorough),
    pytest.param("timm:repvgg_a0", 256, marks=pytest.mark.thorough),
    ("torchvision:squeezenet1_1", 512),
    ("torchvision:shufflenet_v2_x0_5", 64),
    ("timm:seresnet18", 512),
    pytest.param("timm:skresnet18", 512, marks=pytest.mark.thorough),
    pytest.param("timm:ese_vovnet19b_dw", 512, marks=pytest.mark.thorough),
    pytest.param("timm:tinynet_e", 600, marks=pytest.mark.thorough),
]


@pytest.mark.filterwarnings("ignore:T is too small")
@pytest.mark.parametrize("name, T", NETWORKS)
def test_comes_near_its_network(name, T):
    torch.use_deterministic_algorithms(False)  # its fills of every value that torch makes take most of the time
    found = zoo.row(name, T, levels=256)
    assert "refused" not in found and found["error"] < 0.02, found
    assert found["error"] < found["first_error"] / 4


def test_the_list_is_of_networks_that_exist():
    import timm

    known = set(timm.list_models())
    assert not [name for name in zoo.TIMM if name not in known] and len(set(zoo.ZOO)) == len(zoo.ZOO) >= 60


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:T is too small")
@pytest.mark.parametrize("name", zoo.ZOO)
def test_every_network_of_the_table(name):
    """As its last stored row was made. `efficientnetv2_rw_t`, of 99 layers one behind the other, is not through after 512 steps."""
    torch.use_deterministic_algorithms(False)
    last = [row for row in zoo.stored.read("zoo") if row["row"] == name][-1]
    differs = last["mode"] == "differential" and last.get("per") == "neuron"
    found = zoo.row(name, 512, last.get("levels", 256), mode="differential" if differs else None, per=last.get("per", "layer"))
    assert found["error"] < (0.04 if name == "timm:efficientnetv2_rw_t" else 0.02), found

"""LAMB, which large batches of transformers are trained with: timm's (You et al., ICLR 2020)."""

import importlib.util
from typing import Any

import torch

from snnfast.data import declare_operators
from snnfast.training.optimisers import MORE


def lamb(groups: Any, lr: float) -> torch.optim.Optimizer:
    """The optimiser of these groups. ModuleNotFoundError: timm is not installed."""
    if importlib.util.find_spec("timm") is None:
        raise ModuleNotFoundError("optimiser 'lamb' is timm's: pip install --no-deps timm", name="timm")
    declare_operators()  # before timm imports torchvision
    from timm.optim import Lamb

    return Lamb(groups, lr=lr)


MORE["lamb"] = lamb

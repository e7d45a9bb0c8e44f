"""Training of quantised networks: SGD with momentum and a cosine schedule, the recipe of the QCFS line of papers, or AdamW for transformers."""

from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np
import torch
from torch.nn import functional as F

from snnfast import checks
from snnfast.data.batches import pair
from snnfast.training.optimisers import optimiser_of, parameter_groups, warmed_cosine

IGNORED = -100  # torch's label of what does not count


def _check(net, loader, epochs, lr, weight_decay, warmup):
    if not isinstance(net, torch.nn.Module):
        raise TypeError(f"net must be a torch.nn.Module, got {type(net).__name__}")
    if not isinstance(loader, Iterable) and not hasattr(loader, "__getitem__"):
        raise TypeError(f"loader must be an iterable of (images, labels), got {type(loader).__name__}")
    if not isinstance(epochs, np.integer):
        checks.integer("epochs", epochs, 0)
    checks.integer("warmup", warmup, 0)
    if not isinstance(lr, torch.Tensor) and checks.number("lr", lr) < 0:
        raise ValueError(f"lr must be >= 0, got {lr}")
    if checks.number("weight_decay", weight_decay) < 0:
        raise ValueError(f"weight_decay must be >= 0, got {weight_decay}")


def fit(
    net: torch.nn.Module,
    loader: Iterable,
    epochs: int,
    lr: float,
    *,
    weight_decay: float = 5e-4,
    augment: Callable[[torch.Tensor], torch.Tensor] | None = None,
    device: str | torch.device = "cpu",
    on_epoch: Callable[[int, float, float], None] | None = None,
    optimiser: Literal["sgd", "adamw"] = "sgd",
    warmup: int = 0,
) -> list[float]:
    """Trains `net` in place and leaves it in eval mode.

    Args:
        loader: batches (images [B, ...], labels [B]), or dictionaries of them; read once in every epoch.
        epochs, lr: length and first learning rate of the cosine schedule, which ends at 0.
        augment: function of the images of a batch.
        on_epoch: called after each epoch with (epoch, mean loss, training accuracy in %).
        optimiser: "sgd", with momentum 0.9, or "adamw".  warmup: epochs in which the rate rises to lr, before the cosine.

    Returns:
        Mean loss of each epoch.

    Raises:
        ValueError, TypeError: naming the argument, what was given and what is allowed; `net` is then as it was, but for a batch that is wrong later.

    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), snnfast.nn.QCFS(levels=8, theta=1.0), torch.nn.Linear(8, 2))
    >>> batch = torch.randn(16, 4), torch.randint(2, (16,))
    >>> losses = snnfast.training.fit(net, [batch], epochs=3, lr=0.1)
    >>> len(losses)
    3
    """
    _check(net, loader, epochs, lr, weight_decay, warmup)
    descent = optimiser_of(optimiser, parameter_groups(net, weight_decay), lr, nesterov=True)
    schedule = warmed_cosine(descent, epochs, warmup)
    losses: list[float] = []
    net.to(device).train()
    for epoch in range(epochs):
        seen, total, correct = 0, torch.zeros((), device=device), torch.zeros((), dtype=torch.int64, device=device)
        for batch in loader:
            x, y = pair(batch, whole=True)
            if not len(y):
                continue
            least, most = (int(y.min()), int(y.max())) if y.device.type == "cpu" else (0, -1)  # on a GPU asking would wait
            if least < 0 and least != IGNORED:
                raise ValueError(f"loader gives label {least}: labels are 0, 1, ..., or {IGNORED} for none")
            x, y = x.to(device), y.to(device)
            logits = net(x if augment is None else augment(x))
            if not isinstance(logits, torch.Tensor):
                raise ValueError(f"net must give logits [B, classes], got {type(logits).__name__}: it wants a loss of its own")
            if logits.dim() != 2 or most >= logits.size(1):
                told = f"class {most}" if logits.dim() == 2 else "images"
                raise ValueError(
                    f"loader gives {told}, and net logits of shape {tuple(logits.shape)}: [B, classes] are wanted, for each label one"
                )
            loss = F.cross_entropy(logits, y)
            descent.zero_grad(set_to_none=True)
            loss.backward()
            descent.step()
            total += loss.detach() * len(y)
            correct += (logits.detach().argmax(1) == y).sum()
            seen += len(y)
        if not seen:
            raise ValueError("loader gave no images" + (f" in epoch {epoch}: it must be read once in every epoch" if epoch else ""))
        schedule.step()
        losses.append(float(total) / seen)
        if on_epoch:
            on_epoch(epoch, losses[-1], 100 * float(correct) / seen)
    net.eval()
    return losses

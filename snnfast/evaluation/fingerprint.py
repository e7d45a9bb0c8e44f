"""What the result of an evaluation depends on, in short: a run may only be resumed with the same network, data and settings."""

import hashlib

import torch
from torch.utils.data import Subset, TensorDataset, default_collate


def of_network(*nets):
    """A hash of the code, weights, buffers and settings of networks."""
    found = hashlib.sha256()
    for net in nets:
        if net is None:
            continue
        gm = getattr(net, "gm", net)
        found.update((getattr(gm, "code", None) or type(gm).__name__).encode())
        found.update(repr(getattr(net, "levels", None)).encode())
        for name, module in gm.named_modules():
            found.update(f"{name} {type(module).__name__} {_settings(module)}".encode())
        for key, t in sorted(net.state_dict().items()):
            found.update(key.encode())
            _take_in(found, t)
    return found.hexdigest()[:16]


def _settings(module):
    """What a module holds beside tensors: window sizes, levels, options of neurons."""
    kept = {k: v for k, v in vars(module).items() if not k.startswith("_") and k not in ("training", "state")}
    plain = {k: getattr(v, "__name__", v) for k, v in kept.items() if not isinstance(v, (torch.nn.Module, torch.Tensor))}
    return sorted((k, repr(v)) for k, v in plain.items() if " at 0x" not in repr(v))


def of_data(data, samples=64):
    """Length of a data set, a hash of all its labels where they can be had without the images, and of images and labels spread over it."""
    many, found = len(data), hashlib.sha256()
    found.update(repr(_labels(data)).encode())
    for i in sorted({many * k // samples for k in range(samples)} | {many - 1}):
        for t in default_collate([data[i]]):
            _take_in(found, t)
    return f"{many} images, {found.hexdigest()[:16]}"


def _labels(data):
    """The labels as a list, or None if only reading every image would tell them."""
    if isinstance(data, Subset):
        labels = _labels(data.dataset)
        return None if labels is None else [labels[i] for i in data.indices]
    labels = data.tensors[1] if isinstance(data, TensorDataset) and len(data.tensors) == 2 else getattr(data, "targets", None)
    if labels is None and hasattr(data, "samples"):
        labels = [sample[1] for sample in data.samples]
    return None if labels is None else [int(y) for y in labels]


def of_loader(loader, batch):
    """Number of batches, where the loader knows it, and a hash of its first."""
    found = hashlib.sha256()
    for t in batch:
        _take_in(found, t)
    many = f"{len(loader)} batches, " if hasattr(loader, "__len__") else ""
    return f"{many}the first {found.hexdigest()[:16]}"


def _take_in(found, t):
    found.update(f"{tuple(t.shape)} {t.dtype}".encode())
    found.update(torch.empty(t.numel(), dtype=t.dtype).copy_(t.detach().flatten()).view(torch.uint8).numpy())

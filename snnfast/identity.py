"""What the result of an evaluation depends on, in short: a run may only be resumed with the same network, data and settings."""

import hashlib

import torch


def of_network(*nets):
    """A hash of the weights, buffers and code of networks."""
    found = hashlib.sha256()
    for net in nets:
        if net is None:
            continue
        gm = getattr(net, "gm", net)
        found.update((getattr(gm, "code", None) or repr(gm)).encode())
        for key, t in sorted(net.state_dict().items()):
            found.update(key.encode())
            _take_in(found, t)
    return found.hexdigest()[:16]


def of_data(data, samples=16):
    """Length of a data set and a hash of images and labels spread over it."""
    many, found = len(data), hashlib.sha256()
    for i in sorted({many * k // samples for k in range(samples)} | {many - 1}):
        x, y = data[i]
        _take_in(found, x)
        found.update(str(int(y)).encode())
    return f"{many} images, {found.hexdigest()[:16]}"


def of_batch(batch):
    """A hash of one batch."""
    found = hashlib.sha256()
    for t in batch:
        _take_in(found, t)
    return f"first batch {found.hexdigest()[:16]}"


def _take_in(found, t):
    found.update(f"{tuple(t.shape)} {t.dtype}".encode())
    found.update(torch.empty(t.numel(), dtype=t.dtype).copy_(t.detach().flatten()).view(torch.uint8).numpy())

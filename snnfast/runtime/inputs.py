"""Poisson input: an image as random spikes, amplitude * sign(x) where a uniform number is below |x| / amplitude.

The numbers come from a counter, not from a stream: each is a hash of (seed, step, image, position), the same on every device and however time and
images are cut into chunks and batches (splitmix64's finaliser; Steele, Lea and Flood, OOPSLA 2014).
"""

import warnings

import torch
from torch._subclasses.fake_tensor import FakeTensor

from snnfast import checks
from snnfast.nn.random import uniform
from snnfast.ops import library


def check_shape(gm, x, name="x", whole=None):
    """Refuses x unless it is a batch of images of the shape that the graph was captured for, or that its first layer takes. whole: the frames
    [B, T, ...] that x is the first of, where it is."""
    image = next(n for n in gm.graph.nodes if n.op == "placeholder")
    if "shape" in image.meta:
        asked, fits = image.meta["shape"], x.shape[1:] == image.meta["shape"]
    else:
        asked, fits = _taken(gm, image, x)
    if not fits or x.dim() < 1 or x.size(0) == 0:
        if whole is not None:
            raise ValueError(
                f"{name} must be frames [{', '.join(map(str, ('B', 'T', *asked)))}], with B >= 1, got shape {tuple(whole.shape)}"
            )
        told = ", ".join(map(str, ("B", *asked)))
        why = ", as net was captured with" if "shape" in image.meta else ""
        more = "; for one image give x[None]" if x.dim() == len(asked) else ""
        got = tuple(x.shape) if name == "x" else f"{tuple(x.shape[1:])} of one image"
        raise ValueError(f"{name} must be a batch of images [{told}]{why}, with B >= 1, got shape {got}{more}")


def check_samples(gm, clock, x, name="x"):
    """As `check_shape`, of what a run by this clock takes: images, or frames for each step."""
    if clock.frames and (x.dim() < 2 or not x.size(1)):
        raise ValueError(f"{name} must be frames [B, T, ...], one for each step, got shape {tuple(x.shape)}")
    check_shape(gm, clock.at_a_step(x), name, x if clock.frames else None)


def _taken(gm, image, x):
    """(shape of an image, whether x has it) by the layers that take the image."""
    for user in image.users:
        layer = gm.get_submodule(user.target) if user.op == "call_module" else None
        if isinstance(layer, torch.nn.modules.conv._ConvNd):
            dims = len(layer.kernel_size)
            return (layer.in_channels, *"DHW"[3 - dims :]), x.dim() == dims + 2 and x.size(1) == layer.in_channels
        if isinstance(layer, torch.nn.Linear):
            return ("...", layer.in_features), x.dim() >= 2 and x.size(-1) == layer.in_features
    return ("...",), True


def check_plain(gm, x):
    """Refuses images or weights that a tracer or a transform wraps: a run is a loop in Python over chunks of time, with kernels that read memory."""
    if not library.is_plain():  # else nothing wraps anything
        library.check_untransformed("a converted network", x, *gm.parameters(), *gm.buffers())
        if library.is_differentiated():
            raise RuntimeError("a converted network does not run inside of torch.func.grad, jvp and their kin: take its outputs before")
    if torch.jit.is_tracing() or isinstance(x, FakeTensor):
        raise RuntimeError("a converted network cannot be traced (torch.export, torch.jit.trace): its run is a loop over chunks of time")


def weight_like(gm, x):
    """A weight whose format and device images must have; x itself where a network has none."""
    return next((p for p in (*gm.parameters(), *gm.buffers()) if p.is_floating_point()), x)


def check_like_weights(gm, x):
    """Refuses images in another format, or on another device, than the weights."""
    weight = weight_like(gm, x)
    if x.dtype != weight.dtype:
        raise TypeError(
            f"x has dtype {checks.dtype_name(x.dtype)}, but the network's weights {checks.dtype_name(weight.dtype)}: convert one of them"
        )
    if x.device != weight.device:
        raise ValueError(f"x is on {x.device}, but the network's weights are on {weight.device}: move one of them")


def warn_of_saturation(x, amplitude):
    """Says it where an image is larger than its spikes can tell."""
    if x.device.type == "cpu" and x.numel() and (most := float(x.abs().amax())) > amplitude * (1 + 1e-6):
        warnings.warn(
            f"images have values up to {most:.3g}, and Poisson input of amplitude {amplitude:g} fires at every step from there on: give amplitude=",
            stacklevel=3,
        )


def spikes(x, amplitude, seed, t, steps, first):
    """Steps t .. t + steps - 1 of the images x [B, ...]: [steps, B, ...]. |x| above the amplitude fires at every step."""
    size, rate = amplitude * x.sign(), x.abs() / amplitude
    return torch.stack(
        [torch.where(uniform(x.shape, seed, t + i, first, x.device) < rate, size, torch.zeros_like(x)) for i in range(steps)]
    )

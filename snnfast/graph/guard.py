"""A captured graph computes what its network computes: what is known beforehand to be lost is refused by name, the rest is compared on samples."""

import torch

from snnfast import nn

NEAR = {torch.float64: 1e-6}  # || captured - network || / || network ||: rounding; what is lost shows as more than a hundredth
LEAST = 1e-2  # in fp32, where rounding may move a level of a quantised activation
SAMPLES = 8


def check_layers(net):
    """Refuses layers whose place a neuron cannot take, and those that mix the images of a batch."""
    for name, m in net.named_modules():
        if isinstance(m, torch.nn.modules.batchnorm._BatchNorm) and m.running_mean is None:
            raise ValueError(f"{name} ({type(m).__name__}) has no running statistics: it would mix the images of a batch")
        if not nn.is_quantised(m):
            continue
        if "forward" in vars(m) or not type(m).forward.__module__.startswith("snnfast."):
            raise ValueError(f"{name} ({type(m).__name__}) has a forward of its own, which its neuron would not have")
        if m._forward_hooks or m._forward_pre_hooks:
            raise ValueError(f"{name} ({type(m).__name__}) has hooks, which its neuron would not have: take them off, or make them layers")


def has_masks(net):
    """Whether it draws random masks of spikes."""
    return any(getattr(m, "mask", None) is not None or isinstance(m, nn.SpikeMask) for m in net.modules())


def has_hooks(net):
    """Whether hooks run around the whole network, which a capture of its forward would miss."""
    return bool(net._forward_hooks or net._forward_pre_hooks)


def samples_of(batches):
    """A few images [1, ...] of the batches, from first to last."""
    places = [(b, i) for b, batch in enumerate(batches) for i in range(len(batch))]
    chosen = sorted({round(k * (len(places) - 1) / (SAMPLES - 1)) for k in range(SAMPLES)})
    return [batches[b][i : i + 1] for b, i in (places[k] for k in chosen)]


@torch.no_grad()
def outputs(net, samples):
    """What the network gives for each sample; nothing where it draws random masks."""
    if has_masks(net):
        return []
    try:
        return [net(x) for x in samples]
    except Exception as error:  # a network's own may be of any kind
        x = samples[0]
        about = f"{list(x.shape)}, {str(x.dtype).removeprefix('torch.')}, on {x.device}"
        raise ValueError(f"net does not run on an image of sample= or calibrate= ({about}): {str(error).splitlines()[0]}") from error


@torch.no_grad()
def check(gm, samples, expected, why):
    """Refuses a graph that gives something else."""
    gm.graph.lint()
    gm.recompile()
    for i, (x, wanted) in enumerate(zip(samples, expected)):
        if not isinstance(wanted, torch.Tensor) or not wanted.is_floating_point() or not torch.isfinite(wanted).all():
            continue
        found = gm(x)
        same = isinstance(found, torch.Tensor) and found.shape == wanted.shape
        off = float((found - wanted).double().norm() / wanted.double().norm().clamp(min=1e-300)) if same else float("inf")
        if not off <= NEAR.get(wanted.dtype, LEAST):
            raise ValueError(
                f"net cannot be converted: captured, it gives other outputs for sample {i} (relative difference {off:.2g}): {why}"
            )

"""A random image that a network runs on, for callers that give none, so that a captured graph can be compared with its network."""

import copy

import torch

USUAL = (32, 28, 16, 64, 8, 96, 48, 128, 224, 256, 299, 384, 512)
FRAMES = 2  # of a network that takes frames of events
SIZES = tuple(dict.fromkeys((*USUAL, *range(1, 65))))  # of images, the usual ones first
_CONVOLUTIONS = torch.nn.modules.conv._ConvNd


def image(net):
    """Random images [1, ...] that the network takes, or None. Their size is the one that the network names, or a usual one; their channels or
    features are those of its first layer. Any size that fits will do: torch.fx records no size."""
    twin = copy.deepcopy(net).eval()
    weight = next((p for p in twin.parameters() if p.is_floating_point()), None)
    device = torch.device("cpu") if weight is None else weight.device
    draw = torch.Generator().manual_seed(0)
    steps = (FRAMES,) if getattr(net, "frames", False) else ()
    for shape in ((*steps, *own) for own in _shapes(twin)):
        x = torch.randn(1, *shape, generator=draw).to(device, torch.float32 if weight is None else weight.dtype)
        try:
            with torch.no_grad(), torch.autocast(device.type, enabled=False), torch.random.fork_rng(devices=[]):
                twin(x)
        except Exception:  # of any kind: the network's own code may raise it for a shape that does not fit
            continue
        return x
    return None


def _shapes(net):
    """Shapes of an image to try."""
    own = getattr(net, "config", None)
    named = own.get("image_size") if isinstance(own, dict) else None
    for layer in net.modules():
        if isinstance(layer, _CONVOLUTIONS):
            for size in (named, *SIZES) if isinstance(named, int) else SIZES:
                yield (layer.in_channels, *(size,) * len(layer.kernel_size))
            return
        if isinstance(layer, torch.nn.Linear):
            yield from ((layer.in_features,), (5, layer.in_features))
            return
        if isinstance(layer, torch.nn.modules.batchnorm._NormBase):
            C = layer.num_features
            yield from ((C,), (C, 8), (C, 8, 8), (C, 8, 8, 8))

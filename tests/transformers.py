"""Small transformers whose neurons fire at all levels, as trained ones do."""

import torch

from snnfast import models

NETS = {
    "vit": lambda **k: models.vit_tiny(image_size=12, patch_size=4, dim=24, depth=2, heads=3, **k),
    "vit, mean of the tokens": lambda **k: models.vit_tiny(
        image_size=12, patch_size=4, dim=24, depth=2, heads=3, pool="mean", norm="bn", **k
    ),
    "vit, every product of spikes": lambda **k: models.vit_tiny(
        image_size=12, patch_size=4, dim=24, depth=2, heads=3, placement="spikezip", **{**k, "activation": "lsq"}
    ),
    "swin": lambda **k: models.swin_tiny(image_size=16, patch_size=2, dim=12, depths=(2, 1), heads=(2, 4), window=4, **k),
    "mst": lambda **k: models.swin_tiny(
        image_size=16, patch_size=2, dim=12, depths=(2, 1), heads=(2, 4), window=4, wiring="mst", norm="bn", mlp_norm=True, **k
    ),
}


def network(name, dtype=torch.float32, activation="hns-qcfs", seed=0, **options):
    """A network with uneven thresholds and weights that reach all levels, in eval mode."""
    torch.manual_seed(seed)
    net = NETS[name](in_channels=2, num_classes=5, levels=8, theta=1.0, activation=activation, **options)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.endswith((".lam", ".thresh", ".s")):
                p += 0.15 * p.abs() * torch.randn(p.shape)
            elif p.dim() > 1:
                p *= 6
            elif name.endswith("bias"):
                p += 0.1 * torch.randn(p.shape)
    for _ in range(3):
        net.train()(images(net, 16))
    return net.to(dtype).eval()


def images(net, many=3, dtype=torch.float32):
    return torch.randn(many, 2, net.config["image_size"], net.config["image_size"], dtype=dtype)

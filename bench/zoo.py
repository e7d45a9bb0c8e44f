"""Networks of torchvision and timm as they are published, with drawn weights: converted from a few images, and how near they come.

`python bench/zoo.py [--T T] [--levels L] [--mode M] [--per P] [NAME ...]`;
a name is `torchvision:NAME` or `timm:NAME`. Rows have neurons, mode, seconds and the error,
|| output - network || / || network ||, or why a network is refused.
"""

import argparse
import importlib
import time
import warnings

import stored
import torch
from gpu_tables import table as lay

import snnfast
from snnfast.data.sets import declare_operators

TORCHVISION = (
    "alexnet vgg11_bn resnet18 resnet50 resnext50_32x4d wide_resnet50_2 squeezenet1_1 densenet121 googlenet inception_v3 mnasnet0_5 mobilenet_v2 "
    "mobilenet_v3_small shufflenet_v2_x0_5 efficientnet_b0 regnet_x_400mf regnet_y_400mf convnext_tiny vit_b_32 swin_t swin_v2_t "
    "segmentation.fcn_resnet50 segmentation.deeplabv3_resnet50 segmentation.lraspp_mobilenet_v3_large"
).split()
TIMM = (
    "mobilenetv2_050 mobilenetv3_small_050 tf_mobilenetv3_small_minimal_100 fbnetc_100 spnasnet_100 mnasnet_050 semnasnet_075 hardcorenas_a "
    "efficientnet_b0 efficientnet_lite0 tf_efficientnet_b0 tf_efficientnet_lite0 efficientnetv2_rw_t mixnet_s rexnet_100 lcnet_050 tinynet_e "
    "ghostnet_100 ghostnetv2_100 mobileone_s0 repvgg_a0 repghostnet_050 regnetx_002 regnety_002 regnetv_040 densenet121 dpn48b dla34 dla60_res2net "
    "res2net50_26w_4s res2next50 resnet18 resnet50d resnetblur18 seresnet18 ecaresnet26t skresnet18 resnest14d resnetv2_50 gcresnet33ts "
    "cspresnet50 darknet53 cspdarknet53 ese_vovnet19b_dw gernet_s legacy_xception xception41 inception_v4 inception_resnet_v2 nf_resnet26 "
    "dm_nfnet_f0 hrnet_w18_small selecsls42 tresnet_m vgg11 convmixer_768_32 convnext_atto poolformer_s12 edgenext_xx_small vit_tiny_patch16_224 "
    "deit_tiny_patch16_224 deit3_small_patch16_224 cait_xxs24_224 swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 mixer_s32_224 "
    "resmlp_12_224 levit_128s coatnet_nano_rw_224 pit_ti_224 twins_svt_small gmixer_12_224 gmlp_ti16_224 eva02_tiny_patch14_224"
).split()
OWN_SIZE = tuple("mixer gmixer gmlp eva02 resmlp levit coatnet pit twins".split())  # beginnings of names
ZOO = [*(f"torchvision:{name}" for name in TORCHVISION), *(f"timm:{name}" for name in TIMM)]


def network(name, classes=10):
    """(network with drawn weights, shape of an image): 64 x 64 where the network takes that, else its own size."""
    of, name = name.split(":")
    torch.manual_seed(0)
    if of == "torchvision":
        declare_operators()
        path, _, own = name.rpartition(".")
        models = importlib.import_module(f"torchvision.models{'.' + path if path else ''}")
        more = dict(weights_backbone=None) if path else dict(init_weights=True) if own in ("googlenet", "inception_v3") else {}
        net = getattr(models, own)(weights=None, num_classes=classes, **more)
        size = 224 if own.startswith("vit") else 96 if own == "inception_v3" else 64
        return (Named(net) if path else net), (3, size, size)
    declare_operators()
    net = importlib.import_module("timm").create_model(name, pretrained=False, num_classes=classes)
    own = net.default_cfg.get("input_size", (3, 224, 224))
    keeps = net.default_cfg.get("fixed_input_size") or name.startswith(OWN_SIZE)
    return net, own if keeps else (3, 96, 96) if name.startswith("inception") else (3, 64, 64)


class Named(torch.nn.Module):
    """The map of classes of a segmentation network, which gives a dictionary."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)["out"]


def row(name, T, levels, device="cpu", mode=None, per="layer"):
    """How near `name` comes to its network after T steps, or why it is refused. per: what has a threshold of its own, see `Percentile`."""
    net, shape = network(name)
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1)).to(device)
    for w in net.parameters():
        if w.dim() > 1 and not w.any():  # a last layer that starts at zero would answer nothing
            torch.nn.init.normal_(w, std=0.02)
    net, found = net.eval().to(device), dict(row=name, T=T, image=list(shape), parameters=sum(p.numel() for p in net.parameters()))
    began = time.perf_counter()
    try:
        snn = _converted(net, x, levels, mode, per)
    except ValueError as error:
        return found | dict(refused=str(error)[:300])
    converted = time.perf_counter() - began
    with torch.no_grad(), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        y = net(x)
        first, z = snn.logits(x, T, [1, T]) if T > 1 else [snn(x, T=1)] * 2
    error = lambda z: float((z - y).norm() / y.norm())
    found |= dict(
        neurons=len(snn.neurons()), mode=snn.clock.mode, convert_seconds=converted, seconds=time.perf_counter() - began - converted
    )
    found |= dict(levels=levels) if snn.clock.differential else {}
    found |= dict(per=per)
    return found | dict(error=error(z), first_error=error(first), busy=any("too small" in str(w.message) for w in told))


def _converted(net, x, levels, mode, per):
    """In mode "differential" where the default says that it takes it."""
    how = dict(calibrate=snnfast.conversion.Percentile(x, q=100, per=per, levels=levels))
    try:
        return snnfast.convert(net, mode=mode, **how)
    except ValueError as error:
        if "mode='differential'" not in str(error):
            raise
    return snnfast.convert(net, mode="differential", **how)


def table():
    """The last row of every network."""
    last = {row["row"]: row for row in stored.read("zoo")}
    found, steps = [], max((row["T"] for row in last.values()), default=512)
    for name in (name for name in ZOO if name in last):
        r = last[name]
        if "refused" in r:
            found.append([f"`{name}`", "refused", "", "", "", "", r["refused"].replace("|", "/")])
            continue
        error, first = (f"{r[k]:.4f}" if r[k] >= 1e-4 else "< 0.0001" for k in ("error", "first_error"))
        thresholds = f"{r.get('per', 'layer')}{', ' + str(r['levels']) if 'levels' in r else ''}"
        found.append([f"`{name}`", r["mode"], thresholds, str(r["neurons"]), first, error, f"{r['convert_seconds']:.1f}"])
    return lay(["network", "mode", "thresholds per, levels", "neuron layers", "error, T = 1", f"error, T = {steps}", "s to convert"], found)


def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("names", nargs="*", default=ZOO)
    p.add_argument("--T", type=stored.positive, default=512)
    p.add_argument("--levels", type=stored.positive, default=256)
    p.add_argument("--mode", choices=("per_step", "differential"))
    p.add_argument("--per", choices=("layer", "channel", "neuron"), default="layer")
    p.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = p.parse_args(argv)
    for name in args.names:
        found = row(name, args.T, args.levels, args.device, args.mode, args.per)
        stored.append("zoo", stored.facts(args.device), [found])
        print({k: v for k, v in found.items() if k != "image"}, flush=True)


if __name__ == "__main__":
    main()

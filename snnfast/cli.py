"""The command `snnfast`."""

import argparse
import sys

from snnfast import __version__, backends


def _info(args):
    for key, value in backends.info().items():
        if isinstance(value, dict):
            value = "; ".join(f"{k} {v}" for k, v in value.items())
        print(f"{key:18s} {value}")


def _device(name):
    import torch

    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except Exception as error:  # torch raises many kinds, all with a reason
        raise ValueError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return device


def _demo(args):
    from snnfast.demo import demo

    methods = "all" if args.methods == "all" else tuple(m.strip() for m in args.methods.split(","))
    demo(out=args.out, device=_device(args.device), T=args.T, seed=args.seed, methods=methods)


def _train(args):
    from snnfast import commands

    commands.train(args, _device(args.device))


def _eval(args):
    from snnfast import commands

    commands.evaluate_checkpoint(args, _device(args.device))


def _add(commands, name, run, text):
    p = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    p.set_defaults(run=run)
    return p


def _data(p, default):
    from snnfast.data import NAMES

    p.add_argument("--data", choices=NAMES, default=default, help="data set" + (f" (default {default})" if default else ""))
    p.add_argument("--data-dir", help="folder of its files; digits needs none")
    p.add_argument("--download", action="store_true", help="let torchvision fetch CIFAR")
    p.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ... (default cpu)")


def _add_demo(commands):
    p = _add(commands, "demo", _demo, "train, convert and evaluate a small VGG on digits")
    p.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ... (default cpu)")
    p.add_argument("--T", type=int, help="time steps of the evaluation (default 1024; 64 with several methods)")
    p.add_argument(
        "--methods", default="if", help="'all', or names separated by commas: if, stbif, snm, srp, srp+stbif, srp+snm, cos (default if)"
    )
    p.add_argument("--out", default="runs/digits", help="folder for the results (default runs/digits)")
    p.add_argument("--seed", type=int, default=0)


def _add_train(commands):
    from snnfast import models, recipes
    from snnfast.methods import METHODS
    from snnfast.models.activation import NAMES
    from snnfast.models.resnet import STEMS

    p = _add(commands, "train", _train, "train a network in one or two stages, then evaluate it as a spiking one")
    p.add_argument("--arch", choices=tuple(models.BY_NAME), required=True)
    _data(p, "digits")
    p.add_argument(
        "--recipe", choices=recipes.NAMES, default="thesis", help="published settings (default thesis); the options below change them"
    )
    p.add_argument("--out", required=True, help="folder for checkpoints, log and report")
    p.add_argument("--resume", action="store_true", help="go on after the last finished epoch in --out")
    p.add_argument("--epochs", type=int, nargs="+", help="of each stage")
    p.add_argument("--lr", type=float, nargs="+", help="first learning rate of each stage")
    p.add_argument("--stages", type=int, choices=(1, 2), help="1: stop after the layer-wise stage")
    p.add_argument("--activation", choices=NAMES, help="of stage one; softplus: s-qcfs, exp: e-qcfs, raw: qcfs")
    p.add_argument("--channel-num", type=int, help="stage two gives only the last N layers a threshold per channel")
    p.add_argument("--levels", type=int, help="quantisation levels L")
    p.add_argument("--theta", type=float, help="first threshold")
    p.add_argument("--batch-size", type=int)
    p.add_argument("--width", type=float, default=1.0, help="factor on all channel counts")
    p.add_argument("--stem", choices=STEMS, default="cifar", help="of a ResNet (default cifar)")
    p.add_argument("--dropout", type=float, default=0.0, help="of a VGG")
    p.add_argument("--amp", choices=("fp32", "bf16", "fp16"), default="fp32", help="mixed precision")
    p.add_argument("--workers", type=int, default=0, help="processes that load images")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--method", choices=METHODS, help="of the evaluation at the end")
    p.add_argument("--T", type=int, default=64, help="its time steps (default 64)")


def _add_eval(commands):
    from snnfast import families, models
    from snnfast.methods import MASKS, METHODS

    p = _add(commands, "eval", _eval, "evaluate a checkpoint as a spiking network, at every T in one run")
    p.add_argument("checkpoint", help="of snnfast, or of the QCFS, SRP, COS or CS-QCFS programs")
    _data(p, None)
    p.add_argument("--method", choices=METHODS, default="if")
    p.add_argument("--T", type=int, default=64, help="time steps (default 64)")
    p.add_argument("--at", type=int, nargs="+", help="steps to read (default 1, 2, 4, ... T)")
    p.add_argument("--out", default="runs/eval", help="folder for report.json, accuracy.png, layers.csv (default runs/eval)")
    p.add_argument("--batch-size", type=int, default=100)
    p.add_argument("--statistics", action="store_true", help="unevenness, firing rates, SOPs, energy per layer, to layers.csv")
    own = p.add_argument_group("the method's")
    own.add_argument("--v0", type=float, help="start voltage in units of theta (0.5)")
    own.add_argument("--tau", type=int, help="steps of SRP's first phase (4)")
    own.add_argument("--mask", choices=MASKS, help="SRP's mask")
    own.add_argument("--rho", type=int, help="inputs that COS calibrates on (4)")
    own.add_argument("--max-shift", type=float, help="largest upward shift of COS, in units of theta")
    own.add_argument("--parity", action="store_true", default=None, help="the arithmetic of the method's authors")
    file = p.add_argument_group("what the file does not say (not needed for snnfast's own)")
    file.add_argument("--arch", choices=tuple(models.BY_NAME))
    file.add_argument("--levels", type=int, help="quantisation levels it was trained with")
    file.add_argument("--num-classes", type=int)
    file.add_argument("--family", choices=families.FAMILIES, default="auto")
    file.add_argument("--threshold", choices=families.THRESHOLDS, help="of a CS-QCFS file: softplus(up) or up itself")
    file.add_argument("--image-size", type=int)
    file.add_argument("--width", type=float)


def parser():
    p = argparse.ArgumentParser(prog="snnfast", description=__doc__)
    p.add_argument("--version", action="version", version=__version__)
    p.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = p.add_subparsers(required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_train(commands)
    _add_eval(commands)
    _add(commands, "info", _info, "what was built, and which kernels serve which device")
    return p


def main(argv=None):
    args = parser().parse_args(argv)
    try:
        args.run(args)
    except (ValueError, TypeError, OSError, ModuleNotFoundError) as error:
        if args.debug:
            raise
        text = f"this needs {error.name}: pip install 'snnfast[demo]'" if isinstance(error, ModuleNotFoundError) else error
        print(f"snnfast: {text}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("snnfast: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

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
    try:
        from snnfast.demo import demo
    except ModuleNotFoundError as error:
        raise ValueError(f"the demo needs {error.name}: pip install 'snnfast[demo]'") from None
    demo(out=args.out, device=_device(args.device), T=args.T, seed=args.seed)


def parser():
    p = argparse.ArgumentParser(prog="snnfast", description=__doc__)
    p.add_argument("--version", action="version", version=__version__)
    commands = p.add_subparsers(required=True, metavar="COMMAND")
    info = commands.add_parser("info", help="what was built, and which kernels serve which device")
    info.set_defaults(run=_info)
    demo = commands.add_parser("demo", help="train, convert and evaluate a small VGG on digits")
    demo.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ... (default cpu)")
    demo.add_argument("--T", type=int, default=1024, help="time steps of the evaluation (default 1024)")
    demo.add_argument("--out", default="runs/digits", help="folder for report.json, accuracy.png, model.pt (default runs/digits)")
    demo.add_argument("--seed", type=int, default=0)
    demo.set_defaults(run=_demo)
    return p


def main(argv=None):
    args = parser().parse_args(argv)
    try:
        args.run(args)
    except (ValueError, TypeError, OSError) as error:
        print(f"snnfast: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("snnfast: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

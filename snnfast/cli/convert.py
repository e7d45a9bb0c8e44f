"""`snnfast convert`: a network converted by the method that is named, or by the simplest one that keeps its answers, and written to a file."""

from pathlib import Path

from snnfast import checks
from snnfast.checkpoints.own import save_checkpoint
from snnfast.cli import own_network
from snnfast.cli.console import plain_console
from snnfast.cli.evaluate import converted, load, options_of
from snnfast.evaluation.choose import choose
from snnfast.runtime.network import SpikingNetwork
from snnfast.system.text import NOTE


def run(args, device):
    console = plain_console()
    checks.steps("T", args.T)
    out = _file_of(args)
    out.parent.mkdir(parents=True, exist_ok=True)
    net, name, data = load(args, train=args.method is None, check=lambda net: _check(args, net))
    if args.method is not None:
        if args.energy is not None:
            raise ValueError("--energy chooses a method, and --method names one: give one of them")
        snn = converted(args, net, data)
        snn.method.check_T(args.T)
    else:
        snn = _chosen(args, net.to(device), data, device, console)
        console.print(str(snn.choice), soft_wrap=True)
        if args.calibrate in (None, "train"):
            console.print("these are training images: on images that the network has not seen expect somewhat less", soft_wrap=True)
    facts = {} if snn.choice is None else dict(chosen=snn.choice.why(), expected=snn.choice.expected(), T=args.T)
    save_checkpoint(out, snn.cpu(), data=name, preprocessing=data.facts.get("preprocessing"), **facts)
    console.print(f"wrote {out}: net = snnfast.load_checkpoint({str(out)!r}); net(images, T={args.T})", soft_wrap=True)
    if snn.choice is not None and (told := snn.choice.falls_short()):
        console.print(f"{NOTE}{told}", soft_wrap=True)


def _check(args, net):
    """Refuses a network that is a spiking one already."""
    if isinstance(net, SpikingNetwork):
        raise ValueError(f"{args.checkpoint} holds a network that is converted already: eval, diagnose and trace take it as it is")
    own_network.check_converts(args, net, "its neurons stay, and its own file is what save_checkpoint writes")


def _file_of(args):
    """--out, or a file named by what is converted."""
    stem = Path(args.checkpoint).stem if args.checkpoint else (args.model or "").rpartition(":")[2]
    out = Path(args.out or Path("runs/convert") / f"{stem}-{args.method or f'T{args.T}'}.pt")
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder, not a file")
    if out.exists() and not args.overwrite:
        raise ValueError(f"{out} is there already: --overwrite replaces it")
    return out


def _chosen(args, net, data, device, console):
    options = options_of(args)
    if args.model is not None:
        options |= own_network.thresholds_of(args) | {"sample": data.test[0][0][None], "read": args.read}
        loader = own_network.images(args, data)
        if loader is None:
            raise ValueError(
                "--calibrate gives the images by which a method is chosen, 'train' or a folder of pictures; --method names one"
            )
    else:
        loader = own_network.of_training(data)
    batches = [x.to(device) for x, *_ in loader]
    given = {key: value.to(device) if key == "sample" else value for key, value in options.items() if value is not None}
    told = lambda t: console.print(f"{t.name}: {t.refused or f'{t.agreement} of {t.images}'}", soft_wrap=True)  # noqa: E731
    return choose(net, batches, args.T, energy=args.energy, most=checks.integer("images", args.images), on_trial=told, **given)

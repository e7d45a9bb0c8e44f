"""`snnfast train`: a network by a recipe, its checkpoints, its log and its spiking accuracy."""

import dataclasses
import hashlib
import importlib.util
import inspect
from pathlib import Path

from snnfast import checks, models
from snnfast import data as data_sets
from snnfast.checkpoints.own import FORMAT, OTHERS, load_checkpoint, safely
from snnfast.cli import own_network
from snnfast.cli.console import Console
from snnfast.cli.progress import progress
from snnfast.conversion.convert import convert
from snnfast.conversion.methods import method_of
from snnfast.data import EVENTS
from snnfast.evaluation.evaluate import evaluate
from snnfast.models import direct
from snnfast.runtime.network import SpikingNetwork
from snnfast.system import memory
from snnfast.system.files import check_regular
from snnfast.training import direct_recipes, loop, recipes


def settings_of(args):
    """The `Settings` of a command line: the recipe's, and what was given beside it."""
    arch = args.arch or args.model
    args.recipe = args.recipe or (direct_recipes.NAME if args.arch in direct.BY_NAME else "thesis")
    spiking = args.recipe == direct_recipes.NAME
    if args.arch is not None and spiking != (args.arch in direct.BY_NAME):
        which = "is trained as a spiking network" if not spiking else "has quantised activations"
        raise ValueError(f"{args.arch} {which}: --recipe {args.recipe} is of others")
    r = direct_recipes.recipe(arch, args.data) if spiking else recipes.recipe(args.recipe, arch, args.data)
    if spiking:
        _check_spiking(args)
    epochs, lr = tuple(args.epochs or r.epochs), tuple(args.lr or r.lr)
    stages = 1 if spiking else args.stages
    for name, given in (("epochs", args.epochs), ("lr", args.lr)):
        if given and len(given) > (stages or 2):
            of = "one stage" if stages == 1 else f"{stages or 'one or two'} stages"
            raise ValueError(f"--{name} takes a number for each of {of}, got {len(given)}")
    if args.stages == 2 and len(epochs) == 1:
        if args.epochs:
            raise ValueError(f"--stages 2 needs two numbers of --epochs, got {epochs[0]}")
        epochs = (epochs[0], max(1, epochs[0] // 3))
    epochs = epochs[: args.stages or 2]
    lr = lr if len(lr) >= len(epochs) else (lr[0], lr[0] / 10)
    asked = dict(
        activation=args.activation, levels=args.levels, theta=args.theta, batch_size=args.batch_size, smoothing=args.smoothing, mixup=args.mixup,
        cutmix=args.cutmix, tet=args.tet, chunk=args.chunk, optimiser=args.optimiser, weight_decay=args.weight_decay,
        distil=args.distil, temperature=args.temperature, hard=args.hard,
    )  # fmt: skip
    if args.optimiser not in (None, r.optimiser) and args.lr is None:
        raise ValueError(f"--optimiser {args.optimiser} wants its own --lr: the recipe's, {' '.join(map(str, r.lr))}, is of {r.optimiser}")
    given = {key: value for key, value in asked.items() if value is not None}
    kept = {f.name: getattr(r, f.name) for f in dataclasses.fields(r) if f.name in {f.name for f in dataclasses.fields(loop.Settings)}}
    own = dict(arch=arch, data=args.data, epochs=epochs, lr=lr[: len(epochs)], recipe=args.recipe, channel_num=args.channel_num,
               amp=args.amp, seed=args.seed)  # fmt: skip
    own |= _refused(args) if args.arch is None else _of_arch(args)
    own |= dict(frames=args.T) if args.data in EVENTS else {}
    own |= dict(teacher=_teacher_name(args))
    return loop.Settings(**{**kept, **given, **own}), r


QUANTISED = ("activation", "levels", "theta", "stages", "channel_num", "masking", "method", "mode")


def _check_spiking(args):
    """Refuses what is of quantised activations and of their conversion."""
    given = next((name.replace("_", "-") for name in QUANTISED if getattr(args, name) is not None), None)
    if given:
        raise ValueError(f"--{given} is of quantised activations, and {args.arch or args.model} is trained as a spiking network")


OF_ARCH = ("width", "stem", "dropout")
OPTIONS = ("patch_size", "dim", "depth", "heads", "window", "norm", "wiring", "drop_path", "masking")


def _refused(args):
    """A network of one's own takes none of these; its fields of the settings."""
    given = [name for name in (*OF_ARCH, *OPTIONS) if getattr(args, name) is not None]
    if given:
        raise ValueError(f"--{given[0].replace('_', '-')} is of networks of snnfast.models: --arch")
    spiking = args.recipe == direct_recipes.NAME and args.data not in EVENTS
    own = dict(options=dict(T=args.T)) if spiking and args.T is not None else {}
    return own | _beginning(args)


def _beginning(args):
    """The field of the settings that says which weights a training starts from."""
    return {} if args.weights is None else dict(weights=_checksum("weights", args.weights, args.out))


def _checksum(flag, path, out):
    """Of a file that a training reads, which must not lie among those that it writes."""
    if Path(out).resolve() in Path(path).resolve().parents:
        raise ValueError(f"--{flag} {path} lies in --out {out}, where the training writes files of its own: copy it to another place")
    found = hashlib.sha256()
    try:
        check_regular(path)
        with open(path, "rb") as file:
            while part := file.read(1 << 20):
                found.update(part)
    except OSError as error:
        raise OSError(f"--{flag} {path}: {error.strerror or error}") from error
    return found.hexdigest()


def _teacher_name(args):
    """What says which --teacher is: the checksum of a file, or package.module:function."""
    if args.teacher is None:
        given = next((name for name in ("distil", "temperature", "hard") if getattr(args, name) is not None), None)
        if given:
            raise ValueError(f"--{given} is of learning from a network: give --teacher")
        return ""
    return args.teacher if _is_function(args.teacher) else _checksum("teacher", args.teacher, args.out)


def _is_function(teacher):
    return ":" in teacher and not Path(teacher).exists()


def _teacher(args):
    """The network of --teacher, or None."""
    if args.teacher is None:
        return None
    if _is_function(args.teacher):
        return own_network.made(args.teacher, {}).float()
    return _not_converted("teacher", args.teacher, load_checkpoint(args.teacher))


def _not_converted(flag, path, net):
    if isinstance(net, SpikingNetwork):
        raise ValueError(f"--{flag} {path} holds a converted network: give the network that it was converted from")
    return net


def _of_arch(args):
    """Fields of the settings that are of the network."""
    given = {name: getattr(args, name) for name in OF_ARCH if getattr(args, name) is not None}
    if given and args.arch in direct.BY_NAME:
        raise ValueError(f"--{next(iter(given))} is of networks with quantised activations, and {args.arch} is none")
    return given | dict(options=_options(args)) | _beginning(args)


def _options(args):
    """Arguments of the network that were given."""
    found = {name: getattr(args, name) for name in OPTIONS if getattr(args, name) is not None}
    if args.arch in direct.BY_NAME:
        found |= {} if args.T is None or args.data in EVENTS else dict(T=args.T)  # else the number of frames
        return {name: value[0] if isinstance(value, list) and len(value) == 1 else value for name, value in found.items()}
    stages = "depths" in inspect.signature(models.BY_NAME[args.arch]).parameters
    for name in ("depth", "heads"):
        if name in found and not stages and len(found[name]) > 1:
            raise ValueError(f"--{name} takes one number for {args.arch}, got {' '.join(map(str, found[name]))}")
        if name in found:
            found[name] = list(found[name]) if stages else found[name][0]
    return {"depths" if stages and name == "depth" else name: value for name, value in found.items()}


def _earlier(args, settings, console):
    """The network of --arch that --weights holds, or None."""
    if args.weights is None or args.arch is None:
        return None
    file = safely(args.weights)
    if isinstance(file, dict) and (file.get("format") == FORMAT or file.get("format") in OTHERS):
        net = load_checkpoint(args.weights)
    elif settings.is_spiking():
        takes = inspect.signature(direct.BY_NAME[args.arch]).parameters
        asked = {name: settings.options.get(name, takes[name].default) for name in ("T", "connect", "heads") if name in takes}
        net = load_checkpoint(args.weights, args.arch, **asked)
    else:
        net = load_checkpoint(args.weights, args.arch, levels=settings.levels)
    _not_converted("weights", args.weights, net)
    for name, asked in (("arch", args.arch), ("width", settings.width)):
        if name in net.config and net.config[name] != asked:
            raise ValueError(f"--weights {args.weights} holds a network of {name} {net.config[name]}, not {asked}")
    told = f"starts from the weights of {args.weights}"
    if net.config.get("activation", settings.activation) != settings.activation:
        told += f"; thresholds start anew, as its activations are {net.config['activation']} and not {settings.activation}"
    console.print(told, soft_wrap=True)
    return net


def _tell_plan(console, plan, device):
    console.print(f"plan: {plan}", soft_wrap=True)
    there = memory.used(device) + memory.free(device)
    if plan.budget is None and plan.bytes > there:
        console.print(f"that is more than the {memory.told(there)} there are: --memory auto tells which --batch-size fits", soft_wrap=True)


def train(args, device):
    console = Console()
    settings, r = settings_of(args)
    settings.check()
    if settings.is_spiking():
        _train(args, device, console, settings, r, None)
        return
    args.T = 64 if args.T is None else args.T
    convolutional = settings.is_own() or models.CLASS_OF[args.arch].kind == "convolutional"
    method = args.method or (r.method if convolutional and args.mode != "differential" else None)
    if args.mode == "differential" and method not in (None, "stbif"):
        raise ValueError(f"--mode differential runs with --method stbif, got {method}")
    method_of(method or "if").check_T(checks.steps("T", args.T))
    _train(args, device, console, settings, r, method)


def _train(args, device, console, settings, r, method):
    data = data_sets.load(
        args.data, args.data_dir, r.cutout, args.download, args.preprocessing, frames=settings.frames, augment=r.augment or None
    )
    if not importlib.util.find_spec("tensorboard"):
        console.print("tensorboard is not installed: the log is written to log.jsonl alone")
    out = Path(args.out)
    net, sample, earlier, teacher = None, None, _earlier(args, settings, console), _teacher(args)
    if settings.is_own():
        net, sample = own_network.for_training(args, settings, data), data.test[0][0][None]
        if args.T is not None and settings.is_spiking() and data.frames is None:
            net.T = checks.steps("T", args.T)
        convert(net, method, mode=args.mode, sample=sample)  # refused now, not after the training
    with progress(console) as bar:
        task = bar.add_task(f"{settings.arch}, {args.recipe}", total=sum(settings.epochs), note="")

        def on_epoch(entry):
            low = f", {entry['negative_thresholds']} thresholds <= 0" if entry["negative_thresholds"] else ""
            done = sum(settings.epochs[: entry["stage"] - 1]) + entry["epoch"]
            bar.update(task, completed=done, note=f"loss {entry['loss']:.3f}, test {entry['test_accuracy']:.2f} %{low}")

        net = loop.train(
            settings, data, out, net=net, earlier=earlier, teacher=teacher, device=device, resume=args.resume, workers=args.workers,
            on_epoch=on_epoch, memory=args.memory, on_plan=lambda plan: _tell_plan(console, plan, device),
        )  # fmt: skip
    snn = convert(net, method, mode=args.mode, sample=sample)
    T, ann = (data.frames or net.T, None) if settings.is_spiking() else (args.T, net)
    with progress(console) as bar:
        task = bar.add_task(f"{snn.method.name}, T = {T}", total=len(data.test) * T, note="")
        report = evaluate(snn, data.test, T, memory=args.memory, ann=ann, device=device, on_chunk=lambda n: bar.advance(task, n))
    report.facts = dict(training=dataclasses.asdict(settings))
    published, source = recipes.PUBLISHED.get((args.recipe, args.arch, args.data, settings.levels), (None, None))
    console.print(report.table(published))
    if published:
        console.print(f"published: {source}")
        report.facts["published"] = {str(t): a for t, a in published.items()}
    report.save_json(out / "report.json")
    report.plot(out / "accuracy.png")
    console.print(
        f"wrote {', '.join(str(out / f) for f in ('model.pt', 'best.pt', 'last.pt', 'log.jsonl', 'report.json', 'accuracy.png'))}"
    )

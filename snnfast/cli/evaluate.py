"""`snnfast eval`: a checkpoint's accuracy as a spiking network, at every T in one run."""

import inspect
import signal
import time
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader, Subset

from snnfast import checks
from snnfast import data as data_sets
from snnfast.checkpoints.own import load_checkpoint
from snnfast.cli import own_network
from snnfast.cli.arguments import conversion_flags
from snnfast.cli.console import plain_console
from snnfast.cli.progress import progress
from snnfast.cli.signals import put_off
from snnfast.conversion.convert import convert
from snnfast.conversion.direct import is_direct
from snnfast.evaluation.conventions import NAMES as CONVENTIONS
from snnfast.evaluation.conventions import operations
from snnfast.evaluation.evaluation import Evaluation
from snnfast.evaluation.progress_file import files_in, read
from snnfast.models import direct
from snnfast.reports.report import FILES
from snnfast.runtime.network import STEPS, SpikingNetwork, check_at
from snnfast.system import processes
from snnfast.system.files import check_regular, whole

MOST_READ = 1_000_000  # steps that --at all reads
COUNTED = 16  # images whose operations are counted as the authors of spiking networks count them
MOST_TOLD = 1_000  # steps of which the log tells an accuracy


def load(args, train=False, check=None):
    """The network of a command line, the name of the data set it is for, and the data. train: with its training images.  check: of the network,
    before the data are read."""
    check = check or (lambda net: None)
    if args.model is not None:
        net = own_network.network(args)
        check(net)
        name, data = own_network.data_of(args)
        data.check_fits(net, args.model)
        return net, name, data
    if args.checkpoint is None:
        raise ValueError("give a CHECKPOINT, or --model package.module:function with a file of its weights")
    own = [name for name in own_network.FLAGS if getattr(args, name) is not None and getattr(args, name) is not False]
    if own:
        raise ValueError(f"--{own[0].replace('_', '-')} is for a network of your own: give --model")
    own = dict(image_size=args.image_size, width=args.width, heads=args.heads, connect=args.connect)
    takes = inspect.signature(direct.BY_NAME[args.arch]).parameters if args.arch in direct.BY_NAME else {}
    if "T" in takes and args.data not in data_sets.EVENTS:  # there it is the number of frames
        own["T"] = args.T
    if "img_size" in takes:
        own["img_size"] = own.pop("image_size")
    options = {k: v for k, v in own.items() if v is not None}
    thresholds = dict(family=args.family, threshold=args.threshold, signs=args.signs, key=args.key)
    net = load_checkpoint(args.checkpoint, args.arch, args.num_classes, args.levels, **thresholds, **options).float()
    check(net)
    facts = net.saved if isinstance(net, SpikingNetwork) else net.facts
    name = args.data or facts.get("data")
    if not isinstance(name, str):
        raise ValueError(f"{args.checkpoint} does not say what data it is for: give --data, one of {', '.join(data_sets.NAMES)}")
    own = facts.get("preprocessing") if name == facts.get("data") else None
    frames = (args.T or facts.get("frames")) if name in data_sets.EVENTS else None
    data = data_sets.load(name, args.data_dir, download=args.download, preprocessing=args.preprocessing or own, train=train, frames=frames)
    data.check_fits(net, args.checkpoint)
    if isinstance(net, SpikingNetwork):
        return net, name, data
    if data.classes != net.config["num_classes"]:
        raise ValueError(f"{name} has {data.classes} classes, but the network in {args.checkpoint} has {net.config['num_classes']}")
    for what, theirs, own in (
        ("channels", data.channels, net.config["in_channels"]),
        ("pixels", data.image_size, net.config.get("image_size") or net.config.get("img_size")),
    ):
        if own not in (None, theirs):
            raise ValueError(f"images of {name} have {theirs} {what}, but the network in {args.checkpoint} takes {own}")
    return net, name, data


def steps_by_default(net, data):
    """T where none is given; of a converted network the one that it was converted for."""
    if isinstance(net, SpikingNetwork):
        T = net.saved.get("T")
        return data.frames or (T if isinstance(T, int) else STEPS)
    return data.frames or (net.T if is_direct(net) else STEPS)


def options_of(args):
    """Options of `convert` that were given, beside the method."""
    names = ("mode", "inputs", *conversion_flags())
    return {k: getattr(args, k) for k in names if getattr(args, k) is not None}


def converted(args, net, data):
    given = options_of(args)
    own_network.check_stays(args, net, given)
    if isinstance(net, SpikingNetwork):
        return net
    return convert(net, args.method, **given) if args.model is None else own_network.converted(args, net, data, given)


def steps_of(args):
    """--at as a list, or None for the default."""
    if args.at is None:
        return None
    if args.at == ["all"]:
        if checks.steps("--T", args.T) > MOST_READ:
            raise ValueError(f"--at all reads every step, at most {MOST_READ}; --T is {args.T}: name the steps, as --at 1 10 100")
        return list(range(1, args.T + 1))
    try:
        return check_at([int(t) for t in args.at], args.T)
    except ValueError as error:
        if "invalid literal" in str(error):
            raise ValueError(f"--at takes steps, or 'all', got {' '.join(args.at)}") from None
        raise


def folder_of(args):
    """--out, or a folder named by what is evaluated."""
    what = Path(args.checkpoint).stem if args.checkpoint else ""
    names = what, (args.model or "").rpartition(":")[2], args.data, args.method, args.mode
    out = Path(args.out or Path("runs/eval") / f"{'-'.join(n for n in names if n)}-T{args.T}")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file, not a folder")
    there = [*files_in(out), *(p for p in [out / "report.json"] if p.exists())]
    if there and not (args.resume or args.overwrite):
        raise ValueError(f"{out} holds a run already: --resume goes on with it, --overwrite replaces it")
    return out


def run(args, device):
    joined = processes.start(device)
    try:
        return _run(args, device)
    finally:
        if joined:
            processes.stop()


def _run(args, device):
    console = plain_console(quiet=processes.rank() > 0)
    loaded = load(args) if args.T is None else None  # a network that was trained as a spiking one has a T of its own
    if loaded is not None:
        args.T = steps_by_default(loaded[0], loaded[2])
    checks.steps("T", args.T)
    at = steps_of(args)
    out = folder_of(args)
    if args.log_json is not None:
        check_regular(args.log_json)
        open(args.log_json, "a").close()  # told before anything runs
    net, name, data = loaded or load(args)
    images = data.test
    if args.images is not None:
        images = Subset(data.test, range(min(checks.integer("images", args.images), len(data.test))))
    snn = converted(args, net, data)
    evaluation = Evaluation(
        snn, images, args.T, at, args.memory, ann=None if own_network.is_spiking(net) else net,
        batch=args.batch_size, chunk=args.chunk, device=device, dtype=args.dtype,
        products=args.products, deterministic=args.deterministic,
        statistics=args.statistics, start_stop=args.start_stop, workers=args.workers, graphs=args.cuda_graphs,
        progress=out, resume=args.resume, overwrite=args.overwrite,
        on_plan=lambda plan: console.print(f"plan: {plan}", soft_wrap=True), on_note=lambda text: console.print(text, soft_wrap=True),
    )  # fmt: skip
    if processes.rank() == 0 and len(evaluation.done) < len(images):
        for file in FILES:  # of the run that was here, or of its part
            (out / file).unlink(missing_ok=True)
    facts = dict(checkpoint=args.checkpoint and str(args.checkpoint), data=name, preprocessing=data.facts.get("preprocessing"))
    if isinstance(net, SpikingNetwork):
        facts |= dict(saved=net.saved)
    else:
        facts |= dict(model=args.model) if args.model else dict(config=net.config, training=net.facts.get("training"))
    if args.statistics and is_direct(net) and processes.rank() == 0:
        facts["operations"] = _operations(console, net, images)
    try:
        _watched(console, evaluation, len(images), f"{snn.method.name}, T = {args.T}", args.log_json)
    except KeyboardInterrupt:
        _stopped(console, evaluation, len(images), args, out, facts)
        raise
    finally:
        evaluation.close()
    _tell(console, evaluation, args, out, facts)


def _operations(console, net, images):
    """{convention: ACs, MACs and energy of an image} of a network that was trained as a spiking one, on the first images."""
    loader = DataLoader(Subset(images, range(min(COUNTED, len(images)))), batch_size=1)  # all steps at once: as little memory as that takes
    found = [operations(net, loader, name) for name in CONVENTIONS]
    for each in found:
        console.print(f"operations, {each}", soft_wrap=True)
    return {each.convention: dict(ACs=each.ACs, MACs=each.MACs, energy_mJ=each.energy_mJ) for each in found}


def _watched(console, evaluation, images, what, log_json):
    """Runs, and tells what is done."""
    with progress(console, log_json if processes.rank() == 0 else None, evaluation.settings.T, "images") as bar:
        task = bar.add_task(what, total=images * evaluation.settings.T, completed=len(evaluation.done) * evaluation.settings.T, note="")
        so_far = _SoFar(evaluation) if log_json is not None else None

        def on_chunk(n):
            bar.advance(task, n * processes.world())
            if so_far is not None and (told := so_far.new()):
                bar.update(task, **told)

        evaluation.on_chunk = on_chunk
        if evaluation.done:
            console.print(f"{len(evaluation.done)} of {images} images are done already")
        evaluation.run()


class _SoFar:
    """What the log tells of the images that are done: accuracies in %, of this process's images."""

    def __init__(self, evaluation):
        self.evaluation, self.batches, self.images, self.right, self.ann = evaluation, 0, 0, 0, 0

    def new(self):
        """The accuracies, if a batch was finished since the last call."""
        e = self.evaluation
        if len(e.settings.at) > MOST_TOLD or len(e.earlier) + len(e.finished) == self.batches:
            return {}
        records = [record for record, _, _ in (e.earlier + e.finished)[self.batches :]]
        self.batches += len(records)
        for r in records:
            self.images += len(r["label"])
            self.right = self.right + (r["predicted"].T == r["label"]).sum(-1)
            self.ann += int((r["ann"] == r["label"]).sum())
        share = 100 / max(1, self.images)
        return dict(at=e.settings.at, accuracy=(share * self.right).tolist(), ann=None if e.ann is None else share * self.ann)


def _stopped(console, evaluation, images, args, out, facts):
    """The report of what is done so far; of all processes, as far as their files tell."""
    for sent in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sent, signal.SIG_IGN)  # torchrun sends more than one
    evaluation.close()
    if processes.rank() > 0:
        return
    if processes.world() > 1:
        evaluation.finished = []
        evaluation.earlier = _when_closed(out)
    done = sum(len(record["index"]) for record, _, _ in evaluation.earlier + evaluation.finished)
    console.print(f"stopped after {done} of {images} images; --resume goes on with --out {out}", soft_wrap=True)
    if done:
        _tell(console, evaluation, args, out, facts)


def _when_closed(out, seconds=10.0):
    """The batches in all files of a folder, as soon as the other processes have let go of theirs."""
    began = time.monotonic()
    while True:
        try:
            return [batch for path in files_in(out) for batch in read(path)[1]]
        except ValueError:
            if time.monotonic() - began > seconds:
                return []
            time.sleep(0.1)


def _tell(console, evaluation, args, out, facts):
    report = evaluation.report()
    if processes.rank() > 0:
        return
    report.facts = facts
    console.print(report.table())
    for line in report.notes():
        console.print(line, soft_wrap=True)
    try:
        wrote = _written(report, args, out)
    except OSError as error:
        if evaluation.finished or not (out / "report.json").exists():
            raise OSError(f"the report cannot be written to {out}: {error}") from error
        console.print(f"{out} cannot be written ({error.strerror}): the files of the finished run stay as they are", soft_wrap=True)
        return
    console.print(f"wrote {', '.join(wrote)} to {out}; cite citations.bib", soft_wrap=True)


def _written(report, args, out):
    """The files that were written."""
    with put_off("the report"):
        wrote = report.save(out)
        if args.save_predictions:
            kept = {key: report.record[key] for key in ("index", "label", "ann", "predicted", "margin", "confidence")}
            with whole(out / "predictions.npz") as part:
                np.savez_compressed(part, at=np.asarray(report.at), **kept)
            wrote.append("predictions.npz")
    return wrote

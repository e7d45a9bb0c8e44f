"""Two-stage training that survives a kill: from nothing to a network, its checkpoints, its log, and its spiking accuracy.

A folder holds all of it: `last.pt` (everything that resuming needs, written after each epoch), `best.pt` and `model.pt` (snnfast's own format: the
best epoch and the end), `log.jsonl` (a line per epoch), `tensorboard/`, `report.json` and `accuracy.png`.
"""

import copy
import dataclasses
import importlib.util
import inspect
import json
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from snnfast import checks, models, nn
from snnfast.checkpoints.own import save_checkpoint
from snnfast.data.augment import seed_all
from snnfast.models import replaced
from snnfast.models.activation import FINE
from snnfast.models.channelwise import to_channelwise
from snnfast.models.direct import BY_NAME
from snnfast.nn.masking import rows_are
from snnfast.system.files import check_regular, save_text, whole
from snnfast.system.memory import budget, parse, within
from snnfast.system.text import first_line
from snnfast.training import memory_plan
from snnfast.training.beginnings import take_over
from snnfast.training.optimisers import optimiser_of, parameter_groups, warmed_cosine
from snnfast.training.settings import AMP, Settings


def train(
    settings,
    data,
    out,
    *,
    net=None,
    earlier=None,
    teacher=None,
    device="cpu",
    resume=False,
    workers=0,
    on_epoch=None,
    memory=None,
    on_plan=None,
):
    """Trains by `settings` (a `Settings`) on `data` (a `snnfast.data.Data`) into the folder `out`.

    net: a network of one's own, with quantised activations, as it is before the first epoch; it is not changed. Default: the one of `settings.arch`.
    earlier: a network of `settings.arch` that was trained before, with whose weights this training starts; its thresholds are taken too, where the
    activations are the same. Default: random weights.
    teacher: a network that was trained before, which it learns from beside labels; `settings.teacher` says which.
    memory: what the process may take, such as "8GiB", or "auto", most of what is free; a batch that does not fit is refused, and nothing written.
    on_plan: called with the `snnfast.training.memory_plan.TrainingPlan` before the first epoch.
    on_epoch: called with the log entry of each epoch, a dictionary. With `resume` it goes on after the last finished epoch in `out`: nothing is lost
    but the epoch that was running, and on a CPU the result is that of a training that was never stopped.

    Returns:
        The network in eval mode, on the CPU.
    """
    settings.check()
    if (net is not None) != settings.is_own():
        raise ValueError(f"net is a network of one's own, whose arch is its 'package.module:function'; got arch {settings.arch!r}")
    if (teacher is not None) != bool(settings.teacher):
        raise ValueError(f"teacher is the network that settings.teacher names; got {settings.teacher!r} and {type(teacher).__name__}")
    memory = parse(memory)
    run = Training(settings, data, Path(out), device, workers, net, earlier, teacher)
    limit = budget(memory, run.device)
    if memory is not None or on_plan is not None:
        planned = run.planned(limit)
        planned.check()
        if on_plan is not None:
            on_plan(planned)
    with within(limit, run.device):
        run.restore() if resume else run.start()
        while run.stage < len(settings.epochs):
            while run.epoch < settings.epochs[run.stage]:
                entry = run.one_epoch()
                run.save(entry)
                if on_epoch:
                    on_epoch(entry)
            run.next_stage()
    if run.writer:
        run.writer.close()
    net = run.net.cpu().eval()
    with whole(run.out / "model.pt") as part:
        save_checkpoint(part, net, **run.facts(run.entries[-1]["test_accuracy"] if run.entries else None))
    return net


def _own_arguments(settings, image_size):
    """Arguments that only this kind of network has; sizes of patches and windows that fit the images."""
    known = inspect.signature(models.BY_NAME[settings.arch]).parameters
    own = {name: getattr(settings, name) for name in ("dropout", "stem") if name in known}
    own |= models.CLASS_OF[settings.arch].for_images(image_size)
    return own | settings.options


def _spiking(settings, data):
    """The network of `settings.arch` that is trained as a spiking one."""
    make = BY_NAME[settings.arch]
    takes = inspect.signature(make).parameters
    fits = {"img_size": data.image_size} if "img_size" in takes else {}
    if "pooling" in takes and data.image_size >= 128:
        fits["pooling"] = "0111"  # 16 x 16 tokens, as the authors have them for DVS-Gesture
    return make(num_classes=data.classes, in_channels=data.channels, **fits | settings.options)


_STATE = ("settings", "config", "state_dict", "optimiser", "schedule", "scaler", "rng", "stage", "epoch", "best", "entries")  # of last.pt


class Training:
    """One training on its way."""

    def __init__(self, settings, data, out, device, workers, net=None, earlier=None, teacher=None):
        self.settings, self.data, self.out, self.device, self.workers = settings, data, out, torch.device(device), checks.workers(workers)
        self.plain = json.loads(json.dumps(dataclasses.asdict(settings)))  # for files, which hold lists where these are tuples
        self.stage, self.epoch, self.best, self.writer, self.entries = 0, 0, -1.0, None, []
        self.given = net
        torch.manual_seed(settings.seed)
        self.net = self._made() if net is None else copy.deepcopy(net)
        if earlier is not None:
            take_over(self.net, earlier)
        data.check_fits(self.net, settings.arch)
        self.loss = settings.loss(data.classes, teacher)
        self.loss.check(self.net)
        if teacher is not None:
            self.loss.teacher.net.to(self.device)
            self.loss.teacher.check(data.test[0][0][None].to(self.device), data.classes)
        self._prepare()

    def _made(self):
        """The network of `settings.arch`."""
        settings, data = self.settings, self.data
        if settings.is_spiking():
            return _spiking(settings, data)
        data.check_fits(None, settings.arch)  # images, before a network is made for them
        own = _own_arguments(settings, data.image_size)
        own |= dict(channel_num=settings.channel_num) if settings.activation in FINE else {}
        return models.BY_NAME[settings.arch](
            num_classes=data.classes, levels=settings.levels, activation=settings.activation, theta=settings.theta, width=settings.width,
            in_channels=data.channels, **own,
        )  # fmt: skip

    def _config(self):
        """What makes this stage's network again: of one's own, its activations."""
        if self.settings.is_spiking():
            return {}
        return self.net.config if self.given is None else replaced.described(self.net)

    def _prepare(self):
        """Optimiser and schedule of the stage at hand."""
        s, stage = self.settings, self.stage
        for m in self.net.modules():
            if isinstance(m, nn.Quantised):
                m.grad = s.grad
        self.net.to(self.device)
        self.optimiser = optimiser_of(s.optimiser, parameter_groups(self.net, s.weight_decay, s.decay_all), s.lr[stage])
        self.schedule = warmed_cosine(self.optimiser, s.epochs[stage], s.warmup)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=s.amp == "fp16")

    def planned(self, most):
        """The memory that it takes. most: bytes, or None."""
        s, image = self.settings, self.data.test[0][0][None]
        return memory_plan.plan(
            self.net,
            image,
            min(s.batch_size, len(self.data.train)),
            s.optimiser,
            AMP[s.amp],
            self.device,
            most,
            s.chunk,
            self.loss.teacher and self.loss.teacher.net,
        )

    # ---- the folder

    def start(self):
        if (self.out / "last.pt").exists():
            raise ValueError(f"{self.out} holds a training already: give --resume to go on with it, or another folder")
        self.out.mkdir(parents=True, exist_ok=True)

    def restore(self):
        """Goes on after the last finished epoch; a folder without one starts anew."""
        self.out.mkdir(parents=True, exist_ok=True)
        if not (self.out / "last.pt").exists():
            return
        check_regular(self.out / "last.pt")
        try:
            file = torch.load(self.out / "last.pt", map_location="cpu", weights_only=True)
            missing = set(_STATE) - set(file)
            if not missing and not (isinstance(file["settings"], dict) and isinstance(file["state_dict"], dict)):
                missing = {"settings", "state_dict"}
        except Exception as error:  # torch.load raises many kinds
            told = first_line(error)
            raise ValueError(f"{self.out / 'last.pt'} is not readable, so nothing can be resumed: {told}") from error
        if missing:
            raise ValueError(f"{self.out / 'last.pt'} is not the state of a training: it has no {', '.join(sorted(missing))}")
        mine = self.plain
        former = {
            f.name: f.default for f in dataclasses.fields(Settings) if f.default is not dataclasses.MISSING
        }  # of fields that it did not have
        changed = [k for k in mine if mine[k] != file["settings"].get(k, former.get(k))]
        if changed:
            told = "; ".join(f"{k} was {file['settings'].get(k)!r}, is {mine[k]!r}" for k in changed)
            raise ValueError(f"{self.out} holds another training: {told}")
        self.stage, self.epoch, self.best = file["stage"], file["epoch"], file["best"]
        if file["config"] != self._config():
            own = self.given is not None
            self.net = replaced.put(copy.deepcopy(self.given), file["config"]) if own else models.build(file["config"])
        self.net.load_state_dict(file["state_dict"])
        self._prepare()
        self.optimiser.load_state_dict(file["optimiser"])
        self.schedule.load_state_dict(file["schedule"])
        self.scaler.load_state_dict(file["scaler"])
        torch.set_rng_state(file["rng"])
        self.entries = file["entries"]
        self._write_log()

    def save(self, entry):
        """After an epoch. The state holds the lines of the log too, so that the two never tell different stories."""
        self.entries.append(entry)
        self._tensorboard(entry)
        if entry["test_accuracy"] > self.best:
            self.best = entry["test_accuracy"]
            with whole(self.out / "best.pt") as part:
                save_checkpoint(part, self.net, **self.facts(self.best))
        state = dict(
            settings=self.plain, config=self._config(), state_dict=self.net.state_dict(),
            optimiser=self.optimiser.state_dict(), schedule=self.schedule.state_dict(), scaler=self.scaler.state_dict(), rng=torch.get_rng_state(),
            stage=self.stage, epoch=self.epoch, best=self.best, entries=self.entries,
        )  # fmt: skip
        with whole(self.out / "last.pt") as part:
            torch.save(state, part)
        self._write_log()

    def _write_log(self):
        save_text(self.out / "log.jsonl", "".join(json.dumps(e) + "\n" for e in self.entries))

    def _done(self):
        return sum(self.settings.epochs[: self.stage]) + self.epoch

    def _tensorboard(self, entry):
        if not importlib.util.find_spec("tensorboard"):
            return  # `snnfast train` says so
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(self.out / "tensorboard")
        for key in ("loss", "train_accuracy", "test_accuracy", "lr", "negative_thresholds", "theta_spread_max"):
            self.writer.add_scalar(key, entry[key], self._done())
        self.writer.flush()

    def facts(self, test_accuracy):
        """What a checkpoint keeps beside weights and configuration."""
        of_data = dict(classes=self.data.classes, channels=self.data.channels)
        return self.data.facts | of_data | dict(training=self.plain, test_accuracy=test_accuracy)

    # ---- one epoch

    def one_epoch(self):
        """Trains an epoch and measures it. Its order and augmentation follow from the seed, the stage and the epoch alone."""
        began, seed = time.perf_counter(), self.settings.seed * 1_000_003 + self.stage * 10_007 + self.epoch
        seed_all(seed)
        loader = DataLoader(
            self.data.train, self.settings.batch_size, shuffle=True, generator=torch.Generator().manual_seed(seed), num_workers=self.workers,
            drop_last=len(self.data.train) > self.settings.batch_size,
        )  # fmt: skip
        lr = self.optimiser.param_groups[0]["lr"]
        self.net.train()
        total = correct = seen = 0
        for x, y in loader:
            loss, right = self._step(x.to(self.device), y.to(self.device))
            total, correct, seen = total + loss * len(y), correct + right, seen + len(y)
        if not torch.isfinite(total):
            raise ValueError(
                f"the loss is {float(total)} in stage {self.stage + 1}, epoch {self.epoch + 1}: a smaller learning rate, or weight decay, may help"
            )
        self.schedule.step()
        self.epoch += 1
        thresholds = [nn.threshold_of(m).detach() for m in self.net.modules() if isinstance(m, nn.Quantised)]
        spreads = [float((t.max() - t.min()) / t.min()) for t in thresholds]
        return dict(
            stage=self.stage + 1, epoch=self.epoch, lr=lr, loss=float(total) / seen, train_accuracy=100 * float(correct) / seen,
            test_accuracy=accuracy(self.net, self.data.test, self.device, min(500, self.settings.batch_size), self.loss.logits),
            negative_thresholds=sum(int((t <= 0).sum()) for t in thresholds),
            theta_spread_max=max(spreads, default=0.0), seconds=time.perf_counter() - began,
        )  # fmt: skip

    def _step(self, x, y):
        s = self.settings
        x, shares = self.loss.mixed(x if self.data.augment is None else self.data.augment(x), y, self.epoch)
        with torch.autocast(self.device.type, AMP[s.amp], enabled=AMP[s.amp] is not None):
            loss, logits = self.loss(self.net, x, shares)
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimiser)
        self.scaler.update()
        return loss.detach(), (logits.detach().argmax(1) == y).sum()

    def next_stage(self):
        """Stage two starts from the function that stage one ended with."""
        self.stage, self.epoch = self.stage + 1, 0
        if self.stage < len(self.settings.epochs):
            self.net = to_channelwise(self.net, self.settings.channel_num, self.data.test[0][0][None].to(self.device))
            self.best = -1.0  # the best of the stage that the model comes from
            self._prepare()


@torch.no_grad()
def accuracy(net, data, device, batch_size=500, logits=None):
    """Top-1 accuracy in %. A training gives its own batch size, so that no more memory is taken. logits: of (net, images), net(images) by default."""
    logits = logits or (lambda net, x: net(x))
    net.eval()
    right = seen = 0
    for x, y in DataLoader(data, batch_size):
        with rows_are(torch.arange(seen, seen + len(y))):
            right += int((logits(net, x.to(device)).argmax(1).cpu() == y).sum())
        seen += len(y)
    return 100 * right / len(data)

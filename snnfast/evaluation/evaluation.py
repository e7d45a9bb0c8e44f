"""The accuracy of a spiking network at every asked t, from one run over the data, in memory that is known before."""

import collections
import contextlib
import dataclasses
import gc
import time
from pathlib import Path

import numpy as np
import torch

from snnfast import checks
from snnfast.evaluation import fingerprint, memory_plan, per_image
from snnfast.evaluation.images import prefetched, source_of
from snnfast.evaluation.progress_file import Store, compare, damaged, file_of, files_in, read, remove
from snnfast.evaluation.settings import EvaluationSettings
from snnfast.evaluation.statistics import Statistics
from snnfast.nn.masking import rows_are
from snnfast.reports.machine import machine
from snnfast.reports.report import Report
from snnfast.runtime.cuda_graphs import Graphs
from snnfast.runtime.execution import Execution
from snnfast.runtime.network import SpikingNetwork
from snnfast.runtime.number_formats import faithful, formats
from snnfast.system import heap, memory, processes
from snnfast.system.memory import parse
from snnfast.system.text import first_line
from snnfast.version import __version__

FACTS = {"statistics", "start_stop", "profile", "peak", "not_idle", "not_finite"}  # what is kept of a batch beside its record


def _is_count(value):
    return type(value) is int and value >= 0


def _check_facts(path, facts):
    """Refuses facts of a batch (kept beside its record) that no evaluation writes."""
    if not FACTS <= set(facts) or not isinstance(facts["profile"], dict) or type(facts["peak"]) is not int:
        raise damaged(path, f"the facts of a batch in it are not {', '.join(sorted(FACTS))}")
    times, bad, idle = facts["profile"].values(), facts["not_finite"], facts["not_idle"]
    if not all(isinstance(t, (int, float)) and not isinstance(t, bool) for t in times):
        raise damaged(path, "the profile of a batch in it has times that are no numbers")
    if not (isinstance(bad, dict) and all(map(_is_count, bad.values()))):
        raise damaged(path, "not_finite of a batch in it is no dictionary of counts")
    if not (isinstance(idle, list) and len(idle) in (0, 2) and all(map(_is_count, idle))):
        raise damaged(path, "not_idle of a batch in it is not two counts")


def _check_steps(path, batches, steps):
    """Refuses records of other numbers of steps than were asked."""
    for record, _, _ in batches:
        if record["predicted"].shape[1] != steps:
            raise damaged(path, f"a batch in it is of {record['predicted'].shape[1]} steps, and its run of {steps}")


def _check_batches(path, batches, images):
    """Refuses batches that no evaluation can have kept. images: how many images there are, or None if a loader does not say."""
    for record, facts, seconds in batches:
        index = record["index"]
        _check_facts(path, facts)
        try:
            per_image.check_columns(record)
        except ValueError as error:
            raise damaged(path, error) from None
        if index.size and (int(index.min()) < 0 or (images is not None and int(index.max()) >= images)):
            raise damaged(path, "a batch in it is of images that have no number")
        if not 0 <= seconds < float("inf"):
            raise damaged(path, "a batch in it took no time that is a number")


def _summed(counts):
    """Dictionaries of numbers, added up by their keys."""
    found = collections.Counter()
    for one in counts:
        found.update(one)
    return dict(found)


class Evaluation:
    """One evaluation: call `run`, then `report`. After a KeyboardInterrupt `report` covers what is done so far. See `evaluate`."""

    def __init__(
        self, snn, loader, T=None, at=None, memory=None, *, ann=None, batch=None, chunk=None, device="cpu", dtype="fp32",
        products=None, deterministic=False, graphs=False, statistics=False, start_stop=False, progress=None, resume=False, overwrite=False, workers=0,
        on_chunk=None, on_plan=None, on_note=None,
    ):  # fmt: skip
        if not isinstance(snn, SpikingNetwork):
            raise TypeError(f"snn must be what snnfast.convert returned, got {type(snn).__name__}")
        self.device, T = checks.device("device", device), snn.steps_by_default() if T is None else T
        self.settings = EvaluationSettings.checked(snn, T, at, dtype, deterministic, start_stop, statistics, self.device)
        for name, value in (("batch", batch), ("chunk", chunk)):
            if value is not None:
                checks.integer(name, value)
        for name, value in (("graphs", graphs), ("resume", resume), ("overwrite", overwrite)):
            checks.yes_or_no(name, value)
        for name, value in (("on_chunk", on_chunk), ("on_plan", on_plan), ("on_note", on_note)):
            if value is not None and not callable(value):
                raise TypeError(f"{name} must be a function or None, got {type(value).__name__}")
        if ann is not None and getattr(ann, "sums", False):
            raise ValueError("ann gives sums over the steps, which are no outputs of a network to compare means with: leave it out")
        self.statistics = Statistics(snn) if statistics is True else statistics or None
        if self.statistics is not None:
            self.statistics.marks(T)  # raises if this T does not fit
        if (resume or overwrite) and progress is None:
            raise ValueError("resume and overwrite are of a folder of finished batches: give progress=")
        if resume and overwrite:
            raise ValueError("resume goes on with what is there and overwrite replaces it: give one of them")
        self.budget, self.on_chunk, self.on_plan, self.on_note = parse(memory), on_chunk, on_plan, on_note
        self.source, self.progress = source_of(loader, workers), progress and Path(progress)
        self.asked_batch, self.asked_chunk = batch, chunk
        self.earlier, self.finished = [], []  # batches from before a resume, and of this run
        self.done, self.mine = set(), 0  # images of the earlier batches; how many earlier batches are in this process's file
        self.snn, self.ann = snn.to(self.device), ann
        if graphs and self.device.type != "cuda":
            raise ValueError(f"graphs are of CUDA devices, and the device is {self.device}")
        self.execution = Execution(
            snn.gm, self.device, dtype, deterministic, bool(statistics) and not graphs, Graphs() if graphs else None, products
        )
        self.settings = dataclasses.replace(self.settings, products=self.execution.products)
        self.complete = self.told = False
        shape = self.source.shape()
        self.dry = memory_plan.Dry(self.snn, shape, self.execution, self.device)
        _check_ann(ann, self.dry.dtype)
        self.plan = self._planned()
        if processes.world() > 1 and progress is None:
            processes.agreed("networks, data or settings", self._identity())
        self.store = self._opened(resume, overwrite) if progress is not None else None  # last: until here nothing is written

    # ---- before the run

    def _planned(self, batch=None, chunk=None):
        """The `MemoryPlan` within the budget. With a batch and a chunk given, after memory ran out, the plan of just these."""
        images, in_batches = self.source.largest()
        whole = images if in_batches and self.budget is None else None  # a loader's batches stay whole where no budget is given
        if self.ann is not None:
            self.ann.to(self.device)
        found = memory_plan.plan(
            self.dry, self.settings.T, images=images, batch=batch or self.asked_batch or whole, chunk=chunk or self.asked_chunk,
            budget=None if batch else memory.budget(self.budget, self.device), statistics=self.statistics is not None, ann=self.ann is not None,
            reads=len(self.settings.at) if self.settings.start_stop else 1,
        )  # fmt: skip
        return dataclasses.replace(found, budget=self.plan.budget) if batch else found

    def _identity(self):
        """What the results depend on."""
        return dict(
            network=fingerprint.of_network(self.snn, self.ann), data=self.source.identity(), method=self.snn.facts(),
            snnfast=__version__, torch=torch.__version__, **self.settings.identity(),
        )  # fmt: skip

    def _opened(self, resume, overwrite):
        """The file of finished batches. With `resume`, the batches in the folder's files go to `earlier`."""
        facts, files, mine = self._identity(), files_in(self.progress), file_of(self.progress, processes.rank())
        processes.agreed("networks, data or settings", facts)
        if files and not (resume or overwrite):
            raise ValueError(f"{self.progress} holds a run already: resume goes on with it, overwrite replaces it")
        for path in files if resume else ():
            known, batches = read(path)
            _check_batches(path, batches, getattr(self.source, "images", None))
            if known is not None:
                compare(known, facts, path)
            _check_steps(path, batches, len(self.settings.at))
            self.earlier += batches
            self.mine += len(batches) if path == mine else 0
        processes.gathered(None)  # every process has read before any process writes
        self.progress.mkdir(parents=True, exist_ok=True)
        store = Store(mine, facts, machine(self.device), overwrite)
        if overwrite and processes.is_first_here():
            for path in set(files) - {file_of(self.progress, r) for r in range(processes.world())}:
                remove(path)
        for part in processes.gathered([record["index"].tolist() for record, _, _ in self.earlier]):
            self.done |= {i for index in part for i in index}
        return store

    # ---- the run

    def run(self):
        """All images that are not done yet."""
        if self.on_plan:
            self.on_plan(self.plan)
        memory.restart_peak(self.device)
        try:
            self._run()
        except KeyboardInterrupt:
            if self.store:  # the file may hold one batch more than `finished`
                self.finished = self.store.batches()[self.mine :]
            raise
        self.complete = True

    def _run(self):
        formats_of, limit = formats(self.settings.dtype, self.settings.deterministic), memory.within(self.plan.budget, self.device)
        with torch.no_grad(), _in_eval_mode(self.ann), formats_of, limit:
            for index, x, y in prefetched(self._checked(), self.device):
                start = 0
                while start < len(y):
                    end = start + self.plan.batch  # the batch shrinks on out-of-memory
                    self._whole_or_halves(index[start:end], x[start:end], y[start:end])
                    start = end
        if self.execution.graphs and self.execution.graphs.refused:
            self._note(f"no CUDA graph was used: {self.execution.graphs.refused}")

    def _checked(self):
        for index, x, y in self.source.batches(self.done, self.plan.batch, self.device.type == "cuda"):
            if x.dtype != self.dry.dtype:
                raise TypeError(
                    f"images have dtype {checks.dtype_name(x.dtype)}, but the network's weights "
                    f"{checks.dtype_name(self.dry.dtype)}: convert one of them"
                )
            if not (fine := torch.isfinite(x.flatten(1)).all(1)).all():  # neurons would take such values for silence
                raise ValueError(f"image {index[int((~fine).nonzero()[0])]} has values that are not finite")
            wrong = (y < 0) | (y >= self.dry.classes)
            if wrong.any():
                at = int(wrong.nonzero()[0])
                raise ValueError(f"the label of image {index[at]} is {int(y[at])}, but the network has {self.dry.classes} classes")
            yield index, x, y

    def _whole_or_halves(self, index, x, y):
        """Finishes a batch: at once, or in parts on out-of-memory."""
        steps, out = 0, None

        def tick(n):
            nonlocal steps
            steps += n
            if self.on_chunk:
                self.on_chunk(n * len(y))

        try:
            self._finish(*self._batch(index, x, y, tick))
            return
        except (RuntimeError, MemoryError) as error:
            if not memory.is_out(error):
                raise
            out = first_line(error)
        # Outside of `except`, which would keep the tensors of the failed run alive.
        tick(-steps)
        gc.collect()
        heap.release()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        chunk, least = self.plan.chunk, self.snn.method.least_T
        if chunk > max(1, least):
            self.plan = self._planned(batch=self.plan.batch, chunk=max(1, least, chunk // 2))
            self._note(f"out of memory with {len(y)} images and {chunk} steps at a time: repeated with {self.plan.chunk} steps ({out})")
            self._whole_or_halves(index, x, y)
            return
        if len(y) == 1:
            raise ValueError(
                f"out of memory with one image and {chunk} step{'s' if chunk > 1 else ''} at a time, which need about "
                f"{memory.told(memory_plan.plan(self.dry, self.settings.T, batch=1, chunk=chunk).bytes)}: {out}"
            )
        half = len(y) // 2
        self.plan = self._planned(batch=half, chunk=chunk)
        self._note(f"out of memory with {len(y)} images: repeated in two parts ({out})")
        self._whole_or_halves(index[:half], x[:half], y[:half])
        self._whole_or_halves(index[half:], x[half:], y[half:])

    def _note(self, text):
        if self.on_note:
            self.on_note(text)

    def _batch(self, index, x, y, tick):
        began = time.perf_counter()
        counted = None if self.statistics is None else self.statistics.empty()
        numbers = torch.as_tensor(list(index), dtype=torch.int64, device=self.device)
        reading = per_image.Reading(self.snn, index, y, self.settings.at, self._answer(x, numbers), self.settings.start_stop)
        not_idle = []  # (busy, all), of a differential run
        not_finite = {}  # layer -> neurons
        how = dict(execution=self.execution, on_end=lambda *counts: not_idle.extend(counts), on_bad=not_finite.update)
        run = self.snn.sums(x, self.settings.T, self.settings.at, self.plan.chunk, numbers, counted, tick, **how)
        for t, total, dtype in run:
            reading.at_step(t, total, dtype)
        record, windows = reading.done()
        profile = self.execution.clock.take() if self.execution.clock else {}
        facts = dict(
            statistics=counted and counted.state(), start_stop=windows, profile=profile, peak=memory.peak(self.device), not_idle=not_idle,
            not_finite=not_finite,
        )  # fmt: skip
        return record, facts, time.perf_counter() - began

    def _answer(self, x, numbers):
        """What the quantised network answers, in full precision."""
        if self.ann is None:
            return None

        def answer(x, numbers):
            try:
                with rows_are(numbers):
                    y = self.ann(x)
            except (RuntimeError, ValueError, TypeError) as error:
                if memory.is_out(error):
                    raise
                raise ValueError(f"ann does not run on images {list(x.shape)}: {first_line(error)}") from error
            return y if self.snn.outputs is None else self.snn.outputs.packed(y)

        with formats(faithful(self.settings.dtype), self.settings.deterministic):
            y = self.execution.fixed.apply("ann", answer, [x, numbers], len(x)) if self.execution.fixed else answer(x, numbers)
        if self.device.type == "cpu":
            heap.release()
        if y.shape != (len(x), self.dry.classes):
            raise ValueError(f"ann must give logits [{len(x)}, {self.dry.classes}], as snn does, got shape {tuple(y.shape)}")
        return y

    def _finish(self, record, facts, seconds):
        if self.store:
            self.store.put(record, facts, seconds)
        self.finished.append((record, facts, seconds))

    # ---- after it

    def report(self):
        """The `Report` of all images that are done, on every process."""
        mine = self.earlier + self.finished
        parts = processes.gathered(mine) if self.complete else [mine]
        batches = {int(batch[0]["index"][0]): batch for part in parts for batch in part}  # a batch that several processes read counts once
        batches = [batches[key] for key in sorted(batches)]
        record = per_image.joined([r for r, _, _ in batches])
        counted = self._statistics(batches)
        images, seconds = len(record["index"]), sum(s for _, _, s in batches)
        pace = images / seconds * len(parts)
        report = Report(
            at=self.settings.at, images=images, seconds=seconds, ann=per_image.ann_accuracy(record), device=str(self.device), method=self.snn.facts(),
            layers=counted.rows() if counted else [], energy=counted.over_time() if counted else [],
            totals=counted.totals() if counted else {},
            start_stop=self._windows(batches, images), early_exit=per_image.early_exit(record, self.settings.at), complete=self.complete,
            speed=dict(images_per_second=pace, image_steps_per_second=pace * self.settings.T, processes=len(parts)),
            memory=dict(plan=str(self.plan), batch=self.plan.batch, chunk=self.plan.chunk, estimate=self.plan.bytes, budget=self.plan.budget,
                        peak=max(facts["peak"] for _, facts, _ in batches)),
            profile=self._profile(batches),
            settings=self.settings.told() | self._exact() | dict(quantised=any(self.snn.levels.values())),
            not_idle=[sum(facts["not_idle"][i] for _, facts, _ in batches) for i in range(2)] if self.snn.clock.differential else [],
            not_finite=_summed(facts.get("not_finite", {}) for _, facts, _ in batches),
            machine=self.store.machine if self.store else machine(self.device), **per_image.summary(record, self.settings.at),
        )  # fmt: skip
        report.record = record
        return report

    def _statistics(self, batches):
        """The counts of all batches. A caller's own `Statistics`, which may have seen other runs, takes them in once."""
        if self.statistics is None:
            return None
        counted = self.statistics.empty()
        for _, facts, _ in batches:
            counted.add(facts["statistics"])
            if not self.told:
                self.statistics.add(facts["statistics"])
        self.told = True
        return counted

    def _exact(self):
        """The layers whose sums were exact, where that was asked for."""
        return {"exact_layers": self.execution.exact()} if self.execution.products == "exact" else {}

    def _windows(self, batches, images):
        if not self.settings.start_stop:
            return {}
        counts = sum(np.asarray(facts["start_stop"]) for _, facts, _ in batches)
        return per_image.start_stop(counts, images, self.settings.at)

    def _profile(self, batches):
        """Seconds of all batches and bytes per node of the graph, in its order."""
        sums = {}
        for _, facts, _ in batches:
            for name, seconds in facts["profile"].items():
                sums[name] = sums.get(name, 0.0) + seconds
        B, c, whole = self.plan.batch, self.plan.chunk, sum(sums.values()) or 1.0
        return [
            dict(layer=str(node.target if node.op == "call_module" else node.name), kind=self.dry.kind(node), seconds=sums[node.name],
                 share=sums[node.name] / whole, bytes=self.dry.bytes_of(node, B, c))
            for node in self.dry.nodes if node.name in sums
        ]  # fmt: skip

    def close(self):
        """Lets go of the file of finished batches."""
        if self.store:
            self.store.close()


def _check_ann(ann, dtype):
    if ann is not None and not isinstance(ann, torch.nn.Module):
        raise TypeError(f"ann must be the network that snn was converted from, a torch.nn.Module, got {type(ann).__name__}")
    other = next((p.dtype for p in (ann.parameters() if ann is not None else ()) if p.is_floating_point() and p.dtype != dtype), None)
    if other is not None:
        raise TypeError(
            f"ann has weights in {checks.dtype_name(other)}, but those of snn are in {checks.dtype_name(dtype)}: convert one of them"
        )


@contextlib.contextmanager
def _in_eval_mode(net):
    """`net` in eval mode, and each of its modules back in its own mode afterwards."""
    modes = [] if net is None else [(m, m.training) for m in net.modules()]
    if net is not None:
        net.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training

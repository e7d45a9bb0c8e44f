"""The accuracy of a spiking network at every asked t, from one run over the data, in memory that is known before."""

import contextlib
import gc
import time
from pathlib import Path

import torch

from snnfast import heap, identity, memory, planner, records, shards
from snnfast.execution import Execution
from snnfast.graphs import Graphs
from snnfast.machine import machine
from snnfast.memory import parse
from snnfast.ops import checks
from snnfast.products import check_dtype, formats
from snnfast.report import Report
from snnfast.sources import prefetched, source_of
from snnfast.spiking import SpikingNetwork, check_at, powers_of_two
from snnfast.statistics import Statistics
from snnfast.store import Store, file_of, files_in
from snnfast.version import __version__


def evaluate(snn, loader, T=1024, at=None, memory=None, **options):  # as `Evaluation` takes them
    """Runs T steps per image once and reads the mean output at each t of `at`.

    Args:
        snn: what `snnfast.convert` returned.
        loader: iterable of batches (images [B, ...], labels [B]), such as a DataLoader, or a data set of (image, label), which is then read in
            batches of a fitting size.
        T: number of steps, >= 1.
        at: increasing steps in 1..T; default 1, 2, 4, ... and T.
        memory: what the whole process may hold on the device: bytes, a text such as "8GiB", "auto" (most of what is free), or None (what runs
            fastest). Batch and chunk are chosen to stay below it; batches of a loader are cut. Where memory runs out all the same, the chunk is
            halved, then the batch, and the batch repeated: the result is the same.
        ann: the network that `snn` was converted from; its accuracy and the distance of the outputs then stand in the report. It is left on
            `device`, in the mode it was in.
        batch: images at a time, of a data set.  chunk: steps at a time. Chosen if not given; memory depends on them, not on T.
        device: where to run.
        dtype: of matrix products, "fp32", "tf32", "bf16", "fp16" or "author"; see `snnfast/products.py`. Neurons are fp32 in all of them.
        deterministic: calls libraries with shapes that depend neither on batch nor chunk, so that results do not either; slower.
        statistics: True, or a `snnfast.statistics.Statistics` of `snn`: unevenness, firing rates, SOPs, energy and seconds per layer, in the same
            pass.
        graphs: whether to capture the loop over chunks as a CUDA graph, on a GPU; see `snnfast/graphs.py`.
        start_stop: whether to read delayed outputs too, see `snnfast.records.start_stop`.
        progress: folder for a file of finished batches.  resume: go on with what is in it; it must be of the same network, data and settings.
            overwrite: start anew where it holds a run.
        workers: processes that load images of a data set.
        on_chunk: called with the number of image-steps done since the last call.  on_plan: called with the `planner.MemoryPlan` before the run.
        on_note: called with a text where something was changed on the way.

    Returns:
        `snnfast.Report`.
    """
    run = Evaluation(snn, loader, T, at, memory, **options)
    run.run()
    return run.report()


class Evaluation:
    """One evaluation on its way: `run`, then `report`; after a KeyboardInterrupt `report` tells what is done so far. See `evaluate`."""

    def __init__(
        self, snn, loader, T=1024, at=None, memory=None, *, ann=None, batch=None, chunk=None, device="cpu", dtype="fp32",
        deterministic=False, graphs=False, statistics=False, start_stop=False, progress=None, resume=False, overwrite=False, workers=0,
        on_chunk=None, on_plan=None, on_note=None,
    ):  # fmt: skip
        checks.integer("T", T)
        if not isinstance(snn, SpikingNetwork):
            raise TypeError(f"snn must be what snnfast.convert returned, got {type(snn).__name__}")
        snn.method.check_T(T)
        self.T, self.at = T, powers_of_two(T) if at is None else check_at(at, T)
        for name, value in (("batch", batch), ("chunk", chunk)):
            if value is not None:
                checks.integer(name, value)
        self.device = shards.own_device(torch.device(device))
        self.dtype, self.deterministic, self.start_stop = check_dtype(dtype, self.device), deterministic, start_stop
        self.statistics = Statistics(snn) if statistics is True else statistics or None
        if (resume or overwrite) and progress is None:
            raise ValueError("resume and overwrite are of a folder of finished batches: give progress=")
        if resume and overwrite:
            raise ValueError("resume goes on with what is there and overwrite replaces it: give one of them")
        self.budget, self.on_chunk, self.on_plan, self.on_note = parse(memory), on_chunk, on_plan, on_note
        self.source, self.progress, self.asked_batch, self.asked_chunk = (
            source_of(loader, workers),
            progress and Path(progress),
            batch,
            chunk,
        )
        self.snn, self.ann, self.earlier, self.finished, self.done = snn.to(self.device), ann, [], [], set()
        if graphs and self.device.type != "cuda":
            raise ValueError(f"graphs are of CUDA devices, and the device is {self.device}")
        self.execution = Execution(snn.gm, self.device, dtype, deterministic, bool(statistics) and not graphs, Graphs() if graphs else None)
        self.complete = False
        shape = self.source.shape()
        self.dry = planner.Dry(self.snn, shape, self.execution, self.device)
        self.plan = self._planned()
        self.store = self._opened(resume, overwrite) if progress is not None else None  # last: until here nothing is written

    # ---- before the run

    def _planned(self):
        first = self.source.first_batch()
        whole = first if self.budget is None else None  # a loader's batches stay whole where no budget is given
        budget = memory.budget(self.budget, self.device)
        if self.ann is not None:
            self.ann.to(self.device)
        return planner.plan(
            self.dry, self.T, images=first or self.source.images, batch=self.asked_batch or whole, chunk=self.asked_chunk, budget=budget,
            statistics=self.statistics is not None, ann=self.ann is not None,
        )  # fmt: skip

    def _opened(self, resume, overwrite):
        """The file of finished batches, and what is in the folder's files already."""
        files = files_in(self.progress)
        if files and not (resume or overwrite):
            raise ValueError(f"{self.progress} holds a run already: resume goes on with it, overwrite replaces it")
        settings = dict(
            T=self.T, at=self.at, dtype=self.dtype, deterministic=self.deterministic, start_stop=self.start_stop,
            statistics=self.statistics is not None, device=self.device.type, method=self.snn.method.facts(),
        )  # fmt: skip
        facts = dict(network=identity.of_network(self.snn, self.ann), data=self.source.identity(), snnfast=__version__, **settings)
        shards.gathered(None)  # every process has looked at the folder before one of them changes it
        self.progress.mkdir(parents=True, exist_ok=True)
        if overwrite:
            for path in files if shards.rank() == 0 else ():
                path.unlink(missing_ok=True)
            files = []
            shards.gathered(None)
        mine = file_of(self.progress, shards.rank())
        for path in files:
            if path != mine:
                other = Store(path, facts)
                self.earlier += other.batches()
                other.close()
        shards.gathered(None)  # nobody writes before all have read
        store = Store(mine, facts)
        self.stored = store.batches()
        self.earlier += self.stored
        for part in shards.gathered([record["index"].tolist() for record, _, _ in self.earlier]):
            self.done |= {i for index in part for i in index}
        return store

    # ---- the run

    def run(self):
        """All images that are not done yet."""
        if self.on_plan:
            self.on_plan(self.plan)
        memory.restart_peak(self.device)
        pinned = self.device.type == "cuda"
        try:
            self._run(pinned)
        except KeyboardInterrupt:
            if self.store:  # which may hold a batch more than was noted here
                self.finished = self.store.batches()[len(self.stored) :]
            raise
        self.complete = True

    def _run(self, pinned):
        with torch.no_grad(), _in_eval_mode(self.ann), formats(self.dtype):
            for index, x, y in prefetched(self._checked(pinned), self.device):
                start = 0
                while start < len(y):
                    end = start + self.plan.batch  # which shrinks where memory runs out
                    self._whole_or_halves(index[start:end], x[start:end], y[start:end])
                    start = end

        if self.execution.graphs and self.execution.graphs.refused:
            self._note(f"no CUDA graph was used: {self.execution.graphs.refused}")

    def _checked(self, pinned):
        for index, x, y in self.source.batches(self.done, self.plan.batch, pinned):
            wrong = (y < 0) | (y >= self.dry.classes)
            if wrong.any():
                at = int(wrong.nonzero()[0])
                raise ValueError(f"the label of image {index[at]} is {int(y[at])}, but the network has {self.dry.classes} classes")
            yield index, x, y

    def _whole_or_halves(self, index, x, y):
        """Finishes a batch: at once, or in parts where memory runs out."""
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
            out = str(error).splitlines()[0] if str(error) else type(error).__name__
        # Outside of `except`, which would keep the tensors of the failed run alive.
        tick(-steps)
        gc.collect()
        heap.release()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        chunk, least = self.plan.chunk, self.snn.method.rho
        if chunk > max(1, least):
            self.plan = planner.smaller(self.plan, chunk=max(1, least, chunk // 2))
            self._note(f"out of memory with {len(y)} images and {chunk} steps at a time: repeated with {self.plan.chunk} steps ({out})")
            self._whole_or_halves(index, x, y)
            return
        if len(y) == 1:
            raise ValueError(
                f"out of memory with one image and {chunk} step{'s' if chunk > 1 else ''} at a time, which need about "
                f"{memory.told(planner.plan(self.dry, self.T, batch=1, chunk=chunk).bytes)}: {out}"
            )
        half = len(y) // 2
        self.plan = planner.smaller(self.plan, batch=half)
        self._note(f"out of memory with {len(y)} images: repeated in two parts ({out})")
        self._whole_or_halves(index[:half], x[:half], y[:half])
        self._whole_or_halves(index[half:], x[half:], y[half:])

    def _note(self, text):
        if self.on_note:
            self.on_note(text)

    def _batch(self, index, x, y, tick):
        began = time.perf_counter()
        x, y = x.to(self.device), y.to(self.device)
        counted = None if self.statistics is None else self.statistics.empty()
        reading = records.Reading(self.snn, index, y, self.at, self._answer(x), self.start_stop)
        numbers = torch.as_tensor(list(index), dtype=torch.int64, device=self.device)
        run = self.snn.sums(x, self.T, self.at, self.plan.chunk, numbers, counted, tick, execution=self.execution)
        for t, total, dtype in run:
            reading.at_step(t, total, dtype)
        return reading.done(), counted and counted.state(), time.perf_counter() - began

    def _answer(self, x):
        """What the quantised network answers, in full precision."""
        if self.ann is None:
            return None
        with formats("author" if self.dtype == "author" else "fp32"):
            if self.execution.fixed:
                return self.execution.fixed.apply("ann", self.ann, [x], len(x))
            return self.ann(x)

    def _finish(self, record, counted, seconds):
        if self.store:
            self.store.put(record, counted, seconds)
        self.finished.append((record, counted, seconds))

    # ---- after it

    def report(self):
        """The `Report` of all images that are done, on every process."""
        mine = self.earlier + self.finished
        parts = shards.gathered(mine) if self.complete else [mine]
        batches = {int(record["index"][0]): (record, counted, seconds) for part in parts for record, counted, seconds in part}
        record = records.joined([batches[key][0] for key in sorted(batches)])
        statistics = self.statistics
        if statistics is not None:
            for key in sorted(batches):
                statistics.add(batches[key][1])
        seconds = sum(b[2] for b in batches.values()) / len(parts)
        images = len(record["index"])
        report = Report(
            at=self.at, images=images, seconds=seconds, ann=records.ann_accuracy(record), device=str(self.device), method=self.snn.method.facts(),
            layers=statistics.rows() if statistics else [], totals=statistics.totals() if statistics else {},
            energy=statistics.over_time() if statistics else [], start_stop=records.start_stop(record, self.at),
            early_exit=records.early_exit(record, self.at), complete=self.complete,
            speed=dict(images_per_second=images / seconds, image_steps_per_second=images * self.T / seconds, processes=len(parts)),
            memory=dict(plan=str(self.plan), batch=self.plan.batch, chunk=self.plan.chunk, estimate=self.plan.bytes, budget=self.plan.budget,
                        peak=max(shards.gathered(memory.peak(self.device)) if self.complete else [memory.peak(self.device)])),
            profile=self._profile(), settings=dict(T=self.T, at=self.at, dtype=self.dtype, deterministic=bool(self.deterministic)),
            machine=machine(self.device), **records.summary(record, self.at),
        )  # fmt: skip
        report.record = record
        return report

    def _profile(self):
        """Seconds and bytes per node of the graph, in its order; of this process, in this session."""
        if not self.execution.clock:
            return []
        sums, B, c = self.execution.clock.sums(), self.plan.batch, self.plan.chunk
        whole = sum(sums.values()) or 1.0
        return [
            dict(layer=str(node.target if node.op == "call_module" else node.name), kind=self.dry.kind(node), seconds=sums[node.name],
                 share=sums[node.name] / whole, bytes=self.dry.bytes_of(node, B, c))
            for node in self.dry.nodes if node.name in sums
        ]  # fmt: skip

    def close(self):
        if self.store:
            self.store.close()


@contextlib.contextmanager
def _in_eval_mode(net):
    """`net` in eval mode, and back in its own mode afterwards."""
    if net is None:
        yield
        return
    training = net.training
    net.eval()
    try:
        yield
    finally:
        net.train(training)

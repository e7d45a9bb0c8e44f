"""`snnfast.evaluate`: the accuracy of a spiking network at every number of time steps, in one run."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import torch
from torch.utils.data import Dataset

from snnfast.evaluation import memory_plan
from snnfast.evaluation.evaluation import Evaluation
from snnfast.evaluation.statistics import Statistics
from snnfast.reports.report import Report
from snnfast.runtime.network import SpikingNetwork


def evaluate(
    snn: SpikingNetwork,
    loader: Iterable | Dataset,
    T: int | None = None,
    at: list[int] | None = None,
    memory: int | str | None = None,
    *,
    ann: torch.nn.Module | None = None,
    batch: int | None = None,
    chunk: int | None = None,
    device: str | torch.device = "cpu",
    dtype: Literal["fp32", "tf32", "bf16", "fp16", "author"] = "fp32",
    products: Literal["sparse", "exact", "dense"] | None = None,
    deterministic: bool = False,
    graphs: bool = False,
    statistics: bool | Statistics = False,
    start_stop: bool = False,
    progress: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    workers: int = 0,
    on_chunk: Callable[[int], None] | None = None,
    on_plan: Callable[[memory_plan.MemoryPlan], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Report:
    """Runs T steps per image once and reads the mean output at each t of `at`.

    Args:
        snn: what `snnfast.convert` returned.
        loader: iterable of batches (images [B, ...], labels [B]), such as a DataLoader, or a data set of (image, label), which is then read in
            batches of a fitting size.
        T: number of steps, >= 1; by default 64, as on the command line, or the steps that a network was trained with as a spiking one.
        at: increasing steps in 1..T; default 1, 2, 4, ... and T.
        memory: what the whole process may hold: bytes, a text such as "8GiB", "auto" (most of what is free), or None (what runs fastest). On a CPU
            that is its resident memory, on a GPU what torch reserves (CUDA's own context comes on top). Batch and chunk are chosen to stay below
            it; batches of a loader are cut. On out-of-memory the chunk is halved, then the batch, and the batch is repeated.
        ann: the network that `snn` was converted from; the report then has its accuracy and the distance of the outputs. Both networks are
            left on `device`.
        batch: images at a time, of a data set.  chunk: steps at a time. Chosen if not given; memory depends on them, not on T.
        device: where to run.
        dtype: of matrix products, "fp32", "tf32", "bf16", "fp16" or "author"; see `snnfast/runtime/number_formats.py`. Neurons are fp32
            in all of them.
        products: "sparse", products that skip zeros and whose results depend on no batch; "exact", sums of integers behind spikes, the same
            bits on every device, and on a GPU by tensor cores; or "dense", torch's. See `snnfast/runtime/sparse_products.py`. Default: sparse on a
            CPU with dtype "fp32", else dense.
        deterministic: calls libraries with shapes that depend neither on batch nor chunk, see `snnfast/runtime/fixed_shapes.py`; without
            it a library may sum in another order for another batch. Slower.
        statistics: True, or a `snnfast.evaluation.statistics.Statistics` of `snn`: unevenness, firing rates, SOPs, energy and
            seconds per layer, in the same pass.
        graphs: whether to capture the loop over chunks as a CUDA graph, on a GPU; see `snnfast/runtime/cuda_graphs.py`.
        start_stop: whether to read delayed outputs too, see `snnfast.evaluation.per_image.start_stop`.
        progress: folder for a file of finished batches.  resume: continue the run in this folder, which must have the same network, data and
            settings. overwrite: start anew if the folder holds a run.
        workers: processes that load images of a data set.
        on_chunk: called with the number of image-steps done since the last call.  on_plan: called with the `memory_plan.MemoryPlan` before the run.
        on_note: called with a text if the run had to change something on the way.

    Returns:
        `snnfast.Report`.

    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), snnfast.nn.QCFS(levels=8, theta=1.0), torch.nn.Linear(8, 2))
    >>> data = torch.utils.data.TensorDataset(torch.randn(6, 4), torch.zeros(6, dtype=torch.long))
    >>> report = snnfast.evaluate(snnfast.convert(net), data, T=8, ann=net)
    >>> report.at, report.images
    ([1, 2, 4, 8], 6)
    """
    run = Evaluation(
        snn, loader, T, at, memory, ann=ann, batch=batch, chunk=chunk, device=device, dtype=dtype, products=products, deterministic=deterministic,
        graphs=graphs, statistics=statistics, start_stop=start_stop, progress=progress, resume=resume, overwrite=overwrite, workers=workers,
        on_chunk=on_chunk, on_plan=on_plan, on_note=on_note,
    )  # fmt: skip
    try:
        run.run()
        return run.report()
    finally:
        run.close()

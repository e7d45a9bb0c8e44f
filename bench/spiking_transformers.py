"""Transformers over time, against T passes of their own quantised network; called by `models.py` for their names.

Thresholds are the 99.9th percentile of each activation's positive inputs, so that levels are used as trained ones are. The run stops when it is
idle, as runs on a CPU do by default; `idle` tells after how many steps. Runs of both alternate in one process, medians are told; each peak is of a
process of its own, which does not stop.
"""

import copy
import json
import statistics
import time
from pathlib import Path

import stored
import torch

import snnfast
from snnfast import nn
from snnfast.system import memory

# Network, pixels, pixels of a patch.
SIZES = {"vit_tiny": (32, 4), "vit_small": (224, 16), "vit_base": (224, 16), "swin_tiny": (224, 4)}


@torch.no_grad()
def fitted(arch, width=1.0):
    """A network whose thresholds fit its activations."""
    torch.manual_seed(0)
    size, patch = SIZES[arch]
    net = snnfast.models.BY_NAME[arch](image_size=size, patch_size=patch, activation="qcfs", levels=16, width=width).eval()

    def fit(module, inputs):
        x = inputs[0].flatten()
        x = x[x > 0][:200_000]
        module.thresh.fill_(float(x.quantile(0.999)) if x.numel() else 1.0)

    hooks = [m.register_forward_pre_hook(fit) for m in net.modules() if nn.is_quantised(m)]
    net(torch.randn(2, 3, size, size))
    for hook in hooks:
        hook.remove()
    return net


def _images(args, arch):
    torch.manual_seed(1)
    size, _ = SIZES[arch]
    return torch.randn(args.batch, 3, size, size, device=args.device)


def _wait(device):
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


@torch.no_grad()
def _check(net, x):
    """In fp64, where no sum falls on the other side of a tie. In fp32 some of a million levels differ by one, and others behind them."""
    net, x = copy.deepcopy(net).double(), x.double()
    expected = net(x)
    assert (snnfast.convert(net)(x, T=200) - expected).abs().max() <= 1e-9 * expected.abs().max() > 0, "it computes something else"


@torch.no_grad()
def one(args):
    """One process: a JSON line. way "ratio": seconds of both, `rounds` times; "peak": of one run over time."""
    arch, T = args.arch[0], args.T[0]
    if torch.device(args.device).type == "cpu":
        torch.set_num_threads(2)
    net = fitted(arch, args.width).to(args.device)
    snn, x, idle = snnfast.convert(net), _images(args, arch), []
    if args.way == "peak":
        memory.restart_peak(args.device)
        before = memory.used(args.device)
        began = time.perf_counter()
        for _ in snn.chunks(x, T, stop=False, on_end=lambda *counts: idle.append(counts[0])):
            pass
        _wait(args.device)
        return print(json.dumps(dict(seconds=time.perf_counter() - began, peak=memory.peak(args.device), before=before, not_idle=idle[0])))
    _check(net, x[:1])
    steps = list(snn.chunks(x, T, chunk=1, on_end=lambda *counts: idle.append(counts[0])))
    last = max(t for t, step in enumerate(steps) if step.abs().max() > 0) + 1
    times = {"quantised": [], "spiking": []}
    for _ in range(args.rounds + 1):
        for way, run in (("quantised", lambda: [net(x) for _ in range(4)]), ("spiking", lambda: snn(x, T=T))):
            began = time.perf_counter()
            run()
            _wait(args.device)
            times[way].append((time.perf_counter() - began) / (4 if way == "quantised" else 1))
    times = {way: statistics.median(t[1:]) for way, t in times.items()}  # the first warms up
    print(json.dumps(dict(**times, idle_after=last, not_idle=idle[0])))


def _child(args, way, arch, T):
    script = Path(__file__).with_name("models.py")
    return stored.child(script, way=way, arch=arch, T=T, batch=args.batch, width=args.width, rounds=args.rounds, device=args.device)


def measure(args, arch, facts):
    """Prints and stores a row for each T."""
    for T in args.T:
        what = dict(
            arch=arch, image_size=SIZES[arch][0], patch_size=SIZES[arch][1], T=T, batch=args.batch, width=args.width, rounds=args.rounds
        )
        ratio, peak = {} if args.peaks else _child(args, "ratio", arch, T), _child(args, "peak", arch, T)
        failed = ratio.get("failed") or peak.get("failed")
        if failed:
            print(f"| {arch}, {T} | – | – | – | {failed} | |", flush=True)
            continue
        row = dict(peak=peak["peak"], rise=peak["peak"] - peak["before"], whole_run=peak["seconds"], not_idle=peak["not_idle"])
        if args.peaks:
            stored.append("transformers", facts, [what | row], args.results)
            print(f"| {arch}, {T} | – | {row['whole_run']:.3g} s for the whole run | – | – | {memory.told(row['peak'])} |", flush=True)
            continue
        quantised, spiking = ratio["quantised"], ratio["spiking"]
        row |= dict(quantised=quantised, spiking=spiking, ratio=spiking / (T * quantised), idle=ratio["idle_after"])
        stored.append("transformers", facts, [what | row], args.results)
        print(
            f"| {arch}, {T} | {quantised * T:.3g} s | {spiking:.3g} s | {row['ratio']:.2f} | {row['idle']} | {memory.told(row['peak'])} |",
            flush=True,
        )


HEAD = "| network, T | T quantised passes | spiking | ratio | idle after | peak |\n|---|---|---|---|---|---|"

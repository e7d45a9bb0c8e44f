"""The same work by what people use now: `make peers` makes an environment for it, then runs it; or `python bench/peers.py` where they are installed.

work           a neuron over T steps of N inputs in fp32, T and N as small, long and large jobs have them, on two threads
authors' loop  what the method's users run, written from its definition (`loops.py`)
torch.compile  that loop compiled; the time it took to compile stands apart
SpikingJelly   2.0.0: its IFNode, LIFNode, ActivationAwareIFNode and the functions below them; the fastest of those that do the row
snnTorch, norse   their neuron, step by step, as their manuals have it

Everybody's spikes are compared with ours before they are timed. All take turns, two calls each, of which the second is timed; medians are told.
Results are allocated, from a heap that keeps its pages (`pages.py`): the price of fresh ones depends on what ran before. Who cannot do a row says so.
"""

import argparse
import importlib
import os
import statistics
import time
from pathlib import Path

os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"  # before torch: what is compiled is compiled here

import loops
import stored
import tables
import torch
from pages import keep_pages

import snnfast

SHAPES = ((4, 1 << 18), (64, 1 << 12), (64, 1 << 18), (1024, 1 << 12))
THETA, ROUNDS, SECONDS = 0.75, 9, 2.0  # seconds for the rounds of one runner
COMPILED = 64  # steps: the loop is unrolled, and takes minutes to compile beyond


class Cannot(Exception):
    """Why somebody does not do a row."""


def package(name):
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise Cannot(f"not installed: {error}") from None


# ---- who does what: builders (T, N) -> function of x [T, N] that gives s theta


def eager(loop):
    return lambda T, N: lambda x: loop(x, THETA)


def compiled(loop):
    def build(T, N):
        if T > COMPILED:
            raise Cannot(f"not tried beyond {COMPILED} steps: the compiler unrolls the loop")
        torch._dynamo.reset()
        f = torch.compile(loop)
        return lambda x: f(x, THETA)

    return build


def jelly_node(name, v0, **options):
    """A neuron of SpikingJelly in multi-step mode."""

    def build(T, N):
        node = getattr(package("spikingjelly.activation_based.neuron"), name)(v_threshold=THETA, v_reset=None, step_mode="m", **options)

        def run(x):
            node.reset()
            node.v = torch.full_like(x[0], v0 * THETA)
            return node(x) * THETA

        return run

    return build


def jelly_aware(T, N):
    neuron = package("spikingjelly.activation_based.neuron")
    node = neuron.ActivationAwareIFNode(torch.full((N,), THETA), 0.5 * THETA, channel_dim=-1, v_reset=None, step_mode="m")

    def run(x):
        node.reset()
        return node(x) * THETA

    return run


def jelly_function(T, N):
    functional = package("spikingjelly.activation_based.functional")
    return lambda x: functional.if_multi_step(x, torch.full_like(x[0], 0.5 * THETA), THETA, None)[0] * THETA


def jelly_stbif(T, N):
    functional = package("spikingjelly.activation_based.functional")
    scalars = torch.tensor(THETA), torch.tensor(15.0), torch.tensor(0.0)
    return lambda x: functional.stbif_multi_step(x, torch.full_like(x[0], 0.5), torch.zeros_like(x[0]), *scalars)[0]


def snntorch(beta, v0, **options):
    def build(T, N):
        node = package("snntorch").Leaky(beta=beta, threshold=THETA, reset_mechanism="subtract", **options)

        def run(x):
            mem, out = torch.full_like(x[0], v0 * THETA), []
            for step in x:
                spikes, mem = node(step, mem)
                out.append(spikes)
            return torch.stack(out) * THETA

        return run

    return build


def norse_lif(T, N):
    lif_box, reset = (package(f"norse.torch.functional.{name}") for name in ("lif_box", "reset"))
    p = lif_box.LIFBoxParameters(
        tau_mem_inv=torch.tensor(500.0), v_th=torch.tensor(THETA), method="heaviside", reset_method=reset.reset_subtract
    )

    def run(x):
        state, out = lif_box.LIFBoxFeedForwardState(v=torch.zeros_like(x[0])), []
        for step in x:
            spikes, state = lif_box.lif_box_feed_forward_step(step, state, p, dt=0.001)
            out.append(spikes)
        return torch.stack(out) * THETA

    return run


def cannot(why):
    def build(T, N):
        raise Cannot(why)

    return build


def srp(x):
    _, state = snnfast.iaf(x[:4], THETA, unit="normalised", spikes="count")
    return snnfast.iaf(x, THETA, unit="normalised", mask=state.v > 1e-3)[0]


def cos(x):
    return snnfast.iaf(x, THETA, v0=snnfast.cos_start(x[:4], THETA, unit="normalised"), unit="normalised")[0]


NONE = {who: [(who, cannot("has no such neuron"))] for who in ("SpikingJelly", "snnTorch", "norse")}
# For each work: ours, then for each peer the ways it has (the fastest counts).
WORKS = {
    "IF": (lambda x: snnfast.iaf(x, THETA)[0], {
        "authors' loop": [("loop", eager(loops.if_loop))], "torch.compile": [("loop", compiled(loops.if_loop))],
        "SpikingJelly": [("IFNode", jelly_node("IFNode", 0.5)), ("if_multi_step", jelly_function), ("ActivationAwareIFNode", jelly_aware)],
        "snnTorch": [("Leaky", snntorch(1.0, 0.5))], "norse": [("IAF", cannot("its integrate-and-fire resets to a value, not by subtraction"))],
    }),
    "LIF, input divided": (lambda x: snnfast.lif(x, THETA, 2.0)[0], {
        "authors' loop": [("loop", eager(loops.lif_loop))], "torch.compile": [("loop", compiled(loops.lif_loop))],
        "SpikingJelly": [("LIFNode", jelly_node("LIFNode", 0.0, tau=2.0, decay_input=True))],
        "snnTorch": [("Leaky", cannot("its leak does not divide the input"))], "norse": [("LIFBox", norse_lif)],
    }),
    "LIF": (lambda x: snnfast.lif(x, THETA, 2.0, decay_input=False)[0], {
        "authors' loop": [("loop", cannot("the loop above stands for it"))], "torch.compile": [("loop", cannot("the loop above stands for it"))],
        "SpikingJelly": [("LIFNode", jelly_node("LIFNode", 0.0, tau=2.0, decay_input=False))],
        "snnTorch": [("Leaky", snntorch(0.5, 0.0, reset_delay=False))], "norse": [("LIFBox", cannot("its leak divides the input"))],
    }),
    "SRP, tau = 4": (srp, NONE | {"authors' loop": [("loop", eager(loops.srp_loop))], "torch.compile": [("loop", compiled(loops.srp_loop))]}),
    "COS, rho = 4": (cos, NONE | {"authors' loop": [("loop", eager(loops.cos_loop))], "torch.compile": [("loop", compiled(loops.cos_loop))]}),
    "SNM": (lambda x: snnfast.iaf(x, THETA, negative="snm")[0],
            NONE | {"authors' loop": [("loop", eager(loops.snm_loop))], "torch.compile": [("loop", compiled(loops.snm_loop))]}),
    "ST-BIF, 16 levels": (lambda x: snnfast.iaf(x, THETA, negative="stbif", caps=(0, 15), unit="normalised")[0], NONE | {
        "authors' loop": [("loop", cannot("SpikingJelly's is the authors'"))],
        "torch.compile": [("loop", cannot("SpikingJelly's is the authors'"))],
        "SpikingJelly": [("stbif_multi_step", jelly_stbif)],
    }),
}  # fmt: skip


def prepared(build, T, N, x, expected):
    """(run, seconds of the first call, share of other spikes), or Cannot."""
    run = build(T, N)
    began = time.perf_counter()
    with torch.no_grad():
        got = run(x)
    first = time.perf_counter() - began
    other = float((got != expected).float().mean())
    if other > 1e-4:  # another order of operations moves a few of a million
        raise Cannot(f"{100 * other:.2g} % of its spikes are others")
    return run, first, other


@torch.no_grad()
def measured(work, T, N):
    """Rows of one work: ours, then each peer."""
    ours, peers = WORKS[work]
    torch.manual_seed(0)
    x = torch.randn(T, N) * 0.6 + 0.3
    expected, runs, rows = ours(x), {("snnfast", "snnfast"): (ours, None, 0.0)}, []
    failed = {}
    for who, ways in peers.items():
        for name, build in ways:
            try:
                runs[who, name] = prepared(build, T, N, x, expected)
            except Cannot as why:
                failed[who, name] = str(why)
    took = {key: [] for key in runs}
    for i in range(ROUNDS + 1):
        for key, (run, _, _) in runs.items():
            if sum(took[key]) > SECONDS and len(took[key]) >= 3:
                continue
            run(x)  # so that everybody finds the heap as it left it, and not as the one before did
            began = time.perf_counter()
            run(x)
            if i:
                took[key].append(time.perf_counter() - began)
    base = statistics.median(took["snnfast", "snnfast"])
    for (who, name), times in took.items():
        if who != "snnfast" and any(statistics.median(took[key]) < statistics.median(times) for key in took if key[0] == who):
            continue  # another of its ways is faster
        ratios = sorted(t / b for t, b in zip(times, took["snnfast", "snnfast"]))
        row = dict(work=work, T=T, N=N, who=who, by=name, ms=1e3 * statistics.median(times), ratio=statistics.median(times) / base,
                   p20=ratios[len(ratios) // 5], p80=ratios[-1 - len(ratios) // 5], rounds=len(times), other_spikes=runs[who, name][2])  # fmt: skip
        first = runs[who, name][1]
        rows.append(row | ({"compile_s": first} if who == "torch.compile" else {}))
    for (who, name), why in failed.items():
        if not any(row["who"] == who for row in rows):
            rows.append(dict(work=work, T=T, N=N, who=who, by=name, failed=why))
    return rows


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--work", nargs="+", default=list(WORKS), choices=list(WORKS))
    p.add_argument("--shapes", type=int, default=len(SHAPES), help="only the first ones")
    p.add_argument("--results", type=Path, default=stored.RESULTS)
    args = p.parse_args()
    torch.set_num_threads(2)
    keep_pages()
    facts = stored.facts() | dict(peers=versions())
    rows = []
    for work in args.work:
        for T, N in SHAPES[: args.shapes]:
            rows += measured(work, T, N)
    stored.append("peers", facts, rows, args.results)
    print("Milliseconds of snnfast; of the others, how many times that\n\n" + tables.peers(rows) + "\n" + tables.reasons(rows))


def versions():
    from importlib import metadata

    found = {}
    for name in ("spikingjelly", "snntorch", "norse"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


if __name__ == "__main__":
    main()

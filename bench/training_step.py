"""Training: a step of directly trained networks, and what stands between two of their products, with our layers and with SpikingJelly's in
their place: `python bench/training_step.py [networks] [layers] [memory] [bits]`.

networks: everything but neurons, batch norms and poolings is the same. "ours" has our neurons alone, "ours, fused" is accelerate(net,
fuse=True). Batches of 8 images of 32 x 32, T = 4, fp32, SGD. Losses are compared before anything is timed.
layers: batch norm, LIF and max pooling (2 x 2), forward and backward, of 2^22 neuron-steps in fp32: SpikingJelly's, the same in torch under
torch.compile, and ours.
memory: the peak of a process that takes a training step at T steps, in one piece or in chunks (`snnfast.backward_through_time`), batch norms in
evaluation; a process each, one thread, rounds in turn.
bits: the peak and the time of a training step with spikes kept as bits for the backward (`snnfast.spikes_as_bits`), against one without, fused; a
process each, rounds in turn.
All others take turns in one process; medians of CPU seconds are told, which other programs on the machine move less.
"""

import copy
import functools
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import stored
import torch
from gpu_peers import fused, unfused
from stored import keep_pages
from torch import nn
from torch.nn import functional as F

import snnfast
from snnfast.models.direct import Spikes

NETS = {
    "csnn_cifar10": lambda: snnfast.models.csnn_cifar10(),
    "spikingformer_cifar 2-256": lambda: snnfast.models.spikingformer_cifar(2, 256, 8),
    "sew_resnet18": lambda: snnfast.models.sew_resnet18(num_classes=10),
}
ROUNDS, SKIPPED = 7, 1
HERE = Path(__file__).parent


class Theirs(nn.Module):
    """SpikingJelly's neuron for one of ours, over all steps: x [T, ...] -> s [T, ...]."""

    def __init__(self, ours):
        super().__init__()
        from spikingjelly.activation_based import functional, neuron, surrogate

        of = {"atan": surrogate.ATan, "sigmoid": surrogate.Sigmoid}[ours.options["surrogate"]](alpha=ours.options["gamma"])
        how = dict(
            v_threshold=ours.theta, v_reset=0.0, surrogate_function=of, detach_reset=ours.options.get("detach_reset", False), step_mode="m"
        )
        self.node = neuron.IFNode(**how) if ours.tau is None else neuron.LIFNode(tau=ours.tau, **how)
        self.forget = functional.reset_net

    def forward(self, x):
        self.forget(self.node)
        return self.node(x)


def with_theirs(net):
    net = copy.deepcopy(net)
    for module in list(net.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, Spikes):
                setattr(module, name, Theirs(layer))
    return net


def stepper(net, x, y):
    descent = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)

    def step():
        loss = F.cross_entropy(net(x), y)
        descent.zero_grad(set_to_none=True)
        loss.backward()
        descent.step()
        return float(loss.detach())

    return step


def timed(steps, rounds):
    """Medians of CPU seconds of steps that take turns."""
    seconds = {who: [] for who in steps}
    for i in range(rounds + SKIPPED):
        for who, step in steps.items():
            began = time.process_time()
            step()
            if i >= SKIPPED:
                seconds[who].append(time.process_time() - began)
    return {who: statistics.median(found) for who, found in seconds.items()}


def networks():
    for name, make in NETS.items():
        torch.manual_seed(0)
        ours, x, y = make().train(), torch.randn(8, 3, 32, 32), torch.randint(10, (8,))
        fused = copy.deepcopy(ours)
        snnfast.accelerate(fused, fuse=True)
        theirs = with_theirs(ours).train()
        steps = {"ours": stepper(ours, x, y), "ours, fused": stepper(fused, x, y), "SpikingJelly": stepper(theirs, x, y)}
        losses = {who: [step() for _ in range(2)] for who, step in steps.items()}
        assert losses["ours"][0] == losses["SpikingJelly"][0], losses
        # Normalised currents round otherwise where they are fused, so that a few spikes differ.
        assert abs(losses["ours"][0] - losses["ours, fused"][0]) < 1e-2, losses
        seconds = timed(steps, ROUNDS)
        yield dict(network=name, T=4, batch=8, size=32, threads=2, seconds=seconds, ratio=seconds["SpikingJelly"] / seconds["ours, fused"],
                   unfused=seconds["SpikingJelly"] / seconds["ours"], clock="cpu")  # fmt: skip


class Loop(nn.Module):
    """The same neuron in torch: a loop over time."""

    class Spike(torch.autograd.Function):
        @staticmethod
        def forward(ctx, a):
            ctx.save_for_backward(a)
            return (a >= 0).to(a.dtype)

        @staticmethod
        def backward(ctx, g):
            (a,) = ctx.saved_tensors
            return g / (1 + (torch.pi * a) ** 2)

    def forward(self, x):
        v, out = torch.zeros_like(x[0]), []
        for current in x:
            v = v + (current - v) / 2.0
            s = self.Spike.apply(v - 1.0)
            v = (1 - s.detach()) * v
            out.append(s)
        return torch.stack(out)


def with_norm(form, norm):
    return lambda x: form(x, norm.weight, norm.bias, norm.running_mean, norm.running_var)


def layers(size=16, channels=64):
    from spikingjelly.activation_based import functional, layer, neuron, surrogate

    for T in (4, 32):
        x = torch.randn(T, 2**22 // (T * channels * size * size), channels, size, size, requires_grad=True)
        node = neuron.LIFNode(tau=2.0, surrogate_function=surrogate.ATan(), detach_reset=True, step_mode="m")
        theirs = nn.Sequential(layer.BatchNorm2d(channels, step_mode="m"), node, layer.MaxPool2d(2, step_mode="m"))
        norm, loop, ours = nn.BatchNorm2d(channels), Loop(), nn.BatchNorm2d(channels)
        unfused_norm = copy.deepcopy(norm)

        def compiled_of(x, norm=norm, loop=loop):
            return F.max_pool2d(loop(norm(x.flatten(0, 1)).view(x.shape)).flatten(0, 1), 2).unflatten(0, x.shape[:2])

        def jelly(x, theirs=theirs):
            functional.reset_net(theirs)
            return theirs(x)

        forwards = {"SpikingJelly": jelly, "torch.compile": torch.compile(compiled_of)}
        forwards |= {"ours, unfused": with_norm(unfused, unfused_norm), "ours": with_norm(fused, ours)}
        g = torch.randn(*x.shape[:3], size // 2, size // 2)

        def step(forward, x=x, g=g):
            s = forward(x)
            (dx,) = torch.autograd.grad(s, x, g)
            return s.detach(), dx

        found = {who: step(forward) for who, forward in forwards.items()}
        for who, (s, dx) in found.items():  # but for spikes of currents that round otherwise
            s0, dx0 = found["SpikingJelly"]
            assert (s != s0).float().mean() < 1e-4 and (dx - dx0).norm() < 1e-2 * dx0.norm(), who
        seconds = timed({who: functools.partial(step, forward) for who, forward in forwards.items()}, 2 * ROUNDS + 1)
        yield dict(layers="batch norm, LIF, max pooling", T=T, neuron_steps=2**22, threads=2, seconds=seconds, clock="cpu",
                   **{f"{who} / ours": seconds[who] / seconds["ours"] for who in ("SpikingJelly", "torch.compile", "ours, unfused")})  # fmt: skip


STEP = """
import json, sys, time, torch, snnfast
from snnfast.system import memory
torch.set_num_threads(1)
T, how = int(sys.argv[1]), json.loads(sys.argv[2])
net, x = snnfast.models.csnn_cifar10((32, 64, 128), 256).eval(), torch.rand(4, 3, 32, 32)
def step(T):
    net.T = T
    y = net.logits(x) if how is None else snnfast.backward_through_time(net, x, **how)
    net.zero_grad()
    y.mean(0).square().sum().backward()
step(2)
step(T)
peak, began = memory.peak("cpu"), time.process_time()
step(T)
print(json.dumps(dict(peak=peak, seconds=(time.process_time() - began) / T)))
"""
STEPS = {
    "T = 32, whole": (32, None), "T = 32, chunks": (32, {}), "T = 256, whole": (256, None), "T = 256, chunks": (256, {}),
    "T = 1024, chunks": (1024, {}), "T = 1024, chunks of 16, 8 states": (1024, dict(chunk=16, states=8)),
}  # fmt: skip


def through_time():
    found = {name: [] for name in STEPS}
    for _ in range(3):
        for name, (T, how) in STEPS.items():
            done = subprocess.run([sys.executable, "-c", STEP, str(T), json.dumps(how)], capture_output=True, text=True, check=True)
            found[name].append(json.loads(done.stdout))
    peaks, seconds = ({name: statistics.median(r[of] for r in runs) for name, runs in found.items()} for of in ("peak", "seconds"))
    first = "T = 32, whole"
    yield dict(network="csnn_cifar10 32-64-128", batch=4, size=32, threads=1, peak_bytes=peaks, seconds_per_step=seconds, clock="cpu",
               peak_ratio={name: peaks[name] / peaks[first] for name in STEPS},
               time_ratio={name: seconds[name] / seconds[first] for name in STEPS})  # fmt: skip


KEPT = """
import contextlib, json, sys, time, torch, snnfast
from snnfast.system import memory
name, bits, here = sys.argv[1:]
sys.path.append(here)
from training_step import NETS
torch.set_num_threads(1), torch.manual_seed(0)
net, x = NETS[name]().train(), torch.randn(16, 3, 32, 32)
net.T = 8
snnfast.accelerate(net, fuse=True)
def step():
    with snnfast.spikes_as_bits() if bits == "bits" else contextlib.nullcontext():
        loss = net(x).square().mean()
    net.zero_grad()
    loss.backward()
    return loss.item()
step()
from snnfast.training.kept_spikes import Bits, _pack
parts = {}
def pack(t):  # what stays, without weights
    kept = _pack(t) if bits == "bits" else t
    for part in (kept.fired, kept.negative) if isinstance(kept, Bits) else (t,):
        if part is not None and not (t.is_leaf and t.requires_grad):
            parts[part.untyped_storage().data_ptr()] = part.untyped_storage().nbytes(), part
    return t.detach()
with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
    loss = net(x).square().mean()
held = sum(size for size, _ in parts.values())
loss.backward()
del parts
memory.restart_peak("cpu")
before, began, loss = memory.used("cpu"), time.process_time(), step()
print(json.dumps(dict(kept=held, peak=memory.peak("cpu"), rise=memory.peak("cpu") - before, seconds=time.process_time() - began, loss=loss)))
"""


def kept():
    for name in NETS:
        found = {"plain": [], "bits": []}
        for _ in range(3):
            for way, runs in found.items():
                done = subprocess.run([sys.executable, "-c", KEPT, name, way, str(HERE)], capture_output=True, text=True, check=True)
                runs.append(json.loads(done.stdout))
        assert len({r["loss"] for runs in found.values() for r in runs}) == 1, found
        middle = {
            of: {way: statistics.median(r[of] for r in runs) for way, runs in found.items()} for of in ("kept", "peak", "rise", "seconds")
        }
        ratios = {f"{of}_ratio": middle[of]["bits"] / middle[of]["plain"] for of in middle}
        yield dict(network=name, T=8, batch=16, size=32, threads=1, clock="cpu", **middle, **ratios)


PARTS = {
    "bits": (kept, "spikes as bits"),
    "networks": (networks, "training step"),
    "layers": (layers, "between products"),
    "memory": (through_time, "through time"),
}


def main():
    if importlib.util.find_spec("spikingjelly") is None:
        sys.exit("spikingjelly is not installed: make peers")
    keep_pages()
    torch.set_num_threads(2)
    for part in sys.argv[1:] or PARTS:
        rows, (run, name) = [], PARTS[part]
        for row in run():
            rows.append(row)
            print(json.dumps(row), flush=True)
        stored.append(name, stored.facts(), rows)


if __name__ == "__main__":
    main()

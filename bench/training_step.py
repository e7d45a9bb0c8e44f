"""A training step of directly trained networks, with our neurons and with SpikingJelly's in their place: `python bench/training_step.py`.

Everything but the neurons is the same: convolutions, batch norms, products of attention. Batches of 8 images of 32 x 32, T = 4, fp32, SGD. Losses
are compared before anything is timed. Both take turns in one process; medians of CPU seconds are told, which other programs on the machine move less.
"""

import copy
import importlib.util
import json
import statistics
import sys
import time

import stored
import torch
from pages import keep_pages
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


def main():
    if importlib.util.find_spec("spikingjelly") is None:
        sys.exit("spikingjelly is not installed: make peers")
    keep_pages()
    torch.set_num_threads(2)
    rows = []
    for name, make in NETS.items():
        torch.manual_seed(0)
        ours, x, y = make().train(), torch.randn(8, 3, 32, 32), torch.randint(10, (8,))
        steps = {"snnfast": stepper(ours, x, y), "SpikingJelly": stepper(with_theirs(ours).train(), x, y)}
        losses = {who: [step() for _ in range(2)] for who, step in steps.items()}
        assert losses["snnfast"][0] == losses["SpikingJelly"][0], losses
        assert abs(losses["snnfast"][1] - losses["SpikingJelly"][1]) < 1e-3, losses
        seconds = {who: [] for who in steps}
        for i in range(ROUNDS + SKIPPED):
            for who, step in steps.items():
                began = time.process_time()
                step()
                if i >= SKIPPED:
                    seconds[who].append(time.process_time() - began)
        medians = {who: statistics.median(found) for who, found in seconds.items()}
        row = dict(network=name, T=4, batch=8, size=32, threads=2, seconds=medians,
                   ratio=medians["SpikingJelly"] / medians["snnfast"], clock="cpu")  # fmt: skip
        rows.append(row)
        print(json.dumps(row), flush=True)
    stored.append("training step", stored.facts(), rows)


if __name__ == "__main__":
    main()

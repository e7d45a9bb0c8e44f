"""What the number format of matrix products does to the spikes: counts of every neuron after T steps against those of fp32.

`python bench/precision.py CHECKPOINT [--T T] [--images N] [--device D]`: a checkpoint for digits, such as the demo's runs/digits/model.pt. On a GPU
tf32 and `author` are rows too. "fp32, dense" shows what another order of sums does, which a library chooses by itself.
"""

import argparse

import stored
import torch

import snnfast
from snnfast.data import digits
from snnfast.runtime.execution import Execution
from snnfast.runtime.number_formats import formats


@torch.no_grad()
def counts(snn, x, T, **how):
    """(spike counts of all neurons after T steps, one long vector [B N]; mean logits)."""
    execution, total, states = Execution(snn.gm, x.device, **how), 0, {}
    with formats(execution.dtype):
        for y, now in snn.run(x, T, 8, execution=execution):
            total, states = total + y.double().sum(0), now
    return torch.cat([s.count.flatten() for s in states.values()]), total / T


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("checkpoint")
    p.add_argument("--T", type=int, nargs="+", default=[32, 256])
    p.add_argument("--images", type=int, default=360)
    p.add_argument("--device", default="cpu")
    args = p.parse_args()
    device = torch.device(args.device)
    snn = snnfast.convert(snnfast.load_checkpoint(args.checkpoint).float()).to(device)
    x, labels = (t[: args.images].to(device) for t in digits()[1].tensors)
    rows = {"fp32, dense": dict(products="dense"), "bf16": dict(dtype="bf16"), "fp16": dict(dtype="fp16")}
    if device.type == "cuda":
        rows |= {"tf32": dict(dtype="tf32"), "author": dict(dtype="author")}
    facts = stored.facts(device) | dict(images=len(x))
    print("| T | products | neurons with another count, % | by how much, mean | accuracy % | logits moved by, % of their size |")
    print("|---|---|---|---|---|---|")
    for T in args.T:
        exact, mean = counts(snn, x, T)
        accuracy = lambda m: 100 * float((m.argmax(1) == labels).double().mean())
        print(f"| {T} | fp32 | 0 | 0 | {accuracy(mean):.2f} | 0 |")
        for what, how in rows.items():
            found, moved = counts(snn, x, T, **how)
            other = (found - exact).abs().double()
            row = dict(
                T=T, products=what, changed=100 * float((other > 0).double().mean()), by=float(other.sum() / max(1, int((other > 0).sum()))),
                accuracy=accuracy(moved), moved=100 * float((moved - mean).abs().max() / mean.abs().max()),
            )  # fmt: skip
            stored.append("precision", facts, [row])
            print(f"| {T} | {what} | {row['changed']:.3f} | {row['by']:.2f} | {row['accuracy']:.2f} | {row['moved']:.2f} |", flush=True)


if __name__ == "__main__":
    main()

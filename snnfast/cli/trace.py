"""`snnfast trace`: input, potential and spikes of chosen neurons as an npz file, with a raster plot per layer."""

import numpy as np
import torch

from snnfast import checks
from snnfast.cli.console import plain_console
from snnfast.cli.evaluate import converted, load, steps_by_default
from snnfast.cli.folders import can_draw, free
from snnfast.reports import raster


def run(args, device):
    console = plain_console()
    if args.T is not None:
        checks.steps("T", args.T)
    out = free(args.out, "trace.npz", args.overwrite)
    net, _, data = load(args)
    args.T = args.T or steps_by_default(net, data)
    for i in args.images:
        if not 0 <= i < len(data.test):
            raise ValueError(f"--images must be between 0 and {len(data.test) - 1}, got {i}")
    snn = converted(args, net, data).to(device)
    x, labels = zip(*(data.test[i] for i in args.images))
    numbers = torch.tensor(args.images, device=device)
    found = raster.record(snn, torch.stack(x).to(device), args.T, args.layers, args.neurons, numbers)
    out.mkdir(parents=True, exist_ok=True)
    arrays = {f"{name}/{key}": a for name, layer in found.items() for key, a in layer.items()}
    np.savez_compressed(out / "trace.npz", images=np.asarray(args.images), labels=np.asarray([int(y) for y in labels]), **arrays)
    wrote = ["trace.npz"]
    for name, layer in found.items() if can_draw(console) else ():
        for j, i in enumerate(args.images):
            wrote.append(f"{name}-image{i}.png")
            raster.plot(
                f"{name}, image {i} of class {int(labels[j])}", layer, j, out / wrote[-1], snn.method.neuron().get("unit") == "normalised"
            )
    for name, layer in found.items():
        console.print(f"{name}: {layer['s'].shape[2]} neurons, {np.abs(layer['s']).mean():.4f} spikes per neuron and step")
    console.print(f"wrote {', '.join(wrote)} to {out}; keys LAYER/x, u, v, s, theta, neuron", soft_wrap=True)

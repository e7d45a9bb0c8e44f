"""What chosen neurons see and do, step by step: current x, potential u before the reset, spikes s."""

import copy
import math

import numpy as np
import torch

from snnfast import checks
from snnfast.ops.iaf import iaf
from snnfast.reports import plots
from snnfast.system import memory


@torch.no_grad()
def record(snn, x, T, layers=None, neurons=32, first=0):
    """Runs T steps of a batch and keeps what chosen neurons of chosen layers do.

    Args:
        snn: what `snnfast.convert` returned.  x: images [B, ...].  T: steps.
        layers: names of neuron layers (None: all).
        neurons: how many of each layer, spread over it; 0 for all.
        first: number of the first image in its data set, or a tensor [B]; see `SpikingNetwork.chunks`.

    Returns:
        By layer (LAYER@NODE where one layer is used at several places) a dictionary of arrays, n neurons each: `neuron` [n], their places in the
        flattened step; `theta` [n]; `x`, `u` fp32 [T, B, n]; `s` int8 [T, B, n], in units of theta; `v` fp32 [T, B, n], the potential after the
        reset. u = v + s theta, so up to a rounding; in normalised units u and v are multiples of theta. A neuron of one's own has no u here, as its
        reset is its own. With SRP s are the spikes that fired, masked or not.
    """
    known = dict(snn.neurons())
    layers = list(known) if layers is None else list(layers)
    for name in layers:
        if name not in known:
            raise ValueError(f"layers names {name}, which is no neuron layer; they are {', '.join(known)}")
    checks.integer("neurons", neurons, 0)
    firing = [node for node in snn.plan().firing if node.target in layers]
    places = [node.target for node in firing]
    names = {node.name: node.target if places.count(node.target) == 1 else f"{node.target}@{node.name}" for node in firing}
    kept, places, steps = {name: [] for name in names}, {}, {}

    def observe(node, current, spikes):
        if node.name in kept:
            if node.name not in places:
                places[node.name] = torch.tensor(_spread(neurons, current[0, 0].numel()), device=current.device)
                _check_fits(T * len(x), sum(map(len, places.values())))
            kept[node.name].append(current.flatten(2)[..., places[node.name]].clone())
            steps[node.name] = current[0]

    for _ in snn.chunks(x, T, first=first, observe=observe, stop=False, on_end=lambda *_: None):
        pass
    return {names[n.name]: _alone(known[n.target], torch.cat(kept[n.name]), places[n.name], steps[n.name], snn.method) for n in firing}


BYTES = 30  # of a neuron and step: x, u, v and s, and copies of them on the way


def _check_fits(steps, many):
    """Refuses more neurons and steps than there is memory for."""
    wanted = BYTES * steps * many
    try:
        there = memory.free("cpu")
    except ValueError:  # a system that does not tell
        return
    if wanted > there:
        raise ValueError(
            f"neurons: {many} of them at {steps} steps of all images take about {memory.told(wanted)}, and {memory.told(there)} are free; "
            "take fewer neurons, layers, images or steps"
        )


def _spread(few, many):
    """`few` of `many` places, in steps that fall on no row or column of a feature map again and again; all of them for 0."""
    if few == 0 or few >= many:
        return list(range(many))
    step = next(s for s in range(int(many * 0.618), many) if math.gcd(s, many) == 1)
    return sorted(i * step % many for i in range(few))


def _alone(layer, x, places, step, method):
    """The chosen neurons of a layer once more, on their own inputs x [T, B, n], one step at a time. step: a current [B, ...] of the whole layer."""
    layer = copy.deepcopy(layer)
    take = lambda t: t.to(step.device).expand_as(step).flatten(1)[:, places]
    layer.theta, layer.axis = take(layer.theta_for(step))[0], None
    v0 = layer.options.get("v0", 0.5)
    if "v0" in dict(layer.named_buffers()):
        v0 = layer.v0 = take(layer.v0)
    v0 = method.start(layer, x, False).get("v0", v0)
    charged = None
    if layer.options.get("reset") == "hard":
        # the potential before it is forgotten: of the same neuron with a threshold that nothing reaches
        charged = copy.deepcopy(layer)
        charged.theta = torch.full_like(layer.theta, torch.finfo(layer.theta.dtype).max)
    state, potentials, counts, before = None, [], [], []
    for t in range(len(x)):
        if charged is not None:
            before.append(charged.fire(x[t : t + 1], state=state, **({"v0": v0} if state is None else {}))[1].v)
        _, state = layer.fire(x[t : t + 1], state=state, **({"v0": v0} if state is None else {}))
        potentials.append(state.v.clone())
        counts.append(state.count.clone())
    v, n = torch.stack(potentials), torch.stack(counts)
    n = n / layer.theta if n.is_floating_point() else n
    s = torch.diff(n, dim=0, prepend=torch.zeros_like(n[:1])).round().to(torch.int8 if layer.most <= 127 else torch.int16)
    arrays = dict(neuron=places, theta=layer.theta, x=x.float(), v=v.float(), s=s)
    if charged is not None:
        arrays["u"] = torch.stack(before).float()
    elif layer.neuron is iaf:
        jump = 1.0 if layer.options.get("unit") == "normalised" else layer.theta
        arrays["u"] = (v + s * jump).float()
    return {key: np.asarray(t.cpu()) for key, t in arrays.items()}


def plot(name, arrays, image, path, normalised=False, shown=4):
    """A layer's spikes of one image as a raster, and below it the potential of its most active neurons with their thresholds.

    normalised: whether potentials are multiples of theta already.
    """
    plots.check_installed()
    from matplotlib.figure import Figure

    s, key = arrays["s"][:, image], "u" if "u" in arrays else "v"
    T, many = s.shape
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    raster, potential = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    for sign, color in ((1, "black"), (-1, "tab:red")):
        t, i = np.nonzero(np.sign(s) == sign)
        raster.scatter(t + 1, i, s=max(1.0, min(12.0, 3000 / (T + many))), marker="|", color=color, linewidths=1)
    raster.set_ylim(-0.5, many - 0.5)
    raster.set_ylabel("neuron")
    raster.set_title(f"{name}: {int(np.abs(s).sum())} spikes of {many} neurons" + (" (negative ones red)" if (s < 0).any() else ""))
    busiest = np.argsort(-np.abs(s).sum(0), kind="stable")[:shown]
    for i in busiest:
        potential.plot(
            range(1, T + 1), arrays[key][:, image, i] / (1.0 if normalised else arrays["theta"][i]), linewidth=1, label=f"neuron {i}"
        )
    potential.axhline(1.0, color="0.3", linestyle="--", linewidth=1)
    potential.set_ylabel(f"{key} / theta")
    potential.set_xlabel("time step")
    figure.legend(*potential.get_legend_handles_labels(), fontsize=7, loc="outside lower center", ncols=len(busiest))
    figure.savefig(path, dpi=130)

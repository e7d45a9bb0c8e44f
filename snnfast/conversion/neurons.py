"""Neurons in place of activations: of quantised ones with their thresholds and levels, of others with thresholds from images."""

import torch

from snnfast import checks, nn
from snnfast.conversion import relu_thresholds
from snnfast.conversion.method import voltage_of
from snnfast.graph.rewrite import keep_reads, moved, places, put_behind, put_in_place, replace
from snnfast.graph.rows import rows_of
from snnfast.graph.vocabulary import called


def put_neurons(gm, method, differential):
    """Puts a neuron of a `Method` in place of every quantised activation, with its mask behind it; returns their names and levels."""
    levels, keywords = {}, method.neuron()
    for name, m in list(gm.named_modules()):
        if not nn.is_quantised(m):
            continue
        checks.positive(f"threshold of {name}", nn.threshold_of(m).detach())
        (theta, low, high), options = nn.rungs_of(m), keywords
        if differential:
            options = {**options, "caps": (low, high)}
        elif low < 0:
            raise ValueError(f"{name} has levels below 0, which have a spiking form in mode='differential' alone")
        else:
            theta = nn.threshold_of(m)
        levels[name] = high - low
        keep_reads(gm, name)
        replace(
            gm,
            name,
            _own(method, m, theta.detach(), name, options)
            or _neuron(method, theta.detach(), name, options, differential, getattr(m, "axis", 1)),
        )
        if getattr(m, "mask", None) is not None:
            _mask(gm, name, m.mask)
    return levels


def _own(method, m, theta, name, options):
    """The neuron that an activation itself provides (`spiking`), or None."""
    if isinstance(m, nn.Quantised) and type(m).spiking is not nn.Quantised.spiking and "m" in options:
        raise ValueError(f"{name} ({type(m).__name__}) brings a neuron of its own, which is not that of method {method.name!r}")
    found = m.spiking(theta, {**options, "v0": voltage_of(options["v0"], name, method.own_v0)}) if isinstance(m, nn.Quantised) else None
    if found is not None and not (isinstance(found, nn.IF) and found.own):
        raise TypeError(f"{name} ({type(m).__name__}).spiking() must give a snnfast.nn.IF(theta=...) or None, got {type(found).__name__}")
    if found is not None and "caps" in options:  # mode "differential" converges only with these options
        same = found.theta.shape == theta.shape and torch.equal(found.theta, theta) and found.options.get("negative") == "stbif"
        if not same or any(found.options.get(key) != options[key] for key in ("caps", "unit") if key in options):
            raise ValueError(f"{name} ({type(m).__name__}).spiking() must give an IF of theta and of all options in mode 'differential'")
    return found


def _mask(gm, name, mask):
    gm.add_submodule(f"{name}_mask", mask)
    for node in [n for n in gm.graph.nodes if n.op == "call_module" and n.target == name]:
        with gm.graph.inserting_after(node):
            new = gm.graph.call_module(f"{name}_mask", ())
        new.meta.update(places(node))
        node.replace_all_uses_with(new)
        new.args = (node,)


def _neuron(method, theta, name, options, differential, axis=1):
    options = {**options, "v0": voltage_of(options["v0"], name, method.own_v0)}
    return method.layer(theta, differential, axis=axis if theta.dim() < 2 else None, **options)


def _put_behind(gm, node, name, neuron):
    """Puts a neuron behind a node. Images that do not come first are moved to the front before the neuron, and back behind it."""
    rows = rows_of(node)
    if rows.outer > 1:
        raise ValueError(f"{called(node, gm)} gives values whose images do not come before what else lies along their dimension")
    if rows.axis == 0:
        return put_behind(gm, node, name, neuron)
    gm.add_submodule(name, neuron)
    with gm.graph.inserting_before(node.next):
        first = moved(gm.graph, node, 0)
        fired = gm.graph.call_module(name, (first,))
        fired.meta.update(places(first))
        back = moved(gm.graph, fired, rows.axis)
    node.replace_all_uses_with(back, delete_user_cb=lambda user: user is not first)


def put_neurons_by_images(gm, method, batches, how, differential):
    """Puts a neuron of a `Method` in place of every call of a ReLU, and in mode "differential" one behind every other activation function, with
    thresholds from images. Returns {name: levels}; levels are None in mode "per_step". how: a `Percentile`.

    In mode "differential" a neuron is the activation rounded to `how.levels` levels up to that threshold, of either sign behind other functions
    that gave values below 0.
    """
    relus = relu_thresholds.relu_nodes(gm)
    behind = relu_thresholds.function_nodes(gm) if differential else []
    if not relus and not behind:
        return {}
    taken = {n for n, m in gm.named_modules() if not isinstance(m, relu_thresholds.MODULES)}
    found, signed = relu_thresholds.thresholds(gm, [*relus, *behind], batches, how.q, how.per, magnitudes=set(behind))
    dtype = next((p.dtype for p in gm.parameters() if p.is_floating_point()), torch.float32)
    names, keywords = {}, method.neuron()
    caps = {node: relu_thresholds.cap_of(node, gm) for node in relus}
    for node in [n for n in gm.graph.nodes if n in found]:
        theta, options = found[node].to(dtype), keywords
        if differential:
            low = -how.levels if node in signed else 0
            theta, options = theta / how.levels, {**keywords, "caps": (low, how.levels)}
        if node in behind:
            name = relu_thresholds.free_name(f"{node.name}_neuron", taken)
            _put_behind(gm, node, name, _neuron(method, theta, name, options, differential))
        else:
            name = relu_thresholds.name_of(node, taken)
            neuron = _neuron(method, theta, name, options, differential)
            neuron.__dict__.update(caps[node])
            put_in_place(gm, node, name, neuron)
        names[name] = how.levels - low if differential else None
    return names

"""A NIR graph as a spiking network."""

import keyword
import os
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import fx

from snnfast import checks
from snnfast.conversion.direct import Direct
from snnfast.conversion.methods import IF
from snnfast.graph import trace
from snnfast.interop import nir_layers as layers
from snnfast.interop.nir_neurons import check_installed, from_nir, note_of
from snnfast.runtime.clock import Clock
from snnfast.runtime.network import SpikingNetwork
from snnfast.system.text import first_line, plain

DT = 1e-4  # of a file that does not say it, as in other simulators
RESETS = {"hard": "hard", "subtract": "soft"}


def import_nir(source: Any, *, dt: float | None = None, reset: Literal["hard", "subtract"] = "hard") -> SpikingNetwork:
    """The spiking network of a NIR graph, of `export_nir` or of another simulator.

    Values of edges into the same node are added up, one step of the network is one Euler step of length dt, and neurons fire at v >= theta. A file of
    `export_nir` says dt, resets and start voltages itself.

    Args:
        source: a `nir.NIRGraph`, or a path of a file of one.
        dt: the length of a step. Default: what a file of ours says, else 1e-4, as in other simulators; files of sinabs want 1.
        reset: of neurons whose file does not say it: "hard", to v_reset, as in NIR's equations; or "subtract", by the threshold, as sinabs and
            snnTorch do by default.

    Returns:
        `SpikingNetwork`: `snn(x, T)`, `evaluate`, `requires_grad_()`, as for a converted network.

    Raises:
        ValueError: a node has no counterpart (LI, I, CubaLIF, Delay, recurrent graphs); the message names it. Or the file cannot be read, or the
            package nir is missing.

    >>> import nir, numpy
    >>> neuron = nir.IF(r=numpy.full(2, 1e4), v_threshold=numpy.ones(2, "float32"))
    >>> graph = nir.NIRGraph.from_list(nir.Linear(numpy.eye(2, dtype="float32")), neuron)
    >>> snn = snnfast.import_nir(graph)
    >>> snn(torch.tensor([[0.5, 1.0]]), T=4).tolist()  # spikes per step
    [[0.5, 1.0]]
    """
    check_installed()
    checks.choice("reset", reset, tuple(RESETS))
    graph = source if not isinstance(source, str | os.PathLike) else _read(source)
    if type(graph).__name__ != "NIRGraph":
        raise TypeError(f"source must be a nir.NIRGraph or the path of a file of one, got {type(source).__name__}")
    note = note_of(graph)
    own_dt, levels, readout, method = _facts(note)
    nodes, edges = _flat(graph)
    if dt is None and "dt" not in note:
        _check_step(nodes)
    dt = checks.number("dt", own_dt if dt is None else dt, True)
    gm, names = _module(nodes, edges, dt, RESETS[reset])
    gm = trace.prepared(gm, fold=False)
    gm.delete_all_unused_submodules()
    gm.recompile()
    levels = {names[name]: L for name, L in levels.items() if name in names}
    return SpikingNetwork(gm.requires_grad_(False).eval(), levels, method, Clock(readout=readout, frames=note.get("frames") is True)).eval()


def _check_step(nodes):
    """Refuses a file whose numbers say that its step is another than the usual one, as sinabs's, which is 1: no neuron would fire."""
    for name, node in nodes.items():
        kind = type(node).__name__
        r, tau = (float(np.max(v)) if np.size(v) else 1.0 for v in (getattr(node, "r", 1.0), getattr(node, "tau", DT)))
        if (kind == "IF" and 0 < r * DT < 0.01) or (kind == "LIF" and tau / DT > 5000):
            told = f"R = {r:g}" if kind == "IF" else f"tau = {tau:g}"
            raise ValueError(
                f"node {name}: {told} leaves next to nothing of a current in a step of dt = {DT:g}: say dt= (1 for a file of sinabs)"
            )


def _facts(note):
    """(dt, levels, readout, method) of a graph of ours; of others what they lack."""
    dt, levels, readout = note.get("dt", DT), note.get("levels", {}), note.get("readout")
    fine = (
        isinstance(dt, float | int)
        and not isinstance(dt, bool)
        and isinstance(levels, dict)
        and all(L is None or isinstance(L, int) for L in levels.values())
    )
    if readout is not None:
        fine &= isinstance(readout, list) and len(readout) == 2 and readout[0] in ("softmax", "log_softmax") and isinstance(readout[1], int)
    if not fine:
        raise ValueError("the note of snnfast in the graph's metadata is damaged")
    return float(dt), levels, readout and tuple(readout), IF() if note.get("method") == "if" else Direct(arch="nir")


def _read(path):
    import nir

    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is no file")
    try:
        return nir.read(path, type_check=False)  # the package takes a grouped convolution's channels for another number
    except Exception as error:  # of any kind: the file is anybody's
        raise ValueError(f"{path} cannot be read as a NIR graph: {type(error).__name__}: {first_line(error)}") from error


def _flat(graph, prefix=""):
    """({name: node}, [edges]) without graphs inside of graphs."""
    nodes, edges, inside = {}, [], {}
    for name, node in graph.nodes.items():
        if type(node).__name__ != "NIRGraph":
            nodes[prefix + name] = node
            continue
        own, joined = _flat(node, f"{prefix}{name}.")
        ends = [[f"{prefix}{name}.{n}" for n, one in node.nodes.items() if type(one).__name__ == kind] for kind in ("Input", "Output")]
        if [len(end) for end in ends] != [1, 1]:
            raise ValueError(f"graph {prefix + name} inside of the graph must have one input and one output")
        inside[name] = ends[0][0], ends[1][0]
        nodes, edges = nodes | own, edges + joined
    for a, b in graph.edges:
        edges.append((inside[a][1] if a in inside else prefix + a, inside[b][0] if b in inside else prefix + b))
    return nodes, edges


def _order(nodes, edges):
    """The names from input to output."""
    before: dict[str, list[str]] = {name: [] for name in nodes}
    for a, b in edges:
        if a not in nodes or b not in nodes:
            raise ValueError(f"an edge of the graph goes to {plain(a if a not in nodes else b, 60)}, which is no node of it")
        before[b].append(a)
    try:
        return list(TopologicalSorter(before).static_order()), before
    except CycleError as error:
        circle = " -> ".join(map(str, error.args[1]))
        raise ValueError(f"the graph is recurrent, by {circle}: networks here run layer by layer, over all steps") from None


def _module(nodes, edges, dt, reset):
    """(the graph as a module of one step, {name of a neuron: name of its layer})"""
    order, before = _order(nodes, edges)
    inputs = [name for name in order if type(nodes[name]).__name__ == "Input" and not before[name]]
    outputs = [name for name in order if type(nodes[name]).__name__ == "Output" and not any(a == name for a, _ in edges)]
    if len(inputs) != 1 or len(outputs) != 1:
        raise ValueError(f"the graph must have one input and one output, got {len(inputs)} and {len(outputs)}")
    root, graph, values, names, scaled = torch.nn.Module(), fx.Graph(), {}, {}, _scaled(nodes, edges)
    for name in order:
        if name == inputs[0]:
            values[name] = graph.placeholder("x")
            continue
        if not before[name]:
            raise ValueError(f"node {name} has no input")
        x = values[before[name][0]]
        for more in before[name][1:]:
            x = graph.call_function(torch.add, (x, values[more]))
        for i, layer in enumerate(_layers(name, nodes[name], dt, reset, scaled)):
            own = f"{re.sub(r'[^a-zA-Z0-9_]', '_', name)}{f'_{i}' if i else ''}"
            while hasattr(root, own) or keyword.iskeyword(own) or not own.isidentifier():
                own = own + "_" if own.isidentifier() else "_" + own
            root.add_module(own, layer)
            names[name] = own
            x = graph.call_module(own, (x,))
        values[name] = x
    graph.output(values[outputs[0]])
    return fx.GraphModule(root, graph), names


def _scaled(nodes, edges):
    """{neuron: a Scale by its threshold, the only node behind it}: spikes of the size of the threshold."""
    behind: dict[str, list[str]] = {}
    for a, b in edges:
        behind.setdefault(a, []).append(b)
    found = {}
    for name, node in nodes.items():
        if type(node).__name__ not in ("IF", "LIF") or len(behind.get(name, ())) != 1:
            continue
        after = nodes[behind[name][0]]
        alone = [a for a, b in edges if b == behind[name][0]] == [name]
        if (
            alone
            and type(after).__name__ == "Scale"
            and after.scale.shape == node.v_threshold.shape
            and (after.scale == node.v_threshold).all()
        ):
            found[name] = behind[name][0]
    return found


def _layers(name, node, dt, reset, scaled):
    """The layers of a node, one behind the other."""
    kind = type(node).__name__
    if kind in ("Input", "Output") or name in scaled.values():
        return []
    try:
        if kind not in ("IF", "LIF"):
            layer = layers.from_nir(node)
            return [] if layer is None else [layer]
        neuron, factor = from_nir(node, dt, reset)
    except Exception as error:  # of any kind: the numbers are anybody's
        raise ValueError(f"node {name}: {first_line(error)}") from None
    neuron.options["spikes"] = "scaled" if name in scaled else "unit"
    return [neuron] if factor == 1 else [layers.Scaled(torch.tensor(factor, dtype=neuron.theta.dtype)), neuron]

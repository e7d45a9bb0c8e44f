"""A spiking network as a NIR graph, which other simulators and neuromorphic chips read.

Each node of the graph is one of NIR's: convolutions, linear layers, average pooling, neurons, and what is put together of them:

    a sum              edges into the same node; a sum of sums passes a Scale of 1 in between, so that the order of additions stays
    spikes of theta    the neuron, whose spikes in NIR are 1, then a Scale by theta; or weights behind it that are theta times as large
    a batch norm       folded into the convolution in front of it; elsewhere a convolution of 1 x 1 in each channel by itself
    a maximum          of spikes of one size: a SumPool2d and a Threshold
"""

import os
import warnings
from typing import Any

import numpy as np
import torch
from torch import fx

from snnfast import checks, nn
from snnfast.conversion.convert import convert
from snnfast.conversion.direct import Direct, is_direct
from snnfast.conversion.methods import IF
from snnfast.graph.vocabulary import called, is_size, module_of
from snnfast.interop import nir_layers as layers
from snnfast.interop.nir_folded import STEPS, folded
from snnfast.interop.nir_import import import_nir
from snnfast.interop.nir_neurons import check_installed, noted, to_nir, why_not
from snnfast.runtime.network import SpikingNetwork
from snnfast.system.files import file_to_write, whole
from snnfast.system.text import first_line


def export_nir(
    snn: Any, sample: torch.Tensor, path: str | os.PathLike | None = None, *, dt: float = 1e-4, unit_spikes: bool = False
) -> Any:
    """The network as a graph of the package `nir`, and as a file of it.

    One step of the network is one Euler step of length dt of NIR's equations; the answer is the mean of the outputs, as in `snn(x, T)`, and of a
    network that ends in a softmax the softmax of that, which another simulator leaves to you. Batch norms are folded. NIR has no reset by
    subtraction and no start voltage: they stand in the metadata of each neuron, which `import_nir` reads; in another simulator set them yourself
    (most have a switch for the reset). Before anything is written, the graph is read back and must give the network's outputs on `sample`, bit for
    bit.

    Args:
        snn: what `snnfast.convert` returns, of method "if" with constant input; or a `snnfast.models.DirectNetwork`.
        sample: images [1 or more, ...] of the size that the graph is for; or frames [1 or more, T, ...], of a network that takes a frame a step.
        path: the file, by custom with the ending .nir; None writes none.
        unit_spikes: whether to multiply thresholds into the weights behind them, where nothing else reads the spikes. Spikes of NIR are 1; without
            this a Scale by the threshold stands behind each neuron, which other simulators may not know (SpikingJelly, sinabs, snnTorch). Weights
            are then rounded once more.
        dt: the length of a step, in NIR's unit of time; by default that of other simulators.

    Returns:
        `nir.NIRGraph`.

    Raises:
        ValueError: NIR has no node for a layer, such as attention, a layer norm, neurons with negative spikes; the message names it. Or the package
            nir is missing.

    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), snnfast.nn.QCFS(levels=8, theta=1.0), torch.nn.Linear(8, 2))
    >>> graph = snnfast.export_nir(snnfast.convert(net), torch.randn(1, 4))
    >>> [type(node).__name__ for node in graph.nodes.values()]
    ['Input', 'Affine', 'IF', 'Affine', 'Output']
    """
    check_installed()
    checks.tensor("sample", sample)
    checks.number("dt", dt, True)
    checks.yes_or_no("unit_spikes", unit_spikes)
    path = None if path is None else file_to_write(path)
    if is_direct(snn):
        snn = convert(snn, sample=sample)
    _check(snn)
    if snn.clock.frames and sample.dim() > 1:
        sample = torch.cat([sample] * STEPS, 1)[:, :STEPS]  # enough of them for the comparison
    snn.check(sample, STEPS)
    if not torch.isfinite(sample).all():
        raise ValueError("sample must be finite: the graph is compared with the network on it")
    if next((p.dtype for p in snn.gm.parameters()), torch.float32) == torch.bfloat16:
        raise ValueError("snn has weights in bfloat16, which NIR's files, arrays of numpy, cannot hold: give snn.float()")
    written = folded(snn, sample[:1], unit_spikes)
    graph = _Written(written, sample[:1], dt).as_nir()
    _compare(written, import_nir(graph).to(sample.device), sample[:1])
    if path is not None:
        import nir

        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as part:
            nir.write(part, graph)
    return graph


def _check(snn):
    if not isinstance(snn, SpikingNetwork):
        raise TypeError(f"snn must be a SpikingNetwork, what snnfast.convert returns, or a DirectNetwork, got {type(snn).__name__}")
    if type(snn.method) not in (IF, Direct):
        raise ValueError(
            f'snn runs method {snn.method.name}, which does more than neurons step by step: NIR has no node for it; convert with "if"'
        )
    if snn.clock.differential or snn.clock.poisson:
        what = 'mode "differential"' if snn.clock.differential else "Poisson input"
        raise ValueError(f"snn runs with {what}, which NIR cannot say")
    if snn.outputs is not None and not isinstance(snn.outputs.tree, int):
        raise ValueError("snn gives several outputs: convert it with read=, for one of them")


def _compare(snn, again, x):
    """Refuses a graph that computes something else."""
    with torch.no_grad():
        one, other = (list(net.chunks(x, STEPS, STEPS)) for net in (snn, again))
    for given, read in zip(one, other, strict=True):
        if not torch.equal(given, read):
            off = float((given - read).abs().max())
            raise ValueError(f"the NIR graph gives other outputs than snn, by up to {off:.2g}: a layer has another meaning in NIR")


class _Written(fx.Interpreter):
    """Runs one step of a network on one image, and notes NIR's nodes and edges on the way. sources: of each value, the nodes whose sum it is."""

    def __init__(self, snn, image, dt):
        super().__init__(snn.gm, garbage_collect_values=False)
        self.snn, self.image, self.dt = snn, snn.clock.at_a_step(image), dt
        self.nodes: dict[str, Any] = {}
        self.edges: list[tuple[str, str]] = []
        self.sources: dict[fx.Node, list[str]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}  # of the nodes' values
        self.names: dict[str, str] = {}  # of neuron layers here, by those of the network

    def as_nir(self):
        """The graph of NIR."""
        import nir

        with torch.no_grad():
            self.args_iter = iter([self.image])
            for node in self.module.graph.nodes:  # not run(), which adds lines to the messages of errors
                self.env[node] = self.run_node(node)
        levels = {self.names[name]: L for name, L in self.snn.levels.items() if name in self.names}
        clock, method = self.snn.clock, self.snn.method
        note = dict(dt=self.dt, levels=levels, readout=clock.readout and list(clock.readout), method=method.name)
        note |= {"frames": True} if clock.frames else {}
        made = nir.NIRGraph(self.nodes, self.edges, noted(**note), type_check=False)
        try:
            nir.dict2NIRNode(made.to_dict() | {"type_check": True})  # as nir.read does
        except Exception as error:  # of any kind: the package infers shapes by rules of its own
            warnings.warn(
                f"the package nir takes a layer's shapes for others ({first_line(error)}): read the file with nir.read(path, type_check=False)",
                stacklevel=4,
            )
        return made

    def call_module(self, target, args, kwargs):
        layer = self.module.get_submodule(target)
        if not isinstance(layer, nn.IF):
            return super().call_module(target, args, kwargs)
        return layer(args[0][None])[0]

    def run_node(self, node):
        import nir

        value = super().run_node(node)
        if node.op == "output":
            value, given = self.env[node.args[0]], self.sources.get(node.args[0])
            if given is None:
                raise ValueError(f"{called(node.args[0], self.module)} has no counterpart in NIR: it is the output, and a constant")
            self._behind("output", nir.Output({"output": np.array(value.shape[1:])}), given, value)
        elif node.op == "placeholder":
            self.sources[node] = self._behind("input", nir.Input({"input": np.array(value.shape[1:])}), [], value)
        elif isinstance(value, torch.Tensor) and node.op != "get_attr" and node.meta.get("kind") != "constant" and not is_size(node):
            self._write(node, value)
        elif isinstance(value, (tuple, list)) and any(a in self.sources for a in node.all_input_nodes):
            raise ValueError(f"{called(node, self.module)} has no counterpart in NIR: it gives several values")
        return value

    def _write(self, node, value):
        """Notes what stands for a node."""
        layer, given = module_of(self.module, node), [a for a in node.all_input_nodes if a in self.sources]
        if not given:
            return  # a constant
        if isinstance(layer, nn.IF):
            self._neuron(node, layer, given[0], value)
        elif layers.is_sum(node):
            if value.dtype == torch.bool:
                raise ValueError(f"{called(node, self.module)} has no counterpart in NIR: it adds truth values")
            if any(a not in self.sources for a in node.args):
                raise ValueError(f"{called(node, self.module)} has no counterpart in NIR: it adds a constant")
            self.sources[node] = [self._one_of(a) for a in node.args]
        else:
            if len(given) > 1:
                raise ValueError(f"{called(node, self.module)} has no counterpart in NIR: it takes several values")
            try:
                made = layers.to_nir(node, layer, self.env[given[0]], value, self._size_of_spikes(given[0]), self._other(node, given[0]))
            except layers.Unknown as why:
                raise ValueError(f"{called(node, self.module)} has no counterpart in NIR: {why}") from None
            at = self.sources[given[0]]
            for i, one in enumerate(made):
                at = self._behind(node.name if i == len(made) - 1 else f"{node.name}_{i}", one, at, value)
            self.sources[node] = at

    def _neuron(self, node, layer, given, value):
        import nir

        why = why_not(layer)
        if why is not None:
            raise ValueError(f"neuron {node.target} has no counterpart in NIR: {why}")
        made, large = to_nir(layer, self.env[given], self.dt)
        self.sources[node] = at = self._behind(node.name, made, self.sources[given], value)
        self.names.setdefault(node.target, at[0])
        if large is not None:
            self.sources[node] = self._behind(f"{node.name}_theta", nir.Scale(large), at, value)

    def _other(self, node, given):
        """The constant tensor beside a value in a function of two arguments, of which a product may have it first; else None."""
        if len(node.args) != 2 or (node.args[0] is not given and not layers.is_product(node)):
            return None
        other = node.args[0] if node.args[1] is given else node.args[1]
        value = self.env[other] if isinstance(other, fx.Node) and other is not given else None
        return value if isinstance(value, torch.Tensor) else None

    def _size_of_spikes(self, node):
        """How large a value is where it is not 0, or None: of the spikes of a neuron layer with one threshold."""
        layer = module_of(self.module, node)
        if not isinstance(layer, nn.IF):
            return None
        if layer.options.get("spikes") == "unit":
            return 1.0
        return float(layer.theta.flatten()[0]) if (layer.theta == layer.theta.flatten()[0]).all() else None

    def _one_of(self, given):
        """The node that has a value: of a sum a node of its own, so that it is added up first."""
        at = self.sources[given]
        return at[0] if len(at) == 1 else self._behind(f"{given.name}_sum", _ones(self.env[given].shape[1:]), at, self.env[given])[0]

    def _behind(self, name, made, sources, value):
        """Adds a node behind others, the values of which are added up. Returns [its name]."""
        while name in self.nodes:
            name += "_"
        self.nodes[name], self.shapes[name] = made, tuple(value.shape[1:])
        for i, source in enumerate(sources):
            if source in sources[:i]:  # x + x: NIR knows an edge once
                source = self._behind(f"{source}_again", _ones(self.shapes[source]), [source], torch.empty(1, *self.shapes[source]))[0]
            self.edges.append((source, name))
        return [name]


def _ones(shape):
    import nir

    return nir.Scale(np.ones(tuple(shape), np.float32))

"""Converted networks in files: graph, layers, weights, method and clock, for safe loading (`weights_only=True`)."""

import dataclasses
import os

import torch
from torch import fx

from snnfast import checks
from snnfast.checkpoints import budget, own
from snnfast.conversion import codec
from snnfast.conversion.direct import Direct
from snnfast.conversion.method import REGISTRY
from snnfast.runtime.clock import Clock
from snnfast.runtime.network import SpikingNetwork
from snnfast.system.text import plain

FORMAT = "snnfast-spiking-1"


def save(path: str | os.PathLike, snn: SpikingNetwork, facts: dict) -> None:
    """Writes a converted network.

    Raises:
        ValueError: it has a layer, a function or a method that no file can hold; the message names it.
    """
    if isinstance(snn.method, Direct) and snn.method.arch == "nir":
        raise ValueError("snn was read from NIR, and has neurons that our files do not hold: keep the file of NIR, and read it again")
    if isinstance(snn.method, Direct):
        raise ValueError("snn is a network that was trained directly: keep its own network, with save_checkpoint, and convert it again")
    if REGISTRY.get(snn.method.name, (None,))[0] is not type(snn.method):
        raise ValueError(
            f"snn has a method of one's own, {type(snn.method).__name__}, which a file cannot hold: save the network, and convert it again"
        )
    fields = {
        f.name: codec.builtin(getattr(snn.method, f.name))
        for f in dataclasses.fields(snn.method)
        if f.name not in REGISTRY[snn.method.name][1]
    }
    clock = {f.name: getattr(snn.clock, f.name) for f in dataclasses.fields(Clock)}
    content = dict(
        format=FORMAT, graph=codec.nodes(snn.gm.graph), layers=codec.layers(snn.gm), state=snn.gm.state_dict(), levels=snn.levels,
        tensors=[name for name, _ in snn.gm.named_parameters(recurse=False)], method=[snn.method.name, fields],
        clock=clock | {"readout": clock["readout"] and list(clock["readout"])}, facts=facts,
    )  # fmt: skip
    own.write(content, path)


def load(file: dict, path: str | os.PathLike) -> SpikingNetwork:
    """The network that a file holds.

    Raises:
        ValueError: the file is damaged, or holds something unknown.
    """
    own.check_facts(file.get("facts", {}), path)
    try:
        root, state = torch.nn.Module(), dict(file["state"])
        for key, t in state.items():
            if not isinstance(t, torch.Tensor):
                raise codec.Unknown(f"{plain(key, 100)} is no tensor")
            if "." not in key:
                root.register_parameter(key, torch.nn.Parameter(t, False)) if key in file["tensors"] else root.register_buffer(key, t)
        _check_state(state, path)
        codec.made(root, file["layers"], state)
        graph = codec.graph_of(file["graph"])
        gm = fx.GraphModule(root, graph).eval().requires_grad_(False)
        name, fields = file["method"]
        cls, fixed = REGISTRY[name]
        clock = Clock(**file["clock"] | {"readout": file["clock"]["readout"] and tuple(file["clock"]["readout"])})
        snn = SpikingNetwork(gm, file["levels"], cls(**fixed, **fields), clock)
    except budget.Refused:
        raise
    except codec.Unknown as error:
        raise ValueError(f"{path} is refused: {error}") from error
    except Exception as error:  # of any kind: the parts of a damaged file may raise it
        raise ValueError(f"{path} is damaged: it holds no converted network ({type(error).__name__}: {str(error)[:200]})") from error
    checks.weights(snn, path)
    for layer, neuron in snn.neurons():
        checks.positive(f"threshold of {layer} in {path}", neuron.theta)
    snn.saved = file.get("facts", {})
    return snn.eval()


def _check_state(state, path):
    """Refuses all but dense tensors of numbers, whole numbers and masks, and tensors larger than the file holds."""
    for key, t in state.items():
        if t.is_nested or t.layout != torch.strided or t.is_quantized or t.is_complex() or t.is_meta:
            kind = "nested" if t.is_nested else "meta" if t.is_meta else f"{t.dtype}, {t.layout}"
            raise codec.Unknown(f"{plain(key, 100)} is no dense tensor of numbers ({kind})")
    budget.check_weights({str(key): t for key, t in state.items()}, path)


own.register(FORMAT, SpikingNetwork, save, load)

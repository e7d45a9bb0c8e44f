"""Checkpoints of networks that are trained directly: ours, and those of their authors, whose sizes are read off the shapes.

No author's file says for how many steps it was trained, nor how many attention heads Spikformer, Spikingformer and the spike-driven transformer V2
have, nor how SEW's shortcuts meet, nor which poolings the spike-driven transformer has for events: they are asked for. SpikingResformer's img_size
is that of its training, 224 or 32, if it is not given.
"""

import inspect
import math
import os
import re
from typing import Any

import torch

from snnfast import checks
from snnfast.checkpoints import budget, names, own
from snnfast.checkpoints.holders import held, unprefixed
from snnfast.checkpoints.weights import put_state
from snnfast.models.direct import BY_NAME, DirectNetwork
from snnfast.system.text import first_line

FORMAT = "snnfast-direct-1"
ASKED = {  # what a file does not say, by the start of a network's name
    "sew_": ("connect",), "spikformer": ("heads",), "spikingformer": ("heads",), "sdt_v2": ("heads",), "sdt_dvs": ("pooling",),
}  # fmt: skip
# Names of newer or older programs: (network, what is replaced, by what).
RENAMED = (
    (r"sew_resnet|spiking_resnet", r"\.conv(\d)\.(weight)$", r".conv\1.module.0.\2"),
    (r"sew_resnet|spiking_resnet", r"(layer.*)\.bn(\d)\.", r"\1.conv\2.module.1."),
    (r"sew_resnet", r"\.downsample\.0\.weight$", r".downsample.0.module.0.weight"),
    (r"sew_resnet", r"\.downsample\.1\.", r".downsample.0.module.1."),
    (r"spiking_resnet", r"\.downsample\.([01])\.", r".downsample.module.\1."),
    (r"spikingformer", r"\.mlp\.fc([12])_", r".mlp.mlp\1_"),
)


def renamed(arch: str, key: str) -> str:
    """The name of a weight in our network, of one in a file."""
    for network, old, new in RENAMED:
        if re.match(network, arch):
            key = re.sub(old, new, key)
    return key


def _sizes(arch, state):
    """Arguments of the network that the shapes say. KeyError: a name that every file of it has is missing."""
    count = lambda stem: len({key.split(".")[1] for key in state if key.startswith(stem + ".")})  # noqa: E731
    if arch.startswith(("sew_resnet", "spiking_resnet")):
        return dict(num_classes=state["fc.weight"].size(0), in_channels=state["conv1.weight"].size(1))
    if arch.startswith("ms_resnet"):
        return dict(num_classes=state["fc.weight"].size(0), in_channels=state["conv1.0.weight"].size(1))
    if arch.startswith("sew_"):
        return dict(num_classes=state["out.weight"].size(0), in_channels=state["conv.0.0.module.0.weight"].size(1))
    if arch.startswith("plif_"):
        return dict(num_classes=state["fc.4.weight"].size(0) // 10, in_channels=state["static_conv.0.weight"].size(1))
    if arch.startswith("spikingresformer"):
        return dict(num_classes=state["classifier.weight"].size(0), in_channels=state["prologue.0.weight"].size(1))
    if arch == "csnn_cifar10":
        return _of_csnn(state)
    of_head = dict(num_classes=state["head.weight"].size(0))
    if arch == "sdt_v2":
        dims = [state[f"downsample{n}.encode_conv.weight"].size(0) for n in ("1_2", "2", "3", "4")]
        ratio = _ratio(state["block3.0.mlp.fc1_conv.weight"].size(0), dims[2])
        channels = state["downsample1_1.encode_conv.weight"].size(1)
        return of_head | dict(
            dims=dims, depths=[count("block3"), count("block4")], mlp_ratio=ratio, kd="head_kd.weight" in state, in_channels=channels
        )
    first = next(name for name in ("proj_conv", "block0_conv") if f"patch_embed.{name}.weight" in state)
    hidden = next(
        state[f"block.0.mlp.{name}.weight"] for name in ("fc1_conv", "fc1_linear", "mlp1_conv") if f"block.0.mlp.{name}.weight" in state
    )
    dim = state["head.weight"].size(1)
    found = of_head | dict(
        depth=count("block"), dim=dim, mlp_ratio=_ratio(hidden.size(0), dim), in_channels=state[f"patch_embed.{first}.weight"].size(1)
    )
    if not arch.startswith("sdt"):
        return found
    mode = "plif" if any(key.endswith("_lif.w") for key in state) else "lif"
    return found | dict(heads=state["block.0.attn.talking_heads.weight"].size(0), spike_mode=mode)


def _ratio(hidden, dim):
    """hidden = int(dim ratio)."""
    return hidden / dim if int(dim * (hidden / dim)) == hidden else (hidden + 0.5) / dim


def _of_csnn(state):
    convolutions = sorted((key for key in state if key.endswith(".conv.weight")), key=lambda key: int(key.split(".")[1]))
    channels = [state[key].size(0) for key in convolutions[1::2]]
    hidden, features = state["fc.1.weight"].shape
    side = math.isqrt(features // channels[-1]) * 2 ** len(channels)
    found = dict(channels=channels, hidden=hidden, image_size=side, num_classes=state["fc.3.weight"].size(0))
    return found | dict(in_channels=state[convolutions[0]].size(1))


def _given(arch, path, found, options):
    """Arguments of the network: what the file says, and what was given, which must agree."""
    takes = inspect.signature(BY_NAME[arch]).parameters
    options = {name: list(value) if isinstance(value, tuple) else value for name, value in options.items() if value is not None}
    if {"image_size"} <= options.keys() & found.keys():  # poolings may leave the same of both
        part = 2 ** len(found["channels"])
        found = found if options["image_size"] // part * part != found["image_size"] else found | {"image_size": options["image_size"]}
    for name in options:
        if name not in takes:
            raise ValueError(f"{name} is no option of {arch}, which takes {', '.join(takes)}")
        if name in found and options[name] != found[name]:
            raise ValueError(f"{path} holds a network with {name}={found[name]!r}, not {options[name]!r}")
    asked = [name for start, wanted in ASKED.items() if arch.startswith(start) for name in wanted]
    missing = [name for name in [*asked, *(["T"] if "T" in takes else [])] if name not in options]
    if missing:
        raise ValueError(f"{path} does not say {' and '.join(missing)} of {arch}: give {', '.join(f'{name}=' for name in missing)}")
    return found | options


def load(file: Any, path: str | os.PathLike, arch: str, key: str | None, options: dict) -> DirectNetwork:
    """A network of `BY_NAME` from what another program's file holds.

    Raises:
        ValueError: it is another network's, or something that only you know is missing.
    """
    state = {renamed(arch, name): t for name, t in unprefixed(held(file, path, key)).items()}
    try:
        found = _sizes(arch, state)
    except Exception as error:  # of any kind: what is read are another program's names and shapes
        missing = f"no {error.args[0]}" if isinstance(error, KeyError) else "not its names and shapes"
        raise ValueError(f"{path} is not a checkpoint of {arch}: it has {missing}") from error
    return _built(arch, _given(arch, path, found, options), state, path)


def _built(arch, config, state, path):
    budget.check_network(config, state, path)
    try:
        with torch.device("meta"):
            expected = BY_NAME[arch](**config).state_dict()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{path}: no network can be built: {first_line(error)}") from error
    wrong = names.differing({n: t for n, t in expected.items() if n in state or not n.endswith("num_batches_tracked")}, state, arch)
    if wrong:
        raise ValueError(f"{path} is not a checkpoint of {arch}: {names.told(wrong)}")
    net = BY_NAME[arch](**config)
    put_state(net, state, path)
    net.facts = {}
    return net.eval()


def _arguments(config):
    """Those of the function that builds the network, of a `config`, which has the others too."""
    takes = inspect.signature(BY_NAME[config["arch"]]).parameters
    return {name: value for name, value in config.items() if name in takes}


def _made_again(net):
    """Whether its `config` makes the same network: the same layers, neurons among them."""
    arch = net.config.get("arch")
    if arch not in BY_NAME:
        return False
    with torch.device("meta"):
        again = BY_NAME[arch](**_arguments(net.config))
    return type(again) is type(net) and repr(again) == repr(net)


def _save(path, net, facts):
    known = _made_again(net)
    kept = {"format": FORMAT, "config": net.config, "T": net.T} if known else own.of_ones_own(net)
    own.write(kept | {"state_dict": dict(net.state_dict()), "facts": facts}, path)


def _load(file, path):
    config, state, facts = (file.get(name) for name in ("config", "state_dict", "facts"))
    if not all(isinstance(part, dict) for part in (config, state, facts)) or config.get("arch") not in list(BY_NAME):
        raise ValueError(f"{path} is damaged: a checkpoint of a directly trained network has config, state_dict and facts")
    own.check_facts(facts, path)
    given = _arguments(config)
    net = _built(config["arch"], given, held(state, path), path)
    if "T" in given:
        net.T = checks.steps(f"T in {path}", file.get("T"))
    net.facts = facts
    return net


own.register(FORMAT, DirectNetwork, _save, _load)
own.ARCHS.update(dict.fromkeys(BY_NAME, load))

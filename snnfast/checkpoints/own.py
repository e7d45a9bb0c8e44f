"""Checkpoints: snnfast's own format, which holds all that is needed to use the network again, and the files that other programs left.

Only safe loading (`weights_only=True`); the network is built without memory first, so that a file with wrong shapes costs nothing.
"""

import argparse
import json
import os
import pickle
import threading
import zipfile
from pathlib import Path
from typing import Any, Literal

import torch

from snnfast import checks, models
from snnfast.checkpoints import budget, convolutional, names, safetensor_files
from snnfast.graph.copies import unwrapped
from snnfast.models import replaced
from snnfast.nn import is_quantised, threshold_of
from snnfast.system import files
from snnfast.system.text import first_line, plain

FORMAT = "snnfast-1"
WEIGHTS = "snnfast-weights-1"  # of a network that only its owner can build
# Of files of other things than networks of `snnfast.models`: format -> (class, what writes it, what reads it).
OTHERS: dict[str, tuple] = {}
# Networks beside those of `models.BY_NAME`: name -> what reads a file of another program, (content, path, arch, key, options).
ARCHS: dict[str, Any] = {}


def register(form, cls, save, load):
    """Makes another kind of file known: save(path, thing, facts), load(content, path)."""
    OTHERS[form] = (cls, save, load)


def save_checkpoint(path: str | os.PathLike, net: models.Network | torch.nn.Module, /, **facts: Any) -> None:
    """Writes a network and `facts` (preprocessing, training; plain values only).

    One of `snnfast.models` is written with its configuration, one that `snnfast.convert` returned with its graph: `load_checkpoint` makes them again.
    Of any other its weights are written, and which quantised activations stand where: `load_weights` puts both into a network that you build.
    Wrappers (DataParallel, torch.compile) are taken off.
    A path that ends in `.safetensors` gets a safetensors file, with all else than tensors in its metadata, any other a file of `torch.save`. From the
    former tensors come back contiguous, and a library may then round otherwise.

    >>> path = os.path.join(tempfile.mkdtemp(), "net.pt")
    >>> snnfast.save_checkpoint(path, snnfast.models.vgg11(width=0.05), data="digits")
    >>> snnfast.load_checkpoint(path).facts
    {'data': 'digits'}
    """
    for key, value in facts.items():
        check_plain(key, value)
    net = unwrapped(net)
    files.check_regular(path)
    if not Path(path).absolute().parent.is_dir():
        raise FileNotFoundError(f"path {path}: there is no folder {Path(path).parent}")
    for cls, save, _ in OTHERS.values():
        if isinstance(net, cls):
            return save(path, net, facts)
    if not isinstance(net, torch.nn.Module):
        raise TypeError(f"net must be a torch.nn.Module, got {type(net).__name__}")
    if isinstance(net, models.Network):
        kept = {"format": FORMAT, "config": net.config}
    else:
        kept = of_ones_own(net)
    write(kept | {"state_dict": _plain(net.state_dict()), "facts": facts}, path)


def write(content: dict, path: str | os.PathLike) -> None:
    """Writes one of our formats, in the kind of file that the ending of `path` names."""
    (safetensor_files if safetensor_files.is_one(path) else files).save(content, path)


def of_ones_own(net):
    """What a file says of a network that only its owner can build, beside weights and facts."""
    return {"format": WEIGHTS, "network": type(net).__name__, "activations": replaced.described(net)}


def _plain(state):
    """The weights alone: what layers add beside them (`get_extra_state`) may be of any kind, which safe loading refuses."""
    odd = [name for name, t in state.items() if not isinstance(t, torch.Tensor)]
    if odd:
        raise TypeError(f"net keeps what is no tensor under {', '.join(odd[:5])}, which safe loading refuses")
    return dict(state)


def check_plain(key, value):
    if isinstance(value, (list, tuple)):
        for v in value:
            check_plain(key, v)
    elif isinstance(value, dict):
        for k, v in value.items():
            check_plain(f"{key}.{k}", v)
    elif type(value) not in (int, float, str, bool, type(None)):
        raise TypeError(
            f"fact {key} is a {type(value).__name__}; safe loading takes numbers, strings, booleans, lists and dictionaries of them"
        )


def load_checkpoint(
    path: str | os.PathLike,
    arch: str | None = None,
    num_classes: int | None = None,
    levels: int | None = None,
    *,
    family: Literal["auto", "qcfs", "srp", "cs-qcfs", "mst", "spikezip"] = "auto",
    threshold: Literal["softplus", "raw"] | None = None,
    signs: Literal["authors", "all", "none"] | None = None,
    key: str | None = None,
    **options: Any,
) -> models.Network:
    """A network from a file of `save_checkpoint` or of the QCFS, SRP, COS, older QCFS, CS-QCFS, MST and SpikeZIP programs.

    Args:
        path: the file.
        arch: name of the network ("vgg16", "resnet20" ...); not needed where the names in the file are exactly those of one.
        num_classes: checked against the file, where given.
        levels: quantisation levels L it was trained with: no program but ours stores them.
        family: "qcfs" (thresholds .thresh), "srp" (.up; COS and older QCFS too), "cs-qcfs" (.up per channel or layer), "mst", "spikezip", or "auto",
            by the names.
        threshold: for "cs-qcfs", "softplus" (theta = softplus(up)) or "raw" (theta = up); a file with a value <= 0 is softplus.
        signs: for "spikezip", which levels have a sign: "authors" (all but those behind the softmax and fc1), "all" or "none".
        key: the entry of the file that holds the weights, such as "state_dict_ema", where it has several; a warning names them. "ema" is the average,
            whatever it is called; "teacher" what stands behind "teacher.".
        options: further arguments of the network (image_size, width, stem, in_channels, dropout, heads); most are read off the shapes. Of a network
            that was trained as a spiking one T, and heads or connect, are asked for where its file does not say them.

    Returns:
        The network in eval mode on the CPU, a `DirectNetwork` for the name of one, or the `SpikingNetwork` that was saved; `net.facts`, of the latter
        `saved`, is what `save_checkpoint` was given ({} for other programs' files).

    Raises:
        FileNotFoundError; ValueError: not readable, not safe, another network, or something only you can know is missing. The message says which.

    >>> path = os.path.join(tempfile.mkdtemp(), "net.pt")
    >>> torch.save(snnfast.models.vgg11(activation="qcfs", width=0.05).state_dict(), path)  # as the QCFS program does
    >>> snnfast.load_checkpoint(path, levels=4, width=0.05).config["arch"]
    'vgg11'
    """
    if arch is not None:
        checks.choice("arch", arch, (*models.BY_NAME, *ARCHS))
    file = safely(path)
    if isinstance(file, dict) and not isinstance(file.get("format", ""), str):
        raise ValueError(f"{path} is damaged: its format is a {type(file['format']).__name__}")
    if isinstance(file, dict) and file.get("format") in OTHERS:
        given = dict(arch=arch, num_classes=num_classes, levels=levels, threshold=threshold, signs=signs, key=key, **options)
        wrong = [name for name, value in given.items() if value is not None] + (["family"] if family != "auto" else [])
        if wrong:
            raise ValueError(f"{path} says itself what it holds, and takes no {', '.join(wrong)}")
        return OTHERS[file["format"]][2](file, path)
    if isinstance(file, dict) and file.get("format") == WEIGHTS:
        what = plain(str(file.get("network")), 60)
        raise ValueError(
            f"{path} holds the weights of a network that is none of snnfast.models ({what}): build it, then snnfast.load_weights(net, path); "
            "on the command line give --model"
        )
    if arch in ARCHS:
        wrong = [name for name, value in dict(levels=levels, threshold=threshold, signs=signs).items() if value is not None]
        if wrong or family != "auto":
            raise ValueError(f"{arch} is trained as a spiking network: {(wrong or ['family'])[0]} is of quantised activations")
        return ARCHS[arch](file, path, arch, key, dict(options, num_classes=num_classes))
    if isinstance(file, dict) and file.get("format") == FORMAT:
        config, state, facts = _own(file, path)
        if family != "auto" or threshold is not None or signs is not None or key is not None:
            raise ValueError(
                f"{path} is snnfast's own and says what its thresholds are: family, threshold, signs and key are for other programs' files"
            )
        given = dict(arch=arch, num_classes=num_classes, levels=levels, **options)
        for name, value in given.items():
            if value is not None and config.get(name) != value:
                raise ValueError(f"{path} was saved with {name}={config.get(name)!r}, not {value!r}")
    else:
        config, state = convolutional.read(file, path, arch, num_classes, levels, family, threshold, signs, options, key)
        facts = {}
    budget.check_network(config, state, path)
    try:
        with torch.device("meta"):
            net = models.build(config)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{path}: no network can be built: {error}") from error
    _check_names(net.state_dict(), state, path, config["arch"])
    like = {t.dtype for key, t in state.items() if t.is_floating_point()}
    if len(like) > 1:
        state = {key: t.float() if t.is_floating_point() else t for key, t in state.items()}
    net.load_state_dict({key: state[key].clone() for key in net.state_dict()}, assign=True)
    net.requires_grad_(True)
    for name, module in net.named_modules():
        if is_quantised(module):
            checks.positive(f"threshold of {name} in {path}", threshold_of(module))
    checks.weights(net, path)
    net.facts = facts
    return net.eval()


_ONE_AT_A_TIME = threading.Lock()  # what safe loading allows is one list for all threads


def _damage(path):
    """The first entry of an archive in which a byte has changed since it was written, or None."""
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()


def safely(path):
    """What a file holds, read without running anything of it."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be the name of a file, got {type(path).__name__}")
    try:
        budget.check_archive(path)
        found = _damage(path)
        there = Path(path).is_file()
        if there:
            _check_ending(path)
        if there and safetensor_files.is_one(path):
            file = _of_safetensors(path)
            budget.check_entries(file, path)
        elif found is None:
            # What trainers keep beside weights, their arguments: an object of attributes, which runs nothing.
            with _ONE_AT_A_TIME, torch.serialization.safe_globals([argparse.Namespace]):
                file = torch.load(path, map_location="cpu", weights_only=True)
            budget.check_entries(file, path)
    except (FileNotFoundError, budget.Refused):
        raise
    except pickle.UnpicklingError as error:
        if "Unsupported" in str(error) or "GLOBAL" in str(error):
            what = str(error).split("GLOBAL ")[-1].split(" was not")[0] if "GLOBAL" in str(error) else "Python objects"
            raise ValueError(
                f"{path} holds {what}, which safe loading refuses, because such a file can run any code. `snnfast extract {path} NEW` (or "
                f"snnfast.extract) takes the weights out without running anything; then load NEW"
            ) from None
        told = "safe loading refuses what it does" if "weights_only" in str(error) else first_line(error)
        raise ValueError(f"{path} is not a readable checkpoint: {told}") from error
    except Exception as error:  # torch.load raises many kinds: truncated, not a zip file, a folder
        raise ValueError(f"{path} is not a readable checkpoint: {first_line(error)}") from error
    if found is not None:
        raise ValueError(f"{path} is damaged: the checksum of {found} in it does not fit")
    return file


def _of_safetensors(path):
    safetensor_files.check_installed(path)
    try:
        file = safetensor_files.read(path)
    except ValueError as error:
        raise budget.Refused(str(error)) from None
    if file is not None:
        return file
    from safetensors.torch import load_file

    return load_file(path)


def _check_ending(path):
    """Refuses a file of one kind with the ending of the other."""
    named, packed = safetensor_files.is_one(path), zipfile.is_zipfile(path)
    if named and packed:
        raise budget.Refused(f"{path} is a file of torch.save: give it another ending than {safetensor_files.SUFFIX}")
    if named or packed:
        return
    if safetensor_files.looks_like_one(path):
        raise budget.Refused(f"{path} is a safetensors file: give it the ending {safetensor_files.SUFFIX}")
    if not _begins_as_torchs(path):
        raise budget.Refused(f"{path} is not a readable checkpoint: it does not begin as a file of torch.save or of safetensors does")


def begins_as_one(path: str | os.PathLike) -> bool:
    """Whether the first bytes of a file are those of torch.save or of safetensors."""
    return _begins_as_torchs(path) or safetensor_files.looks_like_one(path)


def _begins_as_torchs(path):
    """torch.save writes a zip file, before torch 1.6 a pickle or a tar file."""
    with open(path, "rb") as file:
        first = file.read(512)
    return first.startswith((b"PK\x03\x04", b"\x80")) or first[257:262] == b"ustar"


def _own(file, path):
    config, state, facts = (file.get(key) for key in ("config", "state_dict", "facts"))
    dictionaries = all(isinstance(part, dict) for part in (config, state, facts))
    if not dictionaries or not all(isinstance(key, str) and isinstance(t, torch.Tensor) for key, t in state.items()):
        raise ValueError(f"{path} is damaged: a checkpoint of snnfast has config, state_dict and facts")
    convolutional.check_tensors({str(key): t for key, t in state.items()}, path)
    check_facts(facts, path)
    return config, state, facts


def check_facts(facts: Any, path: str | os.PathLike) -> None:
    """Refuses facts that a report, which is JSON, could not hold."""
    try:
        known = isinstance(facts, dict) and json.dumps(facts) is not None
    except (TypeError, ValueError, RecursionError):
        known = False
    if not known:
        raise ValueError(f"{path} is refused: its facts are no dictionary of numbers and texts")


def _check_names(expected, state, path, arch):
    """Every name with its shape, and no other; up to ten of what differs are listed, with the network that fits better."""
    for key, t in expected.items():
        if key.endswith("num_batches_tracked") and key not in state:
            state[key] = torch.zeros(t.shape, dtype=t.dtype)  # files of torch before 0.4.1 have none
    wrong = names.differing(expected, state, arch)
    if not wrong:
        return
    best, share = convolutional.fitting(state)
    hint = f"; its names fit arch={best!r}" if best != arch and share > 0.9 else ""
    if not hint and all(" has shape " in w for w in wrong):
        hint = "; is it of another width, image_size or stem?"
    raise ValueError(f"{path} is not a checkpoint of {arch}{hint}: {names.told(wrong)}")

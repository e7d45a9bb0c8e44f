"""Networks on the Hugging Face Hub: `push_to_hub` and `from_pretrained`, through the package huggingface_hub (`pip install snnfast[hub]`).

A repository holds `model.safetensors`, a file of `snnfast.save_checkpoint`, and a card that says how to load it. Files are loaded as all others are,
without running anything in them.
"""

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from snnfast import checks, models
from snnfast.checkpoints.own import load_checkpoint, save_checkpoint
from snnfast.checkpoints.weights import load_weights
from snnfast.graph.copies import unwrapped
from snnfast.models.direct import DirectNetwork
from snnfast.runtime.network import SpikingNetwork
from snnfast.system import packages
from snnfast.system.text import plain
from snnfast.version import __version__

FILE = "model.safetensors"
CARD = """---
library_name: snnfast
tags:
- spiking-neural-network
- snnfast
---

# {name}

{what}, written by snnfast {version}.

```python
import snnfast

{load}
```

{facts}
"""


def push_to_hub(
    net: torch.nn.Module,
    repo_id: str,
    *,
    private: bool = False,
    message: str = "A network of snnfast",
    token: str | None = None,
    **facts: Any,
) -> str:
    """Writes a network to a repository of the Hugging Face Hub, which is made if it is not there.

    Args:
        net: as `save_checkpoint` takes it: a network of `snnfast.models`, one that `convert` returned, or another, of which the weights are written.
        repo_id: "name" or "owner/name".
        private: whether a new repository is for its owner alone.
        message: of the commit.
        token: of the account; default: the one that `hf auth login` stored.
        facts: beside the network, as of `save_checkpoint`. They stand on the card too.

    Returns:
        The address of the commit. A card (README.md) that the repository has is left as it is.

    Raises:
        ValueError, TypeError: naming the argument, or what the hub refused; the package huggingface_hub or safetensors is missing.

    >>> snnfast.push_to_hub(net, "me/vgg16-cifar10", data="cifar10")  # doctest: +SKIP
    'https://huggingface.co/me/vgg16-cifar10/commit/...'
    """
    hub = _hub()
    _check_name(repo_id)
    token = _token(token)
    checks.yes_or_no("private", private)
    net = unwrapped(net)
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder) / FILE, net, **facts)
        with _told(f"{plain(repo_id, 100)} cannot be written", token):
            api = hub.HfApi(token=token, library_name="snnfast", library_version=__version__)
            made = api.create_repo(repo_id, private=private, exist_ok=True)
            if not api.file_exists(made.repo_id, "README.md"):
                (Path(folder) / "README.md").write_text(_card(net, made.repo_id, facts), "utf-8")
            done = api.upload_folder(repo_id=made.repo_id, folder_path=folder, commit_message=message)
    return str(done.commit_url)


def from_pretrained(
    repo_id: str,
    filename: str = FILE,
    *,
    net: torch.nn.Module | None = None,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    local_files_only: bool = False,
    **how: Any,
) -> torch.nn.Module:
    """A network from a repository of the Hugging Face Hub, or from a folder of this machine.

    Args:
        repo_id: "owner/name"; or the path of a folder that holds the file.
        filename: the file in it, of `push_to_hub` or of another program that `load_checkpoint` reads.
        net: a network of your own, into which `load_weights` puts the file's weights. Default: `load_checkpoint` makes the network.
        revision: branch, tag or commit.
        token, cache_dir, local_files_only: as huggingface_hub has them.
        how: as `load_checkpoint` takes it (`arch`, `levels`, ...), with `net` as `load_weights`.

    Returns:
        The network in eval mode on the CPU.

    Raises:
        ValueError, FileNotFoundError: no such repository, revision or file, or what `load_checkpoint` refuses.

    >>> folder = tempfile.mkdtemp()
    >>> snnfast.save_checkpoint(os.path.join(folder, "net.pt"), snnfast.models.vgg11(width=0.05))
    >>> snnfast.from_pretrained(folder, "net.pt").config["arch"]
    'vgg11'
    """
    if not isinstance(filename, str) or not filename:
        raise TypeError(f"filename must be the name of a file, got {filename!r}")
    if (folder := _folder(repo_id)) is not None:
        if revision is not None:
            raise ValueError(f"revision is of a repository, and {folder} is a folder of this machine")
        path = str(folder / filename)
        if not os.path.exists(path):
            raise FileNotFoundError(
                f"the folder {folder} has no {filename}; a folder of this machine comes before a repository of its name"
            )
    else:
        hub = _hub()
        _check_name(repo_id)
        token = _token(token)
        with _told(f"{plain(repo_id, 100)} has no {plain(filename, 100)} that can be read", token):
            path = hub.hf_hub_download(
                repo_id, filename, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only,
                library_name="snnfast", library_version=__version__,
            )  # fmt: skip
    if net is None:
        return load_checkpoint(path, **how)
    load_weights(net, path, **how)
    return net.eval()


def _hub():
    packages.check_installed("huggingface_hub", extra="hub")
    import huggingface_hub

    return huggingface_hub


def _check_name(repo_id):
    if not isinstance(repo_id, str):
        raise TypeError(f"repo_id must be a str such as 'owner/name', got {type(repo_id).__name__}")
    if not repo_id or len(repo_id) > 200:
        raise ValueError(f"repo_id must be 'owner/name', got {len(repo_id)} characters")


def _folder(repo_id):
    """The folder of this machine that is meant, or None for a repository."""
    if not isinstance(repo_id, (str, os.PathLike)) or not str(repo_id) or len(str(repo_id)) > 4000 or "\0" in str(repo_id):
        return None
    path = Path(repo_id).expanduser()
    if path.is_dir():
        return path
    if isinstance(repo_id, os.PathLike) or repo_id.startswith(("/", "~", "./", "../")):
        raise ValueError(
            f"{plain(str(path), 200)} is {'no folder' if path.exists() else 'not there'}: give a folder, or a repository 'owner/name'"
        )
    return None


def _token(token):
    """The token without a newline around it, which files of tokens end in. No message shows it."""
    if token is None or isinstance(token, bool):
        return token
    if not isinstance(token, str) or not token.strip().isprintable() or " " in token.strip() or not token.strip():
        raise ValueError("token must be the text of a token of the hub, such as hf_..., without blanks")
    return token.strip()


@contextlib.contextmanager
def _told(what, token):
    """Errors of the hub and of the way there become a ValueError of one line, without the token."""
    try:
        yield
    except Exception as error:  # of any kind: those of the hub, and of the library that asks it
        told = " ".join(str(error).split())
        told = told.replace(token, "***") if isinstance(token, str) else told
        raise ValueError(f"{what}: {type(error).__name__}: {told[:300]}") from None


def _card(net, repo_id, facts):
    """The text of README.md."""
    place = f'"{repo_id}"'
    if isinstance(net, SpikingNetwork):
        what, load = (
            f"A spiking network, converted by method {net.method.name}",
            f"snn = snnfast.from_pretrained({place})\nlogits = snn(images, T=64)",
        )
    elif isinstance(net, DirectNetwork):
        what = f"A spiking network of `snnfast.models`, {net.config['arch']}"
        load = (
            f"net = snnfast.from_pretrained({place})\nsnn = snnfast.convert(net)  # runs chunk by chunk: snnfast.evaluate(snn, loader, T)"
        )
    elif isinstance(net, models.Network):
        what = f"A network with quantised activations of `snnfast.models`, {net.config['arch']}"
        load = f"net = snnfast.from_pretrained({place})\nsnn = snnfast.convert(net)\nlogits = snn(images, T=64)"
    else:
        what, load = (
            f"Weights of a {type(net).__name__}",
            f"net = snnfast.from_pretrained({place}, net=build())  # the network that you build",
        )
    told = f"```json\n{json.dumps(facts, indent=2)}\n```" if facts else ""
    return CARD.format(name=repo_id.rpartition("/")[2], what=what, version=__version__, load=load, facts=told).rstrip() + "\n"

"""What was filled in, as the arguments of a command. Every value is checked here and goes as NAME=VALUE, so that none is taken for an option."""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

from snnfast import checks, models
from snnfast.conversion.functions import MODES
from snnfast.conversion.method import REGISTRY
from snnfast.data import NAMES as DATA
from snnfast.models import direct
from snnfast.models.activation import ALL_NAMES as ACTIVATIONS
from snnfast.reports.report import load_report
from snnfast.runtime.sparse_products import KINDS as PRODUCTS
from snnfast.system import memory
from snnfast.training.optimisers import OPTIMISERS
from snnfast.training.settings import AMP
from snnfast.web.records import DONE
from snnfast.web.workspace import Workspace

OTHERS = re.compile(r"(timm|torchvision\.models):[A-Za-z0-9_.-]{1,100}")  # networks of other packages; a browser names no other function
CONVERTED = "{run}/out/network.pt"  # what a conversion writes
TRAINED = "{run}/out/model.pt"  # what a training does
FIELDS = {"v0": float, "tau": int, "rho": int, "m": int}  # of methods, that the pages ask for
OF_QUANTISED = ("activation", "levels", "theta", "width")  # options that a network trained as a spiking one does not have


@dataclasses.dataclass(frozen=True)
class Command:
    """title: for people.  words: the arguments of `snnfast`; {run} stands for the run's folder."""

    title: str
    words: list[str]

    @property
    def kind(self) -> str:
        return self.words[0]


def networks() -> list[str]:
    """Those of ours; the pages take OTHERS too."""
    return [*models.BY_NAME, *direct.BY_NAME]


def methods() -> list[str]:
    return list(REGISTRY)


class Offer:
    """What a server offers, and the commands of what is chosen. data_dir: folder of the data sets; without one there are the digits alone."""

    def __init__(self, workspace: Workspace, data_dir: str | None = None):
        self.workspace, self.data_dir = workspace, data_dir

    def data(self) -> list[str]:
        return list(DATA) if self.data_dir else ["digits"]

    def sources(self) -> list[tuple[str, str]]:
        """(what is seen, what it stands for) of everything that can be evaluated: trained networks, then files that were brought."""
        trained = [run for run in self.workspace.records.all() if run.kind == "train" and self._model(run.id).is_file()]
        return [(f"run {run.id}: {run.title}", f"run:{run.id}") for run in trained] + [
            (name, f"file:{name}") for name in self.workspace.files()
        ]

    def evaluations(self) -> list[tuple[str, str]]:
        """The same of the evaluations that are done."""
        return [(f"run {run.id}: {run.title}", str(run.id)) for run in self.workspace.records.all(DONE) if run.kind == "eval"]

    def _model(self, number):
        return Path(TRAINED.format(run=self.workspace.folder(number)))

    def _data(self, name, words):
        """name: empty for the data that a checkpoint names."""
        words += [f"--data={checks.choice('data', name, self.data())}"] if name else []
        words += [f"--data-dir={self.data_dir}"] if self.data_dir and name != "digits" else []

    def source(self, value: Any) -> tuple[str, str]:
        """(its title, its path)"""
        kind, _, name = str(value or "").partition(":")
        if kind == "file":
            return name, str(self.workspace.upload(name))
        if kind == "run" and name.isdigit() and self._model(int(name)).is_file():
            return f"run {int(name)}", str(self._model(int(name)))
        raise ValueError("choose a checkpoint: a network that was trained here, or a file that was brought")

    def _model_of(self, source):
        """The option that names the network of another package which a run has trained."""
        kind, _, number = str(source).partition(":")
        command = self.workspace.records.get(int(number)).command if kind == "run" else []
        return _of_others(command)

    # ---- the commands

    def train(self, values: dict[str, Any]) -> Command:
        arch, own = _network(values["arch"]), OTHERS.fullmatch(values["arch"])
        words = ["train", arch, "--out={run}/out"]
        self._data(values["data"], words)
        spiking = values["arch"] in direct.BY_NAME
        epochs = [_whole(f"epochs of stage {i + 1}", values[name], 1, 10_000) for i, name in enumerate(("first", "second"))]
        epochs = [n for n in epochs[: 1 if spiking else 2] if n is not None]
        words += ["--epochs", *map(str, epochs)] if epochs else []
        words += ["--stages=1"] if len(epochs) < 2 and not spiking else []
        kinds = dict(levels=(_whole, 1, 1 << 16), theta=(_number, 1e-6, 1e6), width=(_number, 1e-3, 16), batch_size=(_whole, 1, 1 << 16),
                     seed=(_whole, 0, 2**31 - 1), T=(_whole, 1, 1 << 20))  # fmt: skip
        for name, (check, least, most) in kinds.items():
            if not (spiking and name in OF_QUANTISED or own and name == "width"):
                _given(words, name, check(name, values.get(name), least, most))
        if not spiking:
            _given(words, "activation", checks.choice("activation", values["activation"], ACTIVATIONS))
            _given(words, "method", checks.choice("method", values["method"], methods()))
        _given(words, "amp", checks.choice("mixed precision", values["amp"], tuple(AMP)))
        _given(words, "optimiser", checks.choice("optimiser", values.get("optimiser"), (None, *OPTIMISERS)))
        _given(words, "lr", _number("learning rate", values.get("lr"), 1e-9, 1e3))
        if values.get("earlier"):
            words.append(f"--weights={self.source(values['earlier'])[1]}")
        width = "" if spiking or own or not values.get("width") else f", width {values['width']}"
        return Command(f"{values['arch']} on {values['data']}" + ("" if spiking else f", {values['activation']}{width}"), words)

    def _conversion(self, values, words, out="{run}/out"):
        """The checkpoint, its method and its steps; a title. out: what the command writes."""
        title, path = self.source(values["source"])
        words += [path, f"--out={out}"]
        self._data(values.get("data"), words)
        method = checks.choice("method", values.get("method"), (None, *methods()))
        _given(words, "method", method)
        if values.get("mode"):
            _given(words, "mode", checks.choice("mode", values["mode"], MODES))
        fields = REGISTRY[method][0].__dataclass_fields__ if method else ()
        for name, kind in FIELDS.items():
            value = (_whole if kind is int else _number)(name, values.get(name), -1e9, 1e9)
            if value is not None and name not in fields:
                raise ValueError(f"{name} is not of method {method!r}: leave it empty" if method else f"{name} is of a method: choose one")
            _given(words, name, value)
        words += [_network(values["arch"])] if values.get("arch") else self._model_of(values["source"])
        _given(words, "num_classes", _whole("classes", values.get("classes"), 1, 1 << 20))
        calibrate = checks.choice("calibrate", values.get("calibrate"), (None, "train"))
        if calibrate and not _of_others(words):
            raise ValueError("calibrate is for networks of timm and torchvision: leave it empty")
        _given(words, "calibrate", calibrate)
        T = _whole("T", values["T"], 1, 1 << 24)
        _given(words, "T", T)
        return ", ".join([title, *([method] if method else []), *([f"T = {T}"] if T else [])])

    def evaluate(self, values: dict[str, Any]) -> Command:
        words = ["eval"]
        title = self._conversion(values, words)
        if values.get("memory"):
            memory.parse(values["memory"])
            words.append(f"--memory={values['memory']}")
        for name in ("images", "batch_size"):
            _given(words, name, _whole(name, values.get(name), 1, 1 << 31))
        if values.get("products"):
            _given(words, "products", checks.choice("products", values["products"], PRODUCTS))
        words += ["--statistics"] if values.get("statistics") else []
        return Command(title, [*words, "--log-json={run}/progress.jsonl"])

    def convert(self, values: dict[str, Any]) -> Command:
        words = ["convert"]
        title = self._conversion(values, words, CONVERTED)
        if not values.get("method") and not values.get("calibrate") and _of_others(words):
            words.append("--calibrate=train")  # a method is chosen by images
        _given(words, "energy", _number("energy", values.get("energy"), 1e-6, 1e6))
        _given(words, "images", _whole("images", values.get("images"), 1, 256))
        return Command(title, [*words, "--overwrite"])

    def diagnose(self, values: dict[str, Any]) -> Command:
        words = ["diagnose"]
        title = self._conversion(values, words)
        _given(words, "images", _whole("images", values.get("images"), 1, 1 << 20))
        return Command(title, [*words, "--overwrite"])

    def compare(self, chosen: list[str]) -> Command:
        known = {value for _, value in self.evaluations()}
        if len(chosen or []) < 2 or not set(chosen) <= known:
            raise ValueError("choose two evaluations or more that are done")
        runs = [f"{n} {self._method(int(n))}={self.workspace.folder(int(n)) / 'out'}" for n in chosen]
        return Command("runs " + ", ".join(chosen), ["compare", *runs, "--out={run}/out", "--overwrite"])

    def _method(self, number):
        """The method and the network of an evaluation, which its command need not say."""
        try:
            return load_report(self.workspace.folder(number) / "out").label().replace("=", " ")
        except (OSError, ValueError) as error:
            raise ValueError(f"run {number} has no report that can be read: {error}") from None


def _network(name):
    """The option that names a network."""
    if isinstance(name, str) and OTHERS.fullmatch(name):
        return f"--model={name}"
    if name not in networks():
        raise ValueError(
            f"network must be one of {', '.join(networks())}, or timm:NAME or torchvision.models:NAME, got {str(name)[:100]!r}"
        )
    return f"--arch={name}"


def _of_others(words):
    """The option among these that names a network of another package, or none."""
    return [word for word in words if word.startswith("--model=")]


def _given(words, name, value):
    if value is not None:
        words.append(f"--{name if name == 'T' else name.replace('_', '-')}={value}")


def _number(name, value, least, most):
    """A number, or None where nothing was filled in."""
    if value is None or not str(value).strip():
        return None
    try:
        found = float(str(value))
    except ValueError:
        found = math.nan
    if not least <= found <= most:
        raise ValueError(f"{name} must be a number from {least:g} to {most:g}, got {str(value)[:100]!r}")
    return found


def _whole(name, value, least, most):
    value = _number(name, value, least, most)
    if value is not None and value != int(value):
        raise ValueError(f"{name} must be a whole number, got {value:g}")
    return None if value is None else int(value)

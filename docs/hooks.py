"""What the site has beside the pages of docs/: the README as its first page, the benchmarks, the changelog, and the reference from docstrings.

A hook of MkDocs (`make docs`). Every public name has one place in the reference, which tests/house/test_site.py holds.
"""

import functools
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Pages that lie elsewhere in the repository, by their place on the site.
PAGES = {
    "index.md": "README.md", "benchmarks.md": "bench/README.md", "gpu-predictions.md": "bench/gpu-predictions.md", "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
}  # fmt: skip
# {page: (title, sentence, names below snnfast)}
REFERENCE = {
    "conversion": (
        "Conversion", "From a trained network to a spiking one.",
        "convert SpikingNetwork nn.JoinedInputs to_quantised to_channelwise conversion.Constant conversion.Poisson conversion.Analog conversion.Rate "
        "conversion.Percentile accelerate Accelerated",
    ),
    "methods": (
        "Conversion methods", "Each is an object, `convert(net, SRP(tau=4))`, and a name, `convert(net, \"srp\", tau=4)`.",
        "conversion.methods.IF conversion.methods.STBIF conversion.methods.SNM conversion.methods.SRP conversion.methods.COS "
        "conversion.methods.SignedQuanta conversion.methods.Group conversion.methods.Method",
    ),
    "evaluation": (
        "Evaluation", "Accuracy at every step in memory that does not grow with T, what spikes cost, and where accuracy is lost.",
        "evaluate Report evaluation.Statistics diagnose Diagnosis calibrate_exit evaluate_early answer_early ExitRule EarlyReport operations "
        "Operations",
    ),
    "neurons": (
        "Neurons", "A neuron over all T steps in one call, with its gradient; as functions and as layers.",
        "iaf lif plif quanta cos_start norm_neuron neuron IAFState nn.IF nn.LIF nn.PLIF nn.Quanta nn.SpikeMask",
    ),
    "activations": (
        "Quantised activations", "What a neuron stands for after T steps: trained in a network, and converted.",
        "qcfs cs_qcfs nn.QCFS nn.CQCFS nn.SQCFS nn.CSQCFS nn.EQCFS nn.CEQCFS nn.HQCFS nn.HSQCFS nn.HEQCFS nn.NQCFS nn.NSQCFS nn.NEQCFS nn.LSQ "
        "nn.Quantised nn.register_quantised",
    ),
    "products": (
        "Products and functions over time", "Products that skip zeros or add integers, pooling, and functions of running sums.",
        "spike_conv2d spike_linear exact_weights ExactWeights exact_conv2d exact_linear max_pool2d softmax_over_time layer_norm_over_time RowState",
    ),
    "training": (
        "Training", "Networks with quantised activations, and spiking networks with surrogate gradients.",
        "training.fit backward_through_time spikes_as_bits data.load data.digits",
    ),
    "checkpoints": (
        "Checkpoints", "Files of ours, of other trainers and of other simulators; loading runs no code.",
        "load_checkpoint save_checkpoint load_weights extract export_nir import_nir export_onnx Steps from_pretrained push_to_hub",
    ),
}  # fmt: skip
MODULES = {"conversion", "data", "evaluation", "models", "nn", "train", "training"}  # public names that are rooms
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def named(name):
    """The public object below snnfast."""
    import snnfast

    found = snnfast
    for part in name.split("."):
        found = getattr(found, part)
    return found


def models():
    """Names of the functions that make networks, those converted and those trained as spiking ones, in the order of their names."""
    import inspect

    import snnfast

    return sorted(
        f"models.{name}" for name, f in vars(snnfast.models).items() if inspect.isfunction(f) and f.__module__.startswith("snnfast.models.")
    )


def names():
    """Every name that the reference documents."""
    return [*(name for _, _, of in REFERENCE.values() for name in of.split()), *models()]


@functools.cache
def reference():
    """{(group, its title): {file: Markdown}}: of each group of names a page that lists them, and a page for each name."""
    groups = {}
    for group, (title, sentence, of) in REFERENCE.items():
        found = {_short(name): (_first_line(named(name)), f"::: {_path(name)}\n") for name in of.split()}
        groups[group, title] = _pages(title, sentence, found)
    told = "`snnfast train --arch NAME` and `snnfast eval --arch NAME` take them too."
    groups["models", "Networks"] = _pages("Networks", told, networks())
    groups["commands", "Commands"] = _pages("Commands", "`snnfast COMMAND --help` prints the same.", commands())
    return groups


def _pages(title, sentence, found):
    """{file: Markdown} of a group. found: {name: (a sentence, its page)}"""
    files = {name: f"{name.replace(' ', '-')}.md" for name in found}
    rows = "".join(f"| [{name}]({files[name]}) | {told.replace('|', chr(92) + '|')} |\n" for name, (told, _) in found.items())
    index = f"# {title}\n\n{sentence}\n\n| name | what it is |\n|---|---|\n{rows}"
    return {"index.md": index} | {files[name]: text for name, (_, text) in found.items()}


def _short(name):
    """As it is called on its page: that of a layer keeps its `nn`, for there is a function of its letters."""
    return name.removeprefix("conversion.methods.").removeprefix("conversion.").removeprefix("evaluation.")


def _first_line(thing):
    """The first sentence or line of a docstring."""
    import inspect

    text = " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())
    text = text if len(text) <= 150 else re.split(r"(?<=[.:]) ", text)[0]
    return text if len(text) <= 150 else text[:150].rpartition(" ")[0] + " ..."


def networks():
    """{network: (a sentence, its page)}: signature and docstring. Many are made as the package is imported, so that mkdocstrings, which reads text,
    finds none."""
    import inspect

    found = {}
    for name in models():
        f, short = named(name), name.removeprefix("models.")
        signature = inspect.signature(f)
        lines = "".join(f"    {parameter},\n" for parameter in signature.parameters.values())
        call = f"snnfast.{name}(\n{lines}) -> {inspect.formatannotation(signature.return_annotation)}"
        found[short] = _first_line(f), f"# {short}\n\n```python\n{call}\n```\n\n{_laid_out(f)}\n"
    return found


def _laid_out(f):
    """The docstring of a function as Markdown: its text, a table of its arguments, its example."""
    import inspect
    import logging

    import griffe

    logging.getLogger("griffe").setLevel(logging.ERROR)  # it misses types, which stand in the signature
    defaults = inspect.signature(f).parameters
    text, _, example = inspect.getdoc(f).partition(">>>")
    parts = []
    for section in griffe.Docstring(_entries(text)).parse("google"):
        if section.kind.value == "parameters":
            rows = [(p.name, " ".join(p.description.split()).replace("|", "\\|"), defaults.get(p.name)) for p in section.value]
            of = lambda known: "" if known is None or known.default is known.empty else f"`{known.default!r}`"  # noqa: E731
            parts.append("| argument | what it is | default |\n|---|---|---|\n" + "\n".join(f"| {n} | {d} | {of(k)} |" for n, d, k in rows))
        else:
            parts.append(str(section.value))
    return "\n\n".join(parts + ([f"```python\n>>>{example.rstrip()}\n```"] if example else []))


def _entries(text):
    """A docstring with an entry for each of several arguments."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("docstrings", ROOT / "docs/docstrings.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found.laid(text)


def _path(name):
    """Where a public object is defined; the page shows its short name."""
    found = named(name)
    return f"{found.__module__}.{found.__qualname__}"


def commands():
    """{command: (a sentence, the page with its help)}"""
    from snnfast.cli.main import parser

    of = next(action for action in parser()._actions if hasattr(action, "choices") and isinstance(action.choices, dict))
    told = {choice.dest: choice.help for choice in of._choices_actions}
    page = lambda name, command: f"# snnfast {name}\n\n```text\n{command.format_help().rstrip()}\n```\n"  # noqa: E731
    return {f"snnfast {name}": (f"{told[name]}.", page(name, command)) for name, command in of.choices.items()}


def rewritten(text, source):
    """Markdown of `source` (its path in the repository) with links that hold on the site. What the site does not have is named without a link."""
    at = {target: page for page, target in PAGES.items()}

    def link(found):
        picture, label, target = found.groups()
        path, hash_, anchor = target.partition("#")
        if "://" in target or not path:
            return found.group(0)
        place = (ROOT / source).parent.joinpath(path).resolve().relative_to(ROOT).as_posix()
        if place in at:
            return f"{picture}[{label}]({at[place]}{hash_}{anchor})"
        if place.startswith("docs/"):
            return f"{picture}[{label}]({place.removeprefix('docs/')}{hash_}{anchor})"
        if place.startswith("bench/figures/"):
            return f"{picture}[{label}]({place.removeprefix('bench/')})"
        return label

    return _LINK.sub(link, text)


def on_config(config):
    """Called by MkDocs first: each group of the reference unfolds into its pages."""
    found = []
    for (group, title), (index, *pages) in reference().items():
        rest = [{page.removesuffix(".md").removeprefix("snnfast-"): f"reference/{group}/{page}"} for page in pages]
        found.append({title: [f"reference/{group}/{index}", *rest]})
    for section in config["nav"]:
        if "Reference" in section:
            section["Reference"] = found
    return config


def on_files(files, config):
    """Called by MkDocs with the pages of docs/."""
    from mkdocs.structure.files import File

    for page, source in PAGES.items():
        files.append(File.generated(config, page, content=rewritten((ROOT / source).read_text(), source)))
    for (group, _), pages in reference().items():
        for page, text in pages.items():
            files.append(File.generated(config, f"reference/{group}/{page}", content=text))
    for picture in sorted((ROOT / "bench/figures").glob("*.png")):
        files.append(File.generated(config, f"figures/{picture.name}", abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Called by MkDocs with each page: those of docs/ have their links rewritten too."""
    here = page.file.src_uri
    return markdown if here in PAGES or here.startswith("reference/") else rewritten(markdown, f"docs/{here}")

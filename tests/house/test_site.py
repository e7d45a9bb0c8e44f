"""The documentation as a site: it builds without a warning, and the reference has every public name in one place."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import snnfast
from snnfast.conversion import methods

ROOT = Path(__file__).parents[2]


def module(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="module")
def site():
    return module("hooks")


def test_every_public_name_has_one_place(site):
    names = site.names()
    assert len(names) == len(set(names)) and all(site.named(name) is not None for name in names)
    public = {*snnfast.__all__} - site.MODULES | {f"nn.{name}" for name in dir(snnfast.nn) if name[0].isupper()}
    public |= {f"models.{name}" for name in snnfast.models.BY_NAME} | {
        f"conversion.methods.{type(method).__name__}" for method in map(methods.method_of, methods.METHODS)
    }
    assert public <= set(names), sorted(public - set(names))
    assert all(isinstance(getattr(snnfast, name), type(os)) for name in site.MODULES)


def test_links_hold_on_the_site(site):
    text = "[a](docs/ops.md#x) ![b](bench/figures/memory.png) [c](bench/README.md) [d](snnfast/nn) [e](https://a.b/c) [f](#g)"
    assert site.rewritten(text, "README.md") == "[a](ops.md#x) ![b](figures/memory.png) [c](benchmarks.md) d [e](https://a.b/c) [f](#g)"
    assert site.rewritten("[a](../bench/README.md#rows) [b](zoo.md)", "docs/ops.md") == "[a](benchmarks.md#rows) [b](zoo.md)"


def test_it_builds_without_a_warning(tmp_path):
    """As `make docs`, whose configuration takes every warning for an error."""
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "NO_MKDOCS_2_WARNING": "1"}
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env)
    assert run.returncode == 0 and not (run.stdout + run.stderr).strip(), run.stdout + run.stderr
    page = lambda place: (tmp_path / place / "index.html").read_text()
    assert "threshold &gt; 0" in page("reference/neurons/iaf") and 'id="snnfast.ops.iaf.iaf"' in page("reference/neurons/iaf")
    assert 'href="SRP/"' in page("reference/methods") and "algorithm 1" in page("reference/methods/SRP")
    assert "usage: snnfast eval" in page("reference/commands/snnfast-eval") and "NeurIPS 2021" in page("reference/models/sew_resnet18")
    assert (tmp_path / "figures/memory.png").is_file()


def test_docstrings_are_laid_out():
    laid = module("docstrings").laid
    text = "A sum.\n\nArgs:\n    a, b: numbers,\n        finite.\n    c: another.\n\n>>> f(1)\n1\n"
    entries = "".join(f"    {name}: numbers,\n        finite.\n" for name in "ab")
    expected = f"A sum.\n\nArgs:\n{entries}    c: another.\n\nExamples:\n    >>> f(1)\n    1\n"
    assert laid(text) == expected
    assert laid("No example.") == "No example."

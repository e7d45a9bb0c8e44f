"""Every public function and layer says its types and has an example that runs."""

import doctest
import inspect
import typing

import pytest
import torch

import snnfast
from snnfast.conversion import methods

NN = [name for name in dir(snnfast.nn) if name[0].isupper() and name != "Quantised"]  # which only they are made of
FUNCTIONS = [name for name in snnfast.__all__ if inspect.isfunction(getattr(snnfast, name))]
PUBLIC = {
    **{name: getattr(snnfast, name) for name in FUNCTIONS},
    "training.fit": snnfast.training.fit,
    "data.load": snnfast.data.load,
    "data.digits": snnfast.data.digits,
    "models.build": snnfast.models.build,
    **{f"models.{name}": build for name, build in snnfast.models.BY_NAME.items()},
    **{f"nn.{name}": getattr(snnfast.nn, name) for name in NN},
    **{f"conversion.methods.{name}": getattr(methods, name) for name in ("IF", "STBIF", "SNM", "SRP", "COS")},
}


@pytest.mark.parametrize("name", PUBLIC)
def test_the_example_runs(name, tmp_path, monkeypatch):
    import argparse
    import os
    import tempfile
    import types

    monkeypatch.chdir(tmp_path)
    scope = dict(
        snnfast=snnfast, torch=torch, os=os, tempfile=tempfile, types=types, argparse=argparse, inputs=torch.randn(3, 4), methods=methods
    )
    text = inspect.getdoc(PUBLIC[name])
    found = doctest.DocTestParser().get_doctest(text, scope, name, None, None)
    assert found.examples, f"snnfast.{name} has no example"
    told = []
    assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(found, out=told.append).failed == 0, "".join(told)


@pytest.mark.parametrize("name", PUBLIC)
def test_the_signature_has_types(name):
    call = PUBLIC[name]
    call = call.__init__ if inspect.isclass(call) else call
    hints = typing.get_type_hints(call)
    for parameter in inspect.signature(call).parameters.values():
        assert parameter.name == "self" or parameter.name in hints, f"{name}: {parameter.name} has no type"
    assert "return" in hints or inspect.isclass(PUBLIC[name])


def test_former_names_lead_to_the_new_ones():
    from snnfast.evaluation.statistics import Statistics
    from snnfast.reports.plots import curves

    assert snnfast.statistics.Statistics is snnfast.evaluation.Statistics is Statistics
    assert snnfast.plots.curves is curves and snnfast.train.fit is snnfast.training.fit


def test_the_package_says_that_it_is_typed():
    from pathlib import Path

    assert (Path(snnfast.__file__).parent / "py.typed").exists()

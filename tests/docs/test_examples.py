"""Every public name has an example in its docstring, and the example prints what the docstring shows.

Names ``ef``, ``np``, ``torch``, and those of the package itself are imported already; an example imports the rest.
"""

import doctest
import importlib
import inspect
import pydoc
import random
import re
import warnings
from unittest import mock

import numpy as np
import pytest
import torch

import equifuse as ef
from equifuse.registry import FUSIONS

PACKAGES = [
    "equifuse",
    "equifuse.solve",
    "equifuse.fusion",
    "equifuse.encoders",
    "equifuse.model",
    "equifuse.datasets",
    "equifuse.detection",
    "equifuse.tasks",
    "equifuse.information",
    "equifuse.explain",
    "equifuse.export",
    "equifuse.estimators",
    "equifuse.runs",
    "equifuse.report.plots",
    "equifuse.auto",
    "equifuse.training",
]
LENIENT = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def public():
    """Each public class and function once, under the shortest path it is imported from."""
    found, seen = {}, set()
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in module.__all__:
            thing = getattr(module, name)
            if (inspect.isclass(thing) or inspect.isroutine(thing)) and id(thing) not in seen:
                seen.add(id(thing))
                found[f"{package}.{name}"] = thing
    return found


PUBLIC = public()


def examples(name, thing):
    """The examples of a docstring, and of the methods' docstrings."""
    finder = doctest.DocTestFinder(exclude_empty=True, recurse=inspect.isclass(thing))
    package = importlib.import_module(name.rpartition(".")[0])
    names = {**{other: getattr(package, other) for other in package.__all__}, "ef": ef, "np": np, "torch": torch}
    return [test for test in finder.find(inspect.unwrap(thing), name, module=False, globs=names) if test.examples]


@pytest.mark.parametrize("name", PUBLIC)
def test_docstring_has_an_example(name):
    assert ">>>" in (PUBLIC[name].__doc__ or ""), f"{name} needs a short example in its docstring"


# Examples that run what belongs to an extra that the fast tests do not install.
NEEDS = {"equifuse.information.decompose": "cvxpy"}


def with_examples():
    """The names to run; what trains a model into a folder first is slow."""
    for name, thing in PUBLIC.items():
        if ">>>" in (thing.__doc__ or ""):
            trains = re.search(r"= train\(", thing.__doc__)
            yield pytest.param(name, marks=pytest.mark.slow if trains else ())


@pytest.mark.parametrize("name", list(with_examples()))
@mock.patch.dict(FUSIONS._parts)  # an example registers one
def test_example_prints_what_it_shows(name, tmp_path, monkeypatch):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    for test in examples(name, PUBLIC[name]):
        torch.manual_seed(0)
        random.seed(0)
        said = []
        doctest.DocTestRunner(optionflags=LENIENT, verbose=False).run(test, out=said.append)
        assert not said, "".join(said)


@pytest.mark.parametrize("name", ["DEQFusion", "GMF", "FusionModel", "Anderson", "fixed_point"])
def test_help_opens_with_purpose_and_example_and_fits_three_screens(name):
    text = pydoc.plain(pydoc.render_doc(getattr(ef, name)))
    own = text.partition("inherited from torch.nn.modules.module.Module")[0]
    own = re.sub(r"^ \|  __\w+__ = .*\n \|  ?\n", "", own, flags=re.MULTILINE)  # Python's own, different by version
    assert own.count("\n") <= 150
    opening = inspect.getdoc(getattr(ef, name)).partition("Args:")[0]
    assert ">>>" in opening

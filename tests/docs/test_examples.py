"""Every public name has an example in its docstring, and every example of a docstring prints what is shown.

Names ``ef``, ``np``, ``torch`` are imported already; so are those of the package a public name is imported from, and
for all other examples those of the module it stands in. An example imports the rest.
"""

import ast
import doctest
import importlib
import inspect
import pydoc
import random
import re
import warnings
from pathlib import Path
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
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def docstrings(node, name):
    """Each docstring with an example below a node of a module's source, and the name of what it belongs to."""
    if isinstance(node, DOCUMENTED) and ">>>" in (text := ast.get_docstring(node, clean=False) or ""):
        yield name, text
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield from docstrings(child, f"{name}.{child.name}" if isinstance(child, DOCUMENTED) else name)


def sources():
    """Each module's name and source."""
    root = Path(ef.__file__).parent
    for path in sorted(root.rglob("*.py")):
        name = ".".join(["equifuse", *path.relative_to(root).with_suffix("").parts])
        yield name.removesuffix(".__init__"), path.read_text(encoding="utf-8")


# Module -> full name of a thing in it -> its docstring. Read, not imported: some modules need what may not be there.
SHOWN = {name: dict(docstrings(ast.parse(text), name)) for name, text in sources() if ">>>" in text}


def of_public(thing):
    """The docstrings of a function, or of a class and its methods."""
    own = f"{thing.__module__}.{thing.__qualname__}."
    return {name: text for name, text in SHOWN.get(thing.__module__, {}).items() if f"{name}.".startswith(own)}


@pytest.mark.parametrize("name", PUBLIC)
def test_docstring_has_an_example(name):
    assert ">>>" in (PUBLIC[name].__doc__ or ""), f"{name} needs a short example in its docstring"


# Examples that run what belongs to an extra that the fast tests do not install.
NEEDS = {
    "equifuse.information.decompose": "cvxpy",
    "equifuse.data.media.read_sound": "av",
    "equifuse.data.media.read_frames": "av",
}


def marked(name, texts, *values):
    """What trains a model into a folder first is slow."""
    trains = any(re.search(r"= train\(", text) for text in texts)
    return pytest.param(name, *values, id=name, marks=pytest.mark.slow if trains else ())


def public_with_examples():
    for name, thing in PUBLIC.items():
        if ">>>" in (thing.__doc__ or ""):
            yield marked(name, of_public(thing).values())


def others_with_examples():
    done = {name for thing in PUBLIC.values() for name in of_public(thing)}
    for module, shown in SHOWN.items():
        for name, text in shown.items():
            if name not in done:
                yield marked(name, [text], module)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the example of a docstring in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)

    def run(name, text, names):
        torch.manual_seed(0)
        random.seed(0)
        said = []
        test = doctest.DocTestParser().get_doctest(text, {**names, "ef": ef, "np": np, "torch": torch}, name, None, 0)
        doctest.DocTestRunner(optionflags=LENIENT, verbose=False).run(test, out=said.append)
        assert not said, "".join(said)

    with mock.patch.dict(FUSIONS._parts):  # an example registers one
        yield run


@pytest.mark.parametrize("name", list(public_with_examples()))
def test_example_prints_what_it_shows(name, run):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    package = importlib.import_module(name.rpartition(".")[0])
    shown = of_public(PUBLIC[name])
    assert shown
    for each, text in shown.items():
        run(each, text, {other: getattr(package, other) for other in package.__all__})


@pytest.mark.parametrize(("name", "module"), list(others_with_examples()))
def test_example_of_what_is_not_public_prints_what_it_shows(name, module, run):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    run(name, SHOWN[module][name], vars(importlib.import_module(module)))


@pytest.mark.parametrize("name", ["DEQFusion", "GMF", "FusionModel", "Anderson", "fixed_point"])
def test_help_opens_with_purpose_and_example_and_fits_three_screens(name):
    text = pydoc.plain(pydoc.render_doc(getattr(ef, name)))
    own = text.partition("inherited from torch.nn.modules.module.Module")[0]
    own = re.sub(r"^ \|  __\w+__ = .*\n \|  ?\n", "", own, flags=re.MULTILINE)  # Python's own, different by version
    assert own.count("\n") <= 150
    opening = inspect.getdoc(getattr(ef, name)).partition("Args:")[0]
    assert ">>>" in opening

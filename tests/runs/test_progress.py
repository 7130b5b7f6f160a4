"""Progress in a terminal and in notebooks with and without widgets."""

import sys
import types
import warnings
from functools import partial
from importlib.machinery import ModuleSpec

import pytest
import rich.console

from equifuse.runs.progress import count_bar, epoch_bar


@pytest.fixture
def notebook(monkeypatch):
    """Rich takes this process for a notebook."""
    monkeypatch.setattr(rich.console, "Console", partial(rich.console.Console, force_jupyter=True))


def module(name, **attributes):
    made = types.ModuleType(name)
    made.__spec__ = ModuleSpec(name, None)
    vars(made).update(attributes)
    return made


def work():
    with count_bar(3) as advance:
        for label in ("one", "two", "three"):
            advance(label)
    with epoch_bar(2) as follow:
        tell = follow("deq on digits")
        for epoch in range(2):
            tell({"epoch": float(epoch), "val_loss": 0.5}, 0.5)


def test_a_notebook_without_widgets_gets_a_line_and_no_warning(notebook, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        work()
    out, err = capsys.readouterr()
    assert err == ""
    assert "3/3 training, models  (latest: three)" in out
    assert "2/2 epochs  deq on digits  val loss 0.5000  best 0.5000" in out
    assert out.endswith("\n")


def test_a_notebook_with_widgets_gets_rich_s_bar(notebook, monkeypatch, capsys):
    shown = []

    class Output:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def clear_output(self, wait=False):
            pass

        def close(self):
            pass

    ipython = module("IPython")
    display = module("IPython.display", display=shown.append, clear_output=lambda wait=False: None)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setitem(sys.modules, "ipywidgets", module("ipywidgets", Output=Output))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        work()
    assert any(isinstance(one, Output) for one in shown)
    assert "training, models" not in capsys.readouterr().out


def test_nothing_is_shown_where_nobody_asks(notebook, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with count_bar(1, shown=False) as advance:
        advance("one")
    assert capsys.readouterr() == ("", "")


def test_a_terminal_keeps_standard_output_clean(capsys):
    work()
    assert capsys.readouterr().out == ""

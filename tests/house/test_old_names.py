"""Names of version 0.1 that have moved still work, with a warning that says where they are now."""

import importlib
import subprocess
import sys

import pytest

import equifuse.training


@pytest.mark.parametrize("name", sorted(equifuse.training._MOVED))
def test_names_of_training(name):
    with pytest.warns(DeprecationWarning, match=rf"equifuse\.training\.{name} is now equifuse\.\w+\.{name}"):
        old = getattr(equifuse.training, name)
    home = importlib.import_module(equifuse.training._MOVED[name])
    assert old is getattr(home, name)


def test_unknown_names_are_unknown():
    with pytest.raises(AttributeError, match="no_such_name"):
        equifuse.training.no_such_name  # noqa: B018


def test_partition():
    code = (
        "from equifuse.datasets.splitting import partition; print([len(p) for p in partition(10, (0.8, 0.2), seed=0)])"
    )
    done = subprocess.run([sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[8, 2]\n"
    assert "is now equifuse.data.split" in done.stderr

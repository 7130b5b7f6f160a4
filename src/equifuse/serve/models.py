"""The run folders that are served: their names, and whether one was replaced. Nothing is loaded here."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from equifuse.errors import DataError, InputError

# What a finished run has, and what changes when it is another one.
_FILES = ("config.yaml", "metrics.json", "model", "model/model.json", "model/model.safetensors")


def fingerprint(runs: Mapping[str, str]) -> tuple[object, ...] | None:
    """What tells a run folder from the one that takes its place; None while one of them is not whole."""
    found: list[object] = []
    for folder in runs.values():
        for name in _FILES:
            try:
                stat = os.stat(os.path.join(folder, name))
            except OSError:
                if name in _FILES[:3]:
                    return None
                continue
            found.append((folder, name, stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return tuple(found)


def names_of(runs: Sequence[str | os.PathLike[str]]) -> dict[str, Path]:
    """The names of models: those of their folders, or what comes before ``=``.

    Raises:
        InputError: there are none, or two of one name.
        DataError: one is no finished run, as far as can be seen from outside.
    """
    found: dict[str, Path] = {}
    for run in runs:
        path, text = Path(run), os.fspath(run)
        given, _, rest = text.partition("=")
        if not path.exists() and rest and "/" not in given:
            name, path = given, Path(rest)
        else:
            name = path.resolve().name
        if not name:
            raise InputError(f"{text!r} has no name; write NAME={text}")
        if name in found:
            raise InputError(f"two runs are called {name!r}; give one a name of its own: {name}-2={path}")
        _check(path)
        found[name] = path.absolute()
    if not found:
        raise InputError("there is no run to serve")
    return found


def _check(path: Path) -> None:
    config, metrics, *_ = _FILES
    if not (path / config).is_file():
        raise DataError(f"no run at {path}: expected a folder with {config}")
    if not (path / metrics).is_file():
        raise DataError(f"the run at {path} is not finished; resume it first")

"""Reading what a user typed into settings."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from equifuse.errors import DataError, InputError


def read_config(path: Path) -> dict[str, Any]:
    """Settings from a YAML file: those of a run folder's ``config.yaml``, or their ``run`` section alone.

    Raises:
        DataError: missing or not a mapping.
    """
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not valid YAML: {error}") from None
    if isinstance(values, dict) and isinstance(values.get("run"), dict):
        values = values["run"]
    if not isinstance(values, dict):
        raise DataError(f"{path} must hold settings as 'name: value' lines")
    return values


def hidden_widths(text: str) -> tuple[int, ...]:
    """``"256,128"`` as ``(256, 128)``.

    Raises:
        InputError: not positive whole numbers.
    """
    try:
        widths = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--hidden must be widths such as 256,128, got {text!r}") from None
    if min(widths) < 1:
        raise InputError(f"--hidden must be positive widths, got {text!r}")
    return widths


def fusion_options(fusion: str, *, backend: str | None, dim: int | None, pairs: Iterable[str]) -> dict[str, Any]:
    """Fusion options from ``--backend``, ``--dim`` and ``--set key=value`` (values are read as YAML).

    ``--dim`` goes to the backend where the fusion itself has no such option.

    Raises:
        UnknownNameError: an unknown fusion.
        InputError: a pair without ``=``, or an option the fusion does not have.
    """
    from equifuse.fusion import fusion_options as known

    options: dict[str, Any] = {}
    for pair in pairs:
        key, found, value = pair.partition("=")
        if not found or not key:
            raise InputError(f"--set takes key=value, got {pair!r}")
        try:
            options[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise InputError(f"--set {key}: cannot read {value!r}") from None
    has = known(fusion)
    if backend is not None:
        if "backend" not in has:
            raise InputError(f"--backend goes with a front end such as gmf, not with {fusion!r}")
        options["backend"] = backend
    if dim is not None:
        if "dim" in has:
            options["dim"] = dim
        elif options.get("backend"):
            options["backend_options"] = {**options.get("backend_options", {}), "dim": dim}
        else:
            raise InputError(f"fusion {fusion!r} has no common width; leave out --dim")
    return options

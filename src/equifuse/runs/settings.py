"""Options as they are written: in a YAML file, or as ``key=value``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from equifuse.errors import InputError
from equifuse.extras import require
from equifuse.files import read_yaml
from equifuse.runs.checks import numbers

# The part of a run's config.yaml that records what happened, as against what was asked for.
RECORD = "run"


def read_config(path: Path) -> dict[str, Any]:
    """The options in a YAML file, without the record of a run.

    Raises:
        DataError: the file is missing or is not a YAML mapping.
    """
    return {key: numbers(value) for key, value in read_yaml(path).items() if key != RECORD}


def parse_settings(settings: list[str], *, nested: bool = True) -> dict[str, Any]:
    """A mapping from ``"key=value"`` settings: values are YAML, dots in keys nest unless ``nested`` is False.

    Raises:
        InputError: one cannot be read.
    """
    yaml = require("train", "yaml", "YAML")

    parsed: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise InputError(f"expected key=value, got {setting!r}")
        try:
            value = numbers(yaml.safe_load(text))
        except (yaml.YAMLError, ValueError, RecursionError):
            raise InputError(f"cannot read the value of {setting!r}") from None
        *path, last = key.strip().split(".") if nested else [key.strip()]
        place = parsed
        for step in path:
            place = place.setdefault(step, {})
            if not isinstance(place, dict):
                raise InputError(f"{setting!r}: {step!r} already has a value")
        place[last] = value
    return parsed

"""What the values of a run's options must be, where that takes more than a line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from equifuse.errors import InputError
from equifuse.extras import require
from equifuse.options import Check

# In the place of a number of folds.
GROUPS_OUT = "group"
# How the members of an ensemble come about; equifuse.runs.kinds has what each does.
FOLDS, SEEDS, SNAPSHOTS = BY = ("folds", "seeds", "snapshots")
_SCIENTIFIC = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
# The weights of several targets, where they are trained along.
_LEARNT = "learnt"
# The name under which the preparation of all modalities without one of their own is stored.
EVERY = "*"


def _class_weights(value: Any) -> bool:
    listed = isinstance(value, list) and all(isinstance(w, int | float) and w >= 0 for w in value)
    return listed or value == "balanced"


def _count(value: Any) -> Any:
    """On the command line a number is text."""
    return int(value) if isinstance(value, str) and value.isdigit() else value


def _folds(value: Any) -> bool:
    return value == GROUPS_OUT or (isinstance(value, int) and not isinstance(value, bool) and value >= 2)


def _pipelines(value: Any) -> Any:
    """Modality -> steps, of ``"mrna=log1p,pca:64"``, of a list of such words, or of a mapping."""
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return dict(value)
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
        return value
    found: dict[str, str] = {}
    for word in words:
        name, equals, steps = word.partition("=")
        name, steps = (name.strip(), steps) if equals else (EVERY, word)
        if name in found:
            called = "all modalities" if name == EVERY else repr(name)
            raise InputError(f"prepare is given twice for {called}; write the steps in one, separated by commas")
        found[name] = steps
    return found


def _choices(value: Any) -> Any:
    """Option -> values, of ``{"fusion": "deq,late"}`` as well."""
    if not isinstance(value, Mapping):
        return {} if value is None else value
    return {name: _values(each) if isinstance(each, str) else each for name, each in value.items()}


def _values(words: str) -> list[Any]:
    yaml = require("train", "yaml", "YAML")
    return [numbers(yaml.safe_load(word)) for word in words.split(",")]


def _are_choices(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and isinstance(each, list) and each for name, each in value.items()
    )


def _factors(value: Any) -> Any:
    """Target -> factor, of ``["age=0.5"]`` or a mapping; or the one word ``learnt``."""
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list | tuple) or not words or not all(isinstance(word, str) for word in words):
        return value if value or value is None else None
    if list(words) == [_LEARNT]:
        return _LEARNT
    try:
        return {name: float(number) for name, _, number in (word.rpartition("=") for word in words)}
    except ValueError:
        return value


def _are_factors(value: Any) -> bool:
    if isinstance(value, Mapping):
        fits = (isinstance(k, str) and k and isinstance(v, int | float) and v >= 0 for k, v in value.items())
        return bool(all(fits))
    return value is None or value == _LEARNT


@dataclass(frozen=True)
class _Pipelines(Check):
    """Modality -> steps of its preparation, checked by name."""

    def __call__(self, name: str, value: Any) -> Any:
        value = super().__call__(name, value)
        if value:
            from equifuse.encoders import parse_steps  # noqa: PLC0415 - PyTorch

            for steps in value.values():
                parse_steps(steps)
        return value


def _are_pipelines(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(k, str) and isinstance(v, str) for k, v in value.items())


def class_weights() -> Check:
    """``"balanced"``, or a number for each class."""
    return Check("be 'balanced' or numbers of at least 0", _class_weights)


def folds() -> Check:
    """A number of folds, or ``"group"``."""
    return Check("be a number of folds of at least 2, or 'group'", _folds, convert=_count)


def factors() -> Check:
    """Target -> factor of its loss, or ``"learnt"``."""
    must = "be 'learnt', or numbers of at least 0 such as age=0.5"
    return Check(must, _are_factors, many=True, convert=_factors)


def choices() -> Check:
    """Option -> values to choose from."""
    return Check("name options and their values, such as fusion=deq,late", _are_choices, pairs="text", convert=_choices)


def pipelines() -> Check:
    """Modality -> steps of its preparation."""
    must = "be steps such as 'impute:median', or name modalities: 'mrna=log1p,variance:2000'"
    return _Pipelines(must, _are_pipelines, many=True, convert=_pipelines)


def numbers(value: Any) -> Any:
    """YAML takes ``1e-3`` for a string; it is a number here."""
    if isinstance(value, dict):
        return {key: numbers(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [numbers(entry) for entry in value]
    return float(value) if isinstance(value, str) and _SCIENTIFIC.fullmatch(value) else value

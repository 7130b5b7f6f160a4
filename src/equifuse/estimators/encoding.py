"""Frames with columns that are no numbers as frames of numbers, the same in ``fit`` and in ``predict``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from equifuse.data.columns import Column, describe_columns, names_of
from equifuse.data.columns import Columns as Schema
from equifuse.data.frames import is_mapping, is_pandas
from equifuse.data.options import matching
from equifuse.errors import InputError
from equifuse.extras import require

_NUMBERS = ("number", "boolean")


def schema_of(X: Any, modalities: Any, kinds: Mapping[str, str]) -> tuple[dict[str, Schema], Any]:
    """What the columns of frames hold, for modalities with columns that are no numbers; and the columns of each
    modality in the frame that :func:`encoded` makes.

    Args:
        X: a mapping with frames, or a frame; what is neither has numbers only.
        modalities: modality name -> columns of a frame.
        kinds: pattern of columns -> kind, of those that are something else than they look like.

    Raises:
        UnknownNameError: an unknown kind.
        InputError: kinds for what is no frame.
    """
    if is_mapping(X):
        found = {m: describe_columns(x, kinds) for m, x in X.items() if is_pandas(x) and _has_others(x, kinds)}
        return {m: columns for m, columns in found.items() if not _all_numbers(columns)}, modalities
    if not is_pandas(X):
        if kinds:
            raise InputError("kinds are for the columns of data frames; X has none")
        return {}, modalities
    if not isinstance(modalities, Mapping) or not all(isinstance(name, str) for name in X.columns):
        return {}, modalities
    names = list(X.columns)
    wanted = {m: _named(columns, names) for m, columns in modalities.items()}
    if any(name not in names for some in wanted.values() for name in some) or len(set(names)) < len(names):
        return {}, modalities  # what is not there, or there twice, is named where columns are looked for
    used = [name for name in names if any(name in some for some in wanted.values())]
    if not _has_others(X[used], kinds):
        return {}, modalities
    known = dict(zip(used, describe_columns(X[used], kinds), strict=True))
    found = {m: tuple(known[name] for name in some) for m, some in wanted.items()}
    schema = {m: columns for m, columns in found.items() if not _all_numbers(columns)}
    return schema, {m: list(names_of(found[m])) if m in schema else some for m, some in wanted.items()}


def encoded(X: Any, schema: Mapping[str, Schema]) -> Any:
    """Frames with the columns of a schema as numbers: in the place of each column those that it is made of.

    Raises:
        DataError: a cell is not what its column holds.
    """
    if not schema:
        return X
    if is_mapping(X):
        own = {m: {column.name: column for column in columns} for m, columns in schema.items()}
        return {m: _frame(x, own[m], f"modality {m!r}") if m in own and is_pandas(x) else x for m, x in X.items()}
    if is_pandas(X):
        return _frame(X, {column.name: column for columns in schema.values() for column in columns}, "X")
    raise InputError("the estimator was fitted with columns that are no numbers; pass a data frame of them")


def _frame(frame: Any, known: Mapping[str, Column], where: str) -> Any:
    pd = require("train", "pandas", "a frame")
    parts = []
    for place, name in enumerate(frame.columns):
        column = known.get(name)
        if column is None or column.kind in _NUMBERS:
            parts.append(frame.iloc[:, [place]])
            continue
        values = column.numbers(frame.iloc[:, place], where).astype(np.float64)
        parts.append(pd.DataFrame(values, index=frame.index, columns=list(column.names)))
    return pd.concat(parts, axis=1) if parts else frame


def _named(columns: Any, names: Sequence[str]) -> list[str]:
    """The names of a modality's columns."""
    if isinstance(columns, str):
        return matching(names, columns, "X")
    if isinstance(columns, slice):
        return list(names[columns])
    return [c if isinstance(c, str) else names[int(c)] for c in columns]


def _has_others(frame: Any, kinds: Mapping[str, str]) -> bool:
    """Whether a frame may have columns that are no numbers: a look at their types, not at their values."""
    return bool(kinds) or any(getattr(dtype, "kind", "O") not in "biuf" for dtype in frame.dtypes)


def _all_numbers(columns: Schema) -> bool:
    return all(column.kind in _NUMBERS for column in columns)

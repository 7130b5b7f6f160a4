"""A modality in a file of its own: which file, how it is read, and its rows joined by the ids of the main table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equifuse.data.columns import (
    Columns,
    check_ids,
    describe_columns,
    encode_columns,
    encode_table,
    only_numbers,
)
from equifuse.data.ids import IdPattern, check_overlap, id_texts, rows_by_id
from equifuse.data.lazy import Features, NpyArray, as_numbers, is_numeric, loaded_if_small
from equifuse.data.options import ALL, NONE, SEPARATORS, SourceOptions, matching, target_columns
from equifuse.data.sources import SourceFile
from equifuse.data.tables import (
    SUFFIXES,
    WORKBOOKS,
    Reading,
    Table,
    container,
    is_table,
    not_understood,
    read_table,
    sheets_of,
    some,
    suffix_of,
    transposed,
)
from equifuse.errors import DataError
from equifuse.registry import TASKS

USUAL_ID = "id"
USUAL_TARGETS = ("label", "target", "y", "class")
_ARRAYS = (".npy", ".npz")


def reading_of(options: SourceOptions, path: Path) -> Reading:
    """How the options say that a table is to be read."""
    targets = target_columns(options.target, (), TASKS.names())
    exact = (USUAL_ID, options.id or USUAL_ID, *targets, *USUAL_TARGETS, *options.guiding())
    sheet = options.sheet if suffix_of(path) in WORKBOOKS else None
    separator = SEPARATORS.get(options.separator or "", options.separator)
    return Reading(sheet, options.encoding, separator, options.na, exact)


@dataclass(frozen=True)
class JoinedFile:
    """The file of a modality.

    Attributes:
        path: of the file.
        columns: pattern of those that are features; None for all.
        sheet: of a workbook; None for the first.
    """

    path: Path
    columns: str | None = None
    sheet: str | None = None


def joined_file(table: Table, pattern: str) -> JoinedFile | None:
    """The file that a modality's pattern names; None if it names columns of the table.

    Raises:
        DataError: it is a file that is no table, or it looks like one that does not exist.
    """
    name, *more = pattern.split("::")
    if not more and name in table.column_names:
        return None
    for candidate in (Path(name), table.path.parent / name):
        if candidate.is_file():
            return _as_asked(candidate, more)
        if candidate.is_dir():
            raise DataError(container(candidate))
    path = Path(name)
    if more or path.suffix in _ARRAYS or is_table(path) or len(path.parts) > 1:
        raise DataError(f"no such file: {name}")
    return None


def _as_asked(path: Path, more: Sequence[str]) -> JoinedFile:
    if not is_table(path) and path.suffix not in _ARRAYS:
        raise DataError(
            container(path)
            or f"{path} is a file of unknown kind {path.suffix!r}; a modality is read from "
            f"{', '.join((*SUFFIXES, *_ARRAYS))}"
        )
    if suffix_of(path) in WORKBOOKS and more and (len(more) > 1 or more[0] in sheets_of(path)):
        return JoinedFile(path, more[1] if len(more) > 1 else None, more[0])
    return JoinedFile(path, more[0] if more and more[0] else None)


def join(
    file: JoinedFile,
    id_column: str,
    ids: Sequence[str],
    options: SourceOptions,
    names: tuple[str, ...] = (),
    schema: Columns | None = None,
    *,
    modality: str = "",
) -> tuple[Features, tuple[str, ...], SourceFile]:
    """The rows of another file for these ids, NaN where it has none; the names of its features; what was understood.

    Args:
        file: the file.
        id_column: what the ids are called in the main table.
        ids: those of the main table.
        options: how the file is read.
        names: of the features that are needed, in order; default all, or those that the file's pattern names.
        schema: what these hold; None for numbers.
        modality: that the file is of, by which the options may name it.

    Raises:
        DataError: the file is damaged, lacks a feature, or its ids do not fit.
    """
    if file.path.suffix in _ARRAYS:
        return _join_arrays(file, id_column, ids, options)
    table = read_table(file.path, replace(reading_of(options, file.path), sheet=file.sheet))
    return join_table(table, file.columns, id_column, ids, options, names, schema, modality=modality)


def join_table(
    table: Table,
    columns: str | None,
    id_column: str,
    ids: Sequence[str],
    options: SourceOptions,
    names: tuple[str, ...] = (),
    schema: Columns | None = None,
    *,
    modality: str = "",
) -> tuple[Features, tuple[str, ...], SourceFile]:
    """:func:`join` of a table that was read; ``columns`` is the pattern of those that are features."""
    where = str(table.path)
    table, key = _keyed(table, id_column, ids, options, modality)
    texts = id_texts(table.column(key), f"{where}: the id {key!r}", table.line)
    known = IdPattern(options.id_pattern or "").of(texts, where)
    free = [c for c in table.column_names if c != key]
    lacking = [name for name in names if name not in free]
    if lacking:
        raise DataError(f"{where} has no column {lacking[0]!r}, which the model was trained on; it has {some(free)}")
    if names:
        found, holds = known_values(table, names, where, schema), schema or ()
    else:
        names = tuple(matching(free, columns, where) if columns else free)
        found, holds = modality_values(table, names, options.kinds)
    if options.duplicates == "mean":
        refuse_means(table.path, bool(holds))
    values, fit = rows_by_id(found, known, ids, where, duplicates=options.duplicates or "error", line=table.line)
    called = f"column {key!r}" if key else "the first column, which has no name"
    facts = table.facts if key == id_column else (*table.facts, f"ids in {called}")
    return values, names, SourceFile(where, table.num_rows, len(names), facts, ids=fit, schema=holds)


def _keyed(
    table: Table, id_column: str, ids: Sequence[str], options: SourceOptions, modality: str
) -> tuple[Table, str]:
    """A table with a column of ids, turned if its columns are the ids; and what that column is called.

    Raises:
        DataError: nothing in it names its rows.
    """
    if ALL in options.transpose or options.turns(table.path, modality):
        return transposed(table, id_column), id_column
    wanted, pattern = set(ids), IdPattern(options.id_pattern or "")

    def share(texts: Sequence[str]) -> float:
        found = [text for text in pattern.found([str(text) for text in texts]) if text is not None]
        return len(wanted.intersection(found)) / max(1, min(len(wanted), len(set(texts))))

    first = table.column_names[0]
    own = first if id_column not in table.column_names else id_column
    by_rows = share([str(v) for v in table.column(own).to_pylist()])
    if NONE not in options.transpose and share(table.column_names[1:]) > max(0.5, by_rows):
        return transposed(table, id_column), id_column
    if id_column in table.column_names:
        return table, id_column
    if first == "" or by_rows:
        return table, first
    texts = [str(v) for v in table.column(first).to_pylist()]
    check_overlap(ids, texts, f"{table.path}, column {first!r},")
    raise DataError(f"{table.path} has no column {id_column!r} to join on; it has {some(table.column_names)}")


def _join_arrays(
    file: JoinedFile, id_column: str, ids: Sequence[str], options: SourceOptions
) -> tuple[Features, tuple[str, ...], SourceFile]:
    found, known, names = keyed_arrays(file.path, file.columns, id_column)
    source = SourceFile(str(file.path), len(found), int(np.prod(found.shape[1:])))
    if known is None:
        if len(found) != len(ids):
            raise DataError(f"{file.path} has {len(found)} rows and no ids; the table has {len(ids)} rows")
        return found, names, replace(source, facts=("no ids: rows in the order of the table",))
    known = IdPattern(options.id_pattern or "").of(known, str(file.path))
    values, fit = rows_by_id(found, known, ids, str(file.path), duplicates=options.duplicates or "error")
    return values, names, replace(source, ids=fit)


def keyed_features(
    path: Path, pattern: str | None, id_column: str
) -> tuple[Features, list[str] | None, tuple[str, ...]]:
    """Features of a file, the ids of its rows if it has any, and the names of the features.

    Raises:
        DataError: the file is damaged, or its columns are not numbers.
    """
    if path.suffix in _ARRAYS:
        return keyed_arrays(path, pattern, id_column)
    table = read_table(path)
    if id_column not in table.column_names:
        raise DataError(f"{path} has no column {id_column!r} to join on; it has {some(table.column_names)}")
    free = [c for c in table.column_names if c != id_column]
    names = tuple(matching(free, pattern, str(path)) if pattern else free)
    values, schema = modality_values(table, names)
    if schema:
        raise DataError(f"{path}: column {next(c.name for c in schema if c.kind != 'number')!r} is not numeric")
    return values, id_texts(table.column(id_column), f"{path}: {id_column!r}", table.line), names


def keyed_arrays(path: Path, key: str | None, id_column: str) -> tuple[Features, list[str] | None, tuple[str, ...]]:
    """:func:`keyed_features` of NumPy's files."""
    if path.suffix == ".npy":
        return loaded_if_small(NpyArray(path)), None, ()
    from equifuse.data.formats.npz import read_arrays  # noqa: PLC0415

    arrays = read_arrays(path)
    key = key or next((k for k in ("features", "x", "X", path.stem) if k in arrays), None)
    if key is None or key not in arrays or arrays[key].dtype.kind not in "fiub":
        raise DataError(f"{path} has {', '.join(arrays)}; expected numbers under 'features' (or name the key)")
    known = next((arrays[k] for k in (id_column, "ids", "sample_ids") if k in arrays), None)
    values = arrays[key].astype(np.float32)
    values = values.reshape(len(values), *(values.shape[1:] or (1,)))
    return values, None if known is None else [str(k) for k in known], ()


def modality_values(
    table: Table, names: tuple[str, ...], kinds: Mapping[str, str] | None = None
) -> tuple[Features, Columns]:
    """The columns of a modality as numbers, and what they hold where that is not only numbers.

    Args:
        table: the table.
        names: of the columns.
        kinds: pattern of names -> kind, of columns that are something else than they look like.

    Raises:
        DataError: a column of numbers in a way that is not understood, or one of nothing but different texts.
        UnknownNameError: an unknown kind.
    """
    asked = {name for name in names if any(fnmatchcase(name, pattern) for pattern in kinds or {})}
    table.check(*names)
    others = [name for name in names if not is_numeric(table.schema.field(name).type)]
    for name in others:
        said = "" if name in asked else not_understood(table, name)
        if said:
            raise DataError(said)
    if not others and not asked:
        return table.numbers(names), ()
    frame = table.frame(names)
    columns = describe_columns(frame, kinds)
    check_ids([column for column in columns if column.name not in asked], len(frame), str(table.path))
    values = encode_columns(frame, columns, str(table.path))
    return values, () if only_numbers(columns) else columns


def known_values(table: Table, names: tuple[str, ...], m: str, schema: Columns | None) -> Features:
    """The columns of a modality as numbers, as a model was trained on them.

    Args:
        table: the table.
        names: of the columns.
        m: name of the modality.
        schema: what the columns hold; None for numbers.

    Raises:
        DataError: they hold something else.
    """
    if schema is not None:
        return encode_table(m, table, names, schema, str(table.path))
    values, found = modality_values(table, names)
    odd = next((column for column in found if column.kind not in ("number", "boolean")), None)
    if odd is not None:
        raise DataError(f"{table.path}: column {odd.name!r} of modality {m!r} is not numeric")
    return values


def column_values(table: Any, names: Sequence[str]) -> NDArray[np.generic]:
    """Columns ``(n, K)``: numbers with NaN where empty, or text."""
    columns = []
    for name in names:
        column = table.column(name)
        kind = column.type
        if is_numeric(kind):
            columns.append(as_numbers(column))
        else:
            columns.append(np.array([None if v is None else str(v) for v in column.to_pylist()], dtype=object))
    if any(c.dtype.kind == "O" for c in columns):
        columns = [c.astype(object) for c in columns]
    return np.stack(columns, axis=1)


def refuse_means(path: Path, others: bool) -> None:
    """Refuse means of rows with columns that are no numbers.

    Raises:
        DataError: there are some.
    """
    if others:
        raise DataError(f"{path} has columns that are no numbers and have no mean; pass --duplicates first")

"""Rows for a trained model, with targets if there are some: of any data set, all of its rows, nothing of training."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from equifuse.data.apart import read_apart
from equifuse.data.assemble import without_target
from equifuse.data.catalog import load
from equifuse.data.columns import Columns, recoded
from equifuse.data.contents import Content
from equifuse.data.dataset import Split
from equifuse.data.formats.base import chosen_format
from equifuse.data.formats.joining import USUAL_ID, USUAL_TARGETS, column_values, join, joined_file, known_values
from equifuse.data.formats.table import extra_columns, main_table, one_row_each, said_of_merged
from equifuse.data.ids import IdPattern, id_texts
from equifuse.data.inputs import input_columns, read_inputs, split_of
from equifuse.data.lazy import in_memory
from equifuse.data.options import ALL, MAIN, NONE, SourceOptions, matching, target_columns
from equifuse.data.raw import Raw, raw_column, raw_pattern
from equifuse.data.tables import WORKBOOKS, Table, is_table, some, suffix_of
from equifuse.errors import DataError, InputError, UnknownNameError
from equifuse.registry import RAW_COLUMNS, TASKS


@dataclass(frozen=True)
class Wanted:
    """What a trained model needs of rows.

    Attributes:
        shapes: modality name -> shape of a row.
        features: modality name -> names of the columns it was trained on, where they are known.
        task: name of the task.
        classes: names of classes or targets, or None.
        target: columns of the target in training.
        id: column of the ids in training.
        reading: options of training that say how files are read, see :meth:`SourceOptions.reading`.
        schema: modality name -> what its columns hold, where they are not all numbers.
        contents: modality name -> what its numbers stand for, where they are no measurements.
    """

    shapes: Mapping[str, tuple[int, ...]]
    features: Mapping[str, Sequence[str]] = field(default_factory=dict)
    task: str = ""
    classes: tuple[str, ...] | None = None
    target: Sequence[str] = ()
    id: str | None = None
    schema: Mapping[str, Columns] = field(default_factory=dict)
    reading: Mapping[str, Any] = field(default_factory=dict)
    contents: Mapping[str, Content] = field(default_factory=dict)


@dataclass(frozen=True)
class Rows:
    """Rows as :func:`read_rows` gives them.

    Attributes:
        split: the rows; ``columns`` are those that were asked to be kept.
        notes: what was understood, and what was left out, in words.
    """

    split: Split
    notes: list[str]


def read_rows(
    path: str | os.PathLike[str],
    wanted: Wanted,
    options: SourceOptions | None = None,
    *,
    labelled: bool = False,
    split: str | None = None,
) -> Rows:
    """All rows of a data set for a trained model.

    Of a table, the columns of a modality are found by the names of training; ``options.modalities`` names another file
    for a modality, joined by the id, or other columns. A modality that is nowhere counts as missing. Other data sets
    are read as they are in training, and their parts joined.

    Example:
        >>> from equifuse.data.external import Wanted, read_rows
        >>> with open("new.csv", "w", encoding="utf-8") as file:
        ...     _ = file.write("id,a:x,label" + chr(10) + "p1,0.5,yes" + chr(10) + "p2,1.5," + chr(10))
        >>> wanted = Wanted({"a": (1,), "b": (2,)}, {"a": ("a:x",)}, "classification", ("no", "yes"))
        >>> found = read_rows("new.csv", wanted, labelled=True)
        >>> found.split.target.tolist(), found.notes[1:]
        ([1], ["modality 'b' is nowhere in new.csv: it counts as missing", '1 of 2 rows has no target and is left out'])

    Args:
        path: name or path of a data set, or of a table.
        wanted: what the model needs.
        options: which columns and files are what; those of :class:`SourceOptions`.
        labelled: whether targets are needed; rows without one are left out.
        split: take this part alone, as it is in training; None for all rows.

    Raises:
        DataError: the data do not fit the model, or have no targets.
        InputError: an option is missing or does not fit.
        UnknownNameError: an unknown modality, part, data set, or class.
    """
    options = options or SourceOptions()
    if options.untrusted:
        found = read_apart("read_rows", path, wanted=wanted, options=options, labelled=labelled, split=split)
        assert isinstance(found, Rows)
        return found
    for m in options.modalities:
        if m not in wanted.shapes:
            raise UnknownNameError("modality", m, wanted.shapes)
    file = Path(path)
    options = read_alike(file, wanted.reading, options)
    if file.is_dir() or (file.exists() and wanted.contents and not is_table(file)):
        known = chosen_format(file, options)
        rows = known.rows(file, wanted, options, labelled=labelled, split=split)
        if rows is not None:
            return rows
    if split is not None or not file.exists() or file.is_dir():
        return _of_data_set(str(path), wanted, options, labelled, split)
    if is_table(file):
        return _of_table(file, wanted, options, labelled)
    if labelled:
        return _of_data_set(str(path), wanted, options, labelled, split)
    options.refuse(f"{path}")
    return Rows(read_inputs(path, wanted.shapes, wanted.features, wanted.schema), [])


def read_alike(path: Path, reading: Mapping[str, Any], options: SourceOptions) -> SourceOptions:
    """The options, and those of training where nothing is said about how a file is read.

    Args:
        path: of the new data.
        reading: of training, see :meth:`SourceOptions.reading`.
        options: of the new data.
    """
    if not (is_table(path) or path.is_dir() or reading.get("format") or reading.get("format_options")):
        return options
    given, known = options.given(), dict(reading)
    if suffix_of(path) not in WORKBOOKS:
        known.pop("sheet", None)
    # Files of training that are not among these: their modalities are columns of the table, or nowhere.
    turned = [e for e in known.get("transpose", ()) if e in (ALL, NONE, MAIN) or e in options.modalities]
    known = {**known, "transpose": turned, "kinds": {**known.get("kinds", {}), **given.pop("kinds", {})}}
    return SourceOptions.of({**known, **given})


def _of_data_set(path: str, wanted: Wanted, options: SourceOptions, labelled: bool, split: str | None) -> Rows:
    """All parts of a data set, or one, in the order train, validation, test."""
    dataset = load(path, source=options)
    if split is not None and split not in dataset.splits:
        raise UnknownNameError("split", split, dataset.splits)
    if dataset.task != wanted.task:
        raise DataError(f"data set {dataset.name!r} is for {dataset.task}, the model was built for {wanted.task}")
    parts = list(dataset.splits.values()) if split is None else [dataset.splits[split]]
    whole = parts[0].joined(*parts[1:]) if len(parts) > 1 else parts[0]
    unknown = [m for m in whole.inputs if m not in wanted.shapes]
    if unknown:
        raise UnknownNameError("modality", unknown[0], wanted.shapes)
    inputs = {
        m: recoded(x, dataset.schema.get(m, ()), wanted.schema.get(m, ()), f"{path}: modality {m!r}")
        for m, x in whole.inputs.items()
    }
    whole = replace(whole, inputs=inputs)
    if whole.target is not None:
        kind = TASKS.get(wanted.task).targets
        whole = replace(whole, target=kind.recoded(whole.target, dataset.classes, wanted.classes, dataset.name))
    elif labelled and not TASKS.get(wanted.task).targets.optional:
        raise DataError(f"data set {dataset.name!r} has no targets")
    return Rows(whole, [] if split else [f"all {len(whole)} rows of {path} are measured, whatever part they are in"])


def _of_table(path: Path, wanted: Wanted, options: SourceOptions, labelled: bool) -> Rows:
    options = replace(options, id=options.id or wanted.id)
    table = main_table(path, replace(options, target=options.target or tuple(wanted.target)))
    id_column = _id_column(table, options, wanted)
    ids = None
    if id_column is not None:
        texts = id_texts(table.column(id_column), f"{path}: the id {id_column!r}", table.line)
        ids = IdPattern(options.id_pattern or "").of(texts, str(path))
    flat, lengths, notes = _values(table, wanted, options, id_column, ids)
    if not flat:
        trained_on = "; ".join(f"{m}: {some(list(f))}" for m, f in wanted.features.items() if f)
        raise DataError(
            f"{path} has none of the model's modalities, {', '.join(wanted.shapes)}; name a file: --modality m=FILE"
            + f" (columns in training: {trained_on})" * bool(trained_on)
        )
    split = split_of(flat, None if ids is None else np.asarray(ids), lengths, wanted.shapes, str(path))
    split = replace(split, columns=extra_columns(path, table, options))
    if labelled:
        split, said = _labelled(split, table, path, wanted, options)
        if split.ids is not None and options.duplicates in ("first", "mean"):
            split, _, merged = one_row_each(split, {}, table, options.duplicates)
            said += [said_of_merged(merged)] if merged else []
        notes = [f"all {len(split)} rows of {path} that have a target are measured", *notes, *said]
    return Rows(split, notes)


def _values(
    table: Table, wanted: Wanted, options: SourceOptions, id_column: str | None, ids: list[str] | None
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """The values of each modality that the table or another file has, lengths of sequences, and what was understood."""
    flat: dict[str, Any] = {}
    lengths: dict[str, Any] = {}
    notes: list[str] = []
    for m, shape in wanted.shapes.items():
        trained, pattern = tuple(wanted.features.get(m, ())), options.modalities.get(m)
        if m in wanted.contents:
            read = _raw(table, m, wanted, options)
            if read is not None:
                flat[m] = in_memory(read.features)
                lengths |= {} if read.lengths is None else {m: read.lengths}
        elif pattern is not None and (file := joined_file(table, pattern)) is not None:
            if ids is None or id_column is None:
                raise InputError(f"modality {m!r} comes from {file.path}: pass the id column that both have")
            flat[m], _, source = join(file, id_column, ids, options, trained, wanted.schema.get(m), modality=m)
            notes.append(str(replace(source, modality=m)))
        elif names := _columns_of(table, m, shape, wanted, pattern, id_column):
            flat[m] = known_values(table, names, m, wanted.schema.get(m))
        if m not in flat:
            notes.append(f"modality {m!r} is nowhere in {table.path}: it counts as missing")
    return flat, lengths, notes


def _columns_of(
    table: Table, m: str, shape: tuple[int, ...], wanted: Wanted, pattern: str | None, id_column: str | None
) -> tuple[str, ...]:
    """The columns of the table that hold a modality; none where it is nowhere."""
    trained = tuple(wanted.features.get(m, ()))
    if pattern is None:
        return input_columns(table.schema, {m: shape}, {m: trained}, str(table.path), wanted.schema).get(m, ())
    named = matching([c for c in table.column_names if c != id_column], pattern, str(table.path))
    return trained if trained and set(trained) <= set(named) else tuple(named)


def _raw(table: Table, m: str, wanted: Wanted, options: SourceOptions) -> Raw | None:
    """A modality that is read raw, as the model was trained on it; None where the table has no such column."""
    content, pattern = wanted.contents[m], options.modalities.get(m)
    found = None if pattern is None else raw_pattern(pattern, table.column_names)
    if found is None:
        kind = next((name for name in RAW_COLUMNS.names() if isinstance(content, RAW_COLUMNS.get(name).contents)), None)
        column = next(iter(wanted.features.get(m, ())), m) if pattern is None else pattern
        if kind is None or column not in table.column_names:
            return None
        found = RAW_COLUMNS.get(kind)(), column
    return raw_column(table, m, *found, content, {"shape": wanted.shapes.get(m)})


def _id_column(table: Table, options: SourceOptions, wanted: Wanted) -> str | None:
    """The column of ids: the one that is named, the one of training, or the usual one."""
    columns = table.column_names
    if options.id is not None and options.id in columns:
        return options.id
    if options.id is not None and options.id != wanted.id:
        raise DataError(f"{table.path} has no column {options.id!r}; it has {some(columns)}")
    return next((name for name in (USUAL_ID, "") if name in columns), None)


def _labelled(split: Split, table: Any, path: Path, wanted: Wanted, options: SourceOptions) -> tuple[Split, list[str]]:
    """The rows that have a target, and how many have none."""
    kind = TASKS.get(wanted.task).targets
    columns = list(table.column_names)
    usual = [c for c in USUAL_TARGETS if c in columns][:1]
    trained = target_columns(wanted.target, columns, TASKS.names())
    asked = list(options.target) or (list(wanted.target) if set(trained) <= set(columns) else [])
    targets = target_columns(asked, columns, TASKS.names()) or usual
    if not targets:
        if kind.optional:
            return split, []
        before = f"; in training it was {', '.join(wanted.target)}" if wanted.target else ""
        raise InputError(f"{path}: which column is the target? Pass --target{before}; it has {some(columns)}")
    lacking = [c for c in targets if c not in columns]
    if lacking:
        raise DataError(f"{path} has no target column {lacking[0]!r}; it has {some(columns)}")
    values = column_values(table, targets)
    there = ~without_target(values, kind.mixes)
    if not there.any():
        raise DataError(f"{path}: no row has a target in {', '.join(targets)}")
    rows = np.flatnonzero(there)
    codes, names = kind.encode(values[rows], kind.asked(asked or targets, wanted.classes), wanted.task)
    target = kind.recoded(codes, names, wanted.classes, str(path))
    lost = len(there) - len(rows)
    said = f"{lost} of {len(there)} rows {'has' if lost == 1 else 'have'} no target and {'is' if lost == 1 else 'are'}"
    return replace(split.select(rows), target=target), [f"{said} left out"] if lost else []

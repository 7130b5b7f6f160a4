"""Tables of one's own: a group of columns per modality, or a file per modality joined on an id.

The columns of modality ``mrna`` are those that a pattern names (``mrna='g_*'``), or, without patterns, those that start
with ``mrna:``. A modality may also be in a file of its own, a table of any kind (:mod:`equifuse.data.tables`), ``.npy``
or ``.npz``, joined on the id. A row in which a modality is entirely empty does not have it, and neither does one whose
id its file does not know. A file whose columns are the ids, and whose rows are features, is turned.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from equifuse.data.assemble import (
    are_recognized,
    assemble,
    encode_target,
    mixing_task,
    needs_target,
    part_rows,
    usual_targets,
    with_presence,
    with_unlabelled,
    without_target,
)
from equifuse.data.columns import (
    Columns,
    check_kinds,
)
from equifuse.data.contents import Content, with_words_of_training
from equifuse.data.dataset import Array, MultimodalDataset, Split
from equifuse.data.formats.base import Format
from equifuse.data.formats.joining import (
    USUAL_ID,
    USUAL_TARGETS,
    JoinedFile,
    column_values,
    join,
    join_table,
    joined_file,
    modality_values,
    reading_of,
    refuse_means,
)
from equifuse.data.ids import IdPattern, groups_of, id_texts, means, said_of_duplicates
from equifuse.data.lazy import Features, as_numbers, is_numeric
from equifuse.data.media import sound_of
from equifuse.data.options import ALL, MAIN, NONE, SourceOptions, matching, target_columns
from equifuse.data.raw import raw_column, raw_pattern
from equifuse.data.sources import SourceFile
from equifuse.data.tables import (
    DESCRIPTION,
    WORKBOOKS,
    Table,
    give_back_memory,
    is_table,
    read_table,
    some,
    suffix_of,
    transposed,
)
from equifuse.errors import DataError, InputError
from equifuse.registry import FORMATS, RAW_COLUMNS, TASKS

# The column that says which rows have no target, while a data set is made.
_EMPTY = "without a target"
_USUAL_SPLIT = "split"
# Pixels of a picture's side.
_LEAST_SIZE = 8


@FORMATS.register
class TableFormat(Format):
    """Tables, and files that are joined to them.

    Args:
        image_size: width and height to which pictures of a column of paths are brought; default 64, or what
            the pretrained encoder wants that they are read for. Of frames of films; default 112.
        frames: of each film of a column of paths; default 4.
        sound: the spectrogram of sounds of a column of paths, a name of :data:`equifuse.data.media.SOUNDS`;
            default ``"vggsound"``.

    Raises:
        InputError: an option is out of range.
        UnknownNameError: no such spectrogram.
    """

    name: ClassVar[str] = "table"
    description: ClassVar[str] = DESCRIPTION

    def __init__(self, image_size: int | None = None, frames: int = 4, sound: str = "vggsound") -> None:
        whole = isinstance(image_size, int) and not isinstance(image_size, bool)
        if image_size is not None and (not whole or image_size < _LEAST_SIZE):
            raise InputError(f"image_size must be a whole number of at least {_LEAST_SIZE}, got {image_size!r}")
        if not isinstance(frames, int) or isinstance(frames, bool) or frames < 1:
            raise InputError(f"frames must be a whole number of at least 1, got {frames!r}")
        sound_of(sound)
        self.settings = {"image_size": image_size, "frames": frames, "sound": sound}

    def detect(self, path: Path) -> bool:
        """A table of any kind, by its name."""
        return is_table(path)

    def read(self, path: Path, options: SourceOptions, *, val_fraction: float, seed: int) -> MultimodalDataset:
        """Read a table, and what is joined to it.

        Raises:
            DataError: a file or column is missing or malformed, or ids do not fit.
            InputError: modalities or target are not named and cannot be guessed.
        """
        table = main_table(path, options)
        return dataset_of(path.stem, table, {}, options, val_fraction=val_fraction, seed=seed, settings=self.settings)


def dataset_of(
    name: str,
    table: Table,
    others: Mapping[str, Table],
    options: SourceOptions,
    *,
    val_fraction: float,
    seed: int,
    settings: Mapping[str, Any] | None = None,
) -> MultimodalDataset:
    """A data set of a table, and of what is joined to it.

    Args:
        name: of the data set.
        table: has the target.
        others: modality -> table of its own, beside those whose files the options name.
        options: which columns of the table are what.
        val_fraction: see :meth:`TableFormat.read`.
        seed: likewise.
        settings: of columns that are read raw, such as ``image_size``.

    Raises:
        DataError: a file or column is missing or malformed, or ids do not fit.
        InputError: modalities or target are not named and cannot be guessed.
    """
    roles = _roles(table, options)
    raw = {m: found for m, p in options.modalities.items() if (found := raw_pattern(p, roles.free)) is not None}
    _check_encoders(options, raw)
    files = _joined_files(table, {m: p for m, p in options.modalities.items() if m not in raw}, roles)
    groups = dict(options.modalities)
    prefixed = {} if groups else _prefixes(roles.free)
    groups |= dict.fromkeys(prefixed, "")
    if not groups and not others:
        raise InputError(
            f"{table.path}: which columns are which modality? Pass modalities such as mrna='g_*'; it has "
            f"{some(roles.free)}"
        )
    inputs: dict[str, Features] = {}
    features: dict[str, tuple[str, ...]] = {}
    schema: dict[str, Columns] = {}
    sources = [SourceFile(str(table.path), table.num_rows, len(table.column_names), table.facts)]
    contents: dict[str, Content] = {}
    lengths: dict[str, NDArray[np.int64]] = {}
    for m, pattern in groups.items():
        file = files.get(m)
        if m in raw:
            kind, column = raw[m]
            read = raw_column(table, m, kind, column, None, {**(settings or {}), "encoder": options.encoders.get(m)})
            inputs[m], contents[m], features[m] = read.features, read.content, (column,)
            lengths |= {} if read.lengths is None else {m: read.lengths}
        elif file is None:
            names = tuple(prefixed[m] if prefixed else matching(roles.free, pattern, str(table.path)))
            features[m] = names
            inputs[m], schema[m] = modality_values(table, names, options.kinds)
        else:
            assert roles.ids is not None
            inputs[m], features[m], source = join(
                file, USUAL_ID if roles.id_column is None else roles.id_column, roles.ids, options, modality=m
            )
            schema[m] = source.schema
            sources.append(replace(source, modality=m))
    for m, other in others.items():
        inputs[m], features[m], source = _beside(m, other, table, roles, options)
        schema[m] = source.schema
        sources.append(replace(source, modality=m))
    target, task, classes, empty = _target_values(table, roles, options)
    whole = with_presence(inputs, target, None if roles.ids is None else np.asarray(roles.ids), lengths)
    whole = replace(whole, columns={**extra_columns(table.path, table, options), _EMPTY: empty})
    parts: dict[str, Any] = {}
    if roles.split is not None:
        parts = part_rows(table.column(roles.split).to_pylist(), f"{table.path}: {roles.split!r}")
    if roles.ids is not None and options.group != roles.id_column:
        if options.duplicates == "mean":
            refuse_means(table.path, any(schema.values()) or bool(contents))
        whole, parts, merged = one_row_each(whole, parts, table, options.duplicates or "error")
        if merged:
            said = said_of_merged(merged)
            sources[0] = replace(sources[0], facts=(*sources[0].facts, said))
    rows = len(whole)
    whole, parts, rest = _labelled(whole, parts)
    lacking = rows - len(whole)
    if lacking:
        fate = f"; {len(rest)} of them are trained on" if options.unlabelled else " and are left out"
        said = f"{lacking} of {rows} rows have no target{fate}"
        sources[0] = replace(sources[0], facts=(*sources[0].facts, said))
    path = table.path
    del table, others, inputs  # as large as what is made of them next
    give_back_memory()
    dataset = assemble(
        name,
        whole,
        task,
        parts,
        classes=classes,
        features=features,
        val_fraction=val_fraction,
        seed=seed,
        options=options,
    )
    if options.unlabelled:
        dataset = with_unlabelled(dataset, rest, options)
    check_kinds(options.kinds, [name for names in features.values() for name in names], str(path))
    known = {m: columns for m, columns in schema.items() if columns}
    return with_words_of_training(replace(dataset, sources=tuple(sources), schema=known, contents=contents))


def _check_encoders(options: SourceOptions, raw: Collection[str]) -> None:
    """Refuse an encoder to read a modality for that is no column of pictures or texts."""
    for m in options.encoders:
        if m not in raw:
            raise InputError(f"modality {m!r} is no column of pictures or texts that could be read for an encoder")


def _joined_files(table: Table, patterns: Mapping[str, str], roles: _Roles) -> dict[str, JoinedFile | None]:
    """Modality -> the file that it comes from, or None where it is of columns of the table."""
    files = {m: joined_file(table, pattern) for m, pattern in patterns.items()}
    if roles.ids is None and any(files.values()):
        m, path_of = next((m, file.path) for m, file in files.items() if file is not None)
        raise InputError(f"modality {m!r} comes from {path_of}: pass the id column that both have")
    return files


def _target_values(
    table: Table, roles: _Roles, options: SourceOptions
) -> tuple[Array | None, str, tuple[str, ...] | None, NDArray[np.bool_]]:
    """The targets, the task, the names of classes; and bool ``(n,)``, which rows have none and anything instead."""
    if not roles.targets:
        return None, options.task or "", None, np.zeros(table.num_rows, dtype=np.bool_)
    values = column_values(table, roles.targets)
    task = options.task or mixing_task(values, roles.targets, options.target)
    empty = without_target(values, task is not None and TASKS.get(task).targets.mixes)
    if len(values) and empty.all():
        raise DataError(f"{table.path}: target {', '.join(roles.targets)} is empty in all {len(values)} rows")
    found, task, classes = encode_target(values[~empty], task, roles.targets, options.target)
    target = np.zeros((len(values), *found.shape[1:]), dtype=found.dtype)
    target[~empty] = found
    return target, task, classes, empty


def _labelled(whole: Split, parts: Mapping[str, Any]) -> tuple[Split, dict[str, Any], Split]:
    """The rows that have a target, their parts, and the rows without one that may be learned from."""
    columns = dict(whole.columns)
    empty = np.asarray(columns.pop(_EMPTY), dtype=np.bool_)
    whole = replace(whole, columns=columns)
    if not empty.any():
        return whole, dict(parts), whole.select(np.zeros(0, dtype=np.intp))
    places = np.cumsum(~empty) - 1
    kept = {part: places[index[~empty[index]]] for part, index in parts.items()}
    held = [index for part, index in parts.items() if part != "train"]
    free = empty.copy()
    free[np.concatenate(held) if held else []] = False  # rows of validation and test are not learned from
    return whole.select(np.flatnonzero(~empty)), kept, whole.select(np.flatnonzero(free))


def _beside(
    m: str, other: Table, table: Table, roles: _Roles, options: SourceOptions
) -> tuple[Features, tuple[str, ...], SourceFile]:
    """A table in memory beside the main one: joined by ids, or by order where neither has any."""
    if roles.ids is not None:
        id_column = USUAL_ID if roles.id_column is None else roles.id_column
        return join_table(other, None, id_column, roles.ids, options, modality=m)
    if other.num_rows != table.num_rows or "" in other.column_names[:1]:
        raise DataError(
            f"{other.path} has {other.num_rows} rows, {table.path} has {table.num_rows} and no ids; give both an index "
            "or the column of ids that both have"
        )
    names = tuple(other.column_names)
    values, schema = modality_values(other, names, options.kinds)
    return values, names, SourceFile(str(other.path), other.num_rows, len(names), schema=schema)


@dataclass(frozen=True)
class _Roles:
    """Which column of the main table is what.

    Attributes:
        id_column: names the rows; None if nothing does.
        ids: of the rows, by the pattern.
        split: says the part.
        targets: their columns.
        free: all others.
    """

    id_column: str | None
    ids: list[str] | None
    split: str | None
    targets: list[str]
    free: list[str]


def main_table(path: Path, options: SourceOptions) -> Table:
    """The table, turned if its rows are features: where that is asked for, or where the target is the name of a row."""
    if options.sheet and suffix_of(path) not in WORKBOOKS:
        raise InputError(f"{path} is no workbook, it has no sheet {options.sheet!r}")
    table = read_table(path, reading_of(options, path))
    named = {m: p for m, p in options.modalities.items() if p.partition(":")[0] not in RAW_COLUMNS}
    joined = {m: file.path for m, pattern in named.items() if (file := joined_file(table, pattern))}
    _check_turned(path, joined, options)
    if options.turns(path) or (ALL in options.transpose and not joined):
        return transposed(table, options.id or USUAL_ID)
    if NONE in options.transpose:
        return table
    wanted = target_columns(options.target, table.column_names, TASKS.names())
    if wanted and wanted[0] not in table.column_names and table.num_rows:
        first = table.column_names[0]
        if first not in table.repeated and wanted[0] in map(str, table.column(first).to_pylist()):
            return transposed(table, options.id or USUAL_ID)
    return table


def _check_turned(path: Path, joined: Mapping[str, Path], options: SourceOptions) -> None:
    """Refuse names of files to turn that are none.

    Raises:
        InputError: naming it.
    """
    files = {MAIN: path, **joined}
    for entry in options.transpose:
        alone = replace(options, transpose=(entry,))
        if entry not in (ALL, NONE) and not any(alone.turns(file, m) for m, file in files.items()):
            known = ", ".join(f"{p.name} ({m})" for m, p in files.items())
            raise InputError(f"there is no file {entry!r} to transpose; the files are {known}")


def _roles(table: Table, options: SourceOptions) -> _Roles:
    columns, path = table.column_names, table.path
    id_column = _chosen(options.id, columns, USUAL_ID, f"{path}")
    if id_column is None and columns and columns[0] == "" and table.num_rows:
        id_column = ""  # the names of rows, which many programs write without a heading
    split_column = _chosen(options.split, columns, _USUAL_SPLIT, f"{path}")
    targets = target_columns(options.target, columns, TASKS.names()) or _targets(table, options)
    if not targets[0] and needs_target(options.task):
        raise InputError(f"{path}: which column is the target? Pass target; it has {some(columns)}")
    for column in targets:
        if column and column not in columns:
            raise DataError(f"{path} has no target column {column!r}; it has {some(columns)}")
    ids = None
    if id_column is not None:
        texts = id_texts(table.column(id_column), f"{path}: the id {id_column!r}", table.line)
        ids = IdPattern(options.id_pattern or "").of(texts, str(path))
    taken = {id_column, split_column, *targets, *options.guiding()}
    free = [c for c in columns if c not in taken]
    return _Roles(id_column, ids, split_column, [name for name in targets if name], free)


def _targets(table: Table, options: SourceOptions) -> list[str]:
    """The columns of the target where none is named; ``[""]`` for none."""
    one = next((c for c in USUAL_TARGETS if c in table.column_names), "")
    if one and options.task is None:
        return [one]
    found = usual_targets(table.column_names, options.task)
    if found and options.task is None and not are_recognized(column_values(table, found), found):
        found = []
    return found or [one]


def said_of_merged(count: int) -> str:
    """How many rows were merged."""
    return f"{count} row{'' if count == 1 else 's'} merged into others of the same id"


def one_row_each(
    whole: Split, parts: Mapping[str, Any], table: Table, duplicates: str
) -> tuple[Split, dict[str, Any], int]:
    """The rows of the main table with one for each id, their parts, and how many were merged.

    Raises:
        DataError: an id occurs twice, and nothing is said about that; or its rows have different targets or parts.
    """
    groups = groups_of(str(key) for key in whole.ids) if whole.ids is not None else {}
    if duplicates == "keep" or len(groups) == len(whole):
        return whole, dict(parts), 0
    if duplicates == "error":
        raise DataError(
            said_of_duplicates(groups, str(table.path), table.line)
            + "; pass --duplicates first or mean to make one row of them, or keep for rows that are apart"
        )
    rows = list(groups.values())
    first = np.array([group[0] for group in rows], dtype=np.intp)
    part_of = np.full(len(whole), "", dtype=object)
    for part, index in parts.items():
        part_of[index] = part
    kept = whole.select(first)
    if duplicates == "mean":
        for key, group in groups.items():
            if len(set(part_of[group])) > 1 or (whole.target is not None and _differ(whole.target[group])):
                raise DataError(
                    f"{table.path}: the rows of id {key!r} ({', '.join(map(table.line, group[:3]))}) differ in target "
                    "or part, so they have no mean; pass --duplicates first or keep"
                )
        kept = replace(
            with_presence({m: means(x, rows) for m, x in whole.inputs.items()}, kept.target, kept.ids),
            columns=kept.columns,
        )
    found = {part: np.flatnonzero(part_of[first] == part) for part in parts}
    return kept, found, len(whole) - len(rows)


def _differ(values: Array) -> bool:
    return bool((values != values[:1]).any())


def extra_columns(path: Path, table: Any, options: SourceOptions) -> dict[str, NDArray[np.generic]]:
    """The columns by which rows are split, and those that are kept: numbers, dates or text.

    Raises:
        DataError: one is not there, or one that splits the rows has no value in some.
    """
    found = {}
    for name in options.keep:
        if name not in table.column_names:
            raise DataError(f"{path} has no column {name!r} to keep; it has {some(table.column_names)}")
        column = table.column(name)
        if str(column.type).startswith(("int", "uint")) and not column.null_count:
            found[name] = np.asarray(column.to_pylist())
        elif is_numeric(column.type):
            found[name] = as_numbers(column)
        else:
            found[name] = np.asarray(["" if value is None else str(value) for value in column.to_pylist()])
    return {**found, **guide_columns(path, table, options)}


def guide_columns(path: Path, table: Any, options: SourceOptions) -> dict[str, NDArray[np.generic]]:
    """The columns by which rows are split: text, numbers or dates.

    Raises:
        DataError: one is not there, is empty in some row, or is to be an order and has none.
    """
    found = {}
    for name in options.guiding():
        if name not in table.column_names:
            raise DataError(f"{path} has no column {name!r} to split by; it has {some(table.column_names)}")
        column = table.column(name)
        if column.null_count:
            raise DataError(f"{path}: column {name!r} splits the rows, but {column.null_count} of them have none")
        if name != options.order:
            found[name] = np.asarray([str(value) for value in column.to_pylist()])
            continue
        values = np.asarray(column.to_pylist())
        try:
            found[name] = values if values.dtype.kind in "iuf" else values.astype("datetime64[us]")
        except ValueError:
            one = str(values[0])
            raise DataError(f"{path}: column {name!r} has no order: {one!r}; write dates as 2026-03-31") from None
    return found


def _chosen(asked: str | None, columns: list[str], usual: str, where: str) -> str | None:
    if asked is not None and asked not in columns:
        raise DataError(f"{where} has no column {asked!r}; it has {some(columns)}")
    return asked or (usual if usual in columns else None)


def _prefixes(columns: list[str]) -> dict[str, list[str]]:
    """What stands before ``:`` in column names, in order, and the columns of each."""
    found: dict[str, list[str]] = {}
    for c in columns:
        prefix, colon, _ = c.partition(":")
        if colon:
            found.setdefault(prefix, []).append(c)
    return found

"""Tables of one's own: CSV or Parquet with a group of columns per modality, other files joined on an id.

The columns of modality ``mrna`` are those that a pattern names (``mrna='g_*'``), or, without patterns, those that start
with ``mrna:``. A modality may also be in a file of its own, CSV, Parquet, ``.npy`` or ``.npz``, joined on the id. A row
in which a modality is entirely empty does not have it, and neither does one whose id its file does not know.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from equifuse.data.assemble import assemble, encode_target, needs_target, part_rows, rows_by_id, with_presence
from equifuse.data.dataset import MultimodalDataset
from equifuse.data.formats.base import Format
from equifuse.data.lazy import (
    Features,
    NpyArray,
    ParquetArray,
    as_numbers,
    columns_of,
    is_numeric,
    loaded_if_small,
    rows_of_groups,
)
from equifuse.data.options import SourceOptions, matching
from equifuse.errors import DataError, InputError
from equifuse.extras import require
from equifuse.files import check_fits, parse_errors
from equifuse.registry import FORMATS

SUFFIXES = (".csv", ".parquet")
_JOINED = (*SUFFIXES, ".npy", ".npz")
_USUAL_SPLIT, _USUAL_ID = "split", "id"
USUAL_TARGETS = ("label", "target", "y", "class")


def is_table(path: Path) -> bool:
    """Whether a file is CSV or Parquet, by its name."""
    return path.suffix in SUFFIXES


@FORMATS.register
class TableFormat(Format):
    """CSV and Parquet tables, and files that are joined to them."""

    name: ClassVar[str] = "table"
    description: ClassVar[str] = "CSV or Parquet table"

    def detect(self, path: Path) -> bool:
        """A CSV or Parquet file."""
        return is_table(path)

    def read(self, path: Path, options: SourceOptions, *, val_fraction: float, seed: int) -> MultimodalDataset:
        """Read a table, and what is joined to it.

        Raises:
            DataError: a file or column is missing or malformed, or ids do not fit.
            InputError: modalities or target are not named and cannot be guessed.
        """
        table = read_table(path)
        columns = list(table.column_names)
        id_column = _chosen(options.id, columns, _USUAL_ID, f"{path}")
        split_column = _chosen(options.split, columns, _USUAL_SPLIT, f"{path}")
        targets = list(options.target) or [next((c for c in USUAL_TARGETS if c in columns), "")]
        if not targets[0] and needs_target(options.task):
            raise InputError(f"{path}: which column is the target? Pass target; it has {_some(columns)}")
        for column in targets:
            if column and column not in columns:
                raise DataError(f"{path} has no target column {column!r}; it has {_some(columns)}")
        ids = None if id_column is None else np.asarray([str(v) for v in table.column(id_column).to_pylist()])
        taken = {id_column, split_column, *targets, *options.guiding()}
        free = [c for c in columns if c not in taken]
        groups = dict(options.modalities) or {m: f"{m}:*" for m in _prefixes(free)}
        if not groups:
            raise InputError(
                f"{path}: which columns are which modality? Pass modalities such as mrna='g_*'; it has {_some(free)}"
            )
        inputs: dict[str, Features] = {}
        features: dict[str, tuple[str, ...]] = {}
        for m, pattern in groups.items():
            file = joined_file(path, pattern)
            if file is None:
                names = tuple(matching(free, pattern, str(path)))
                inputs[m] = _columns(path, table, names)
                features[m] = names
            else:
                if ids is None:
                    raise InputError(f"modality {m!r} comes from {file[0]}: pass the id column that both have")
                inputs[m], features[m] = join(file[0], file[1], id_column or _USUAL_ID, ids)
        target, task, classes = None, options.task or "", None
        if targets[0]:
            target, task, classes = encode_target(column_values(table, targets), options.task, targets)
        parts = {}
        if split_column is not None:
            parts = part_rows(table.column(split_column).to_pylist(), f"{path}: {split_column!r}")
        whole = replace(with_presence(inputs, target, ids), columns=guide_columns(path, table, options))
        return assemble(
            path.stem,
            whole,
            task,
            parts,
            classes=classes,
            features=features,
            val_fraction=val_fraction,
            seed=seed,
            options=options,
        )


def guide_columns(path: Path, table: Any, options: SourceOptions) -> dict[str, NDArray[np.generic]]:
    """The columns by which rows are split: text, numbers or dates.

    Raises:
        DataError: one is not there, is empty in some row, or is to be an order and has none.
    """
    found = {}
    for name in options.guiding():
        if name not in table.column_names:
            raise DataError(f"{path} has no column {name!r} to split by; it has {_some(table.column_names)}")
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
            some = str(values[0])
            raise DataError(f"{path}: column {name!r} has no order: {some!r}; write dates as 2026-03-31") from None
    return found


def _some(columns: Sequence[str]) -> str:
    return ", ".join(columns[:8]) + (", ..." if len(columns) > 8 else "")


def _chosen(asked: str | None, columns: list[str], usual: str, where: str) -> str | None:
    if asked is not None and asked not in columns:
        raise DataError(f"{where} has no column {asked!r}; it has {_some(columns)}")
    return asked or (usual if usual in columns else None)


def _prefixes(columns: list[str]) -> list[str]:
    """What stands before ``:`` in column names, in order."""
    return list(dict.fromkeys(c.partition(":")[0] for c in columns if ":" in c))


def joined_file(table: Path, pattern: str) -> tuple[Path, str | None] | None:
    """The file, and the columns of it, that a modality's pattern names; None if it names columns of the table.

    Raises:
        DataError: it looks like a file that does not exist.
    """
    name, _, columns = pattern.partition("::")
    if Path(name).suffix not in _JOINED:
        return None
    for candidate in (Path(name), table.parent / name):
        if candidate.is_file():
            return candidate, columns or None
    raise DataError(f"no such file: {name}")


def join(path: Path, pattern: str | None, id_column: str, ids: NDArray[np.str_]) -> tuple[Features, tuple[str, ...]]:
    """The rows of another file for these ids, NaN where it has none; and the names of its features."""
    found, known, names = keyed_features(path, pattern, id_column)
    if known is None:
        if len(found) != len(ids):
            raise DataError(f"{path} has {len(found)} rows and no ids; the table has {len(ids)} rows")
        return found, names
    return rows_by_id(found, known, ids, str(path)), names


def keyed_features(
    path: Path, pattern: str | None, id_column: str
) -> tuple[Features, list[str] | None, tuple[str, ...]]:
    """Features of a file, the ids of its rows if it has any, and the names of the features.

    Raises:
        DataError: the file is damaged, or its columns are not numbers.
    """
    if path.suffix == ".npy":
        return loaded_if_small(NpyArray(path)), None, ()
    if path.suffix == ".npz":
        from equifuse.data.formats.npz import read_arrays  # noqa: PLC0415

        arrays = read_arrays(path)
        key = pattern or next((k for k in ("features", "x", "X", path.stem) if k in arrays), None)
        if key is None or key not in arrays or arrays[key].dtype.kind not in "fiub":
            raise DataError(f"{path} has {', '.join(arrays)}; expected numbers under 'features' (or name the key)")
        known = next((arrays[k] for k in (id_column, "ids", "sample_ids") if k in arrays), None)
        values = arrays[key].astype(np.float32)
        values = values.reshape(len(values), *(values.shape[1:] or (1,)))
        return values, None if known is None else [str(k) for k in known], ()
    table = read_table(path)
    if id_column not in table.column_names:
        raise DataError(f"{path} has no column {id_column!r} to join on; it has {_some(table.column_names)}")
    free = [c for c in table.column_names if c != id_column]
    names = tuple(matching(free, pattern, str(path)) if pattern else free)
    return _columns(path, table, names), [str(v) for v in table.column(id_column).to_pylist()], names


def _columns(path: Path, table: Any, names: tuple[str, ...]) -> Features:
    """Numeric columns: from the file, row group by row group, where that is Parquet and large."""
    for name in names:
        kind = table.schema.field(name).type
        if not is_numeric(kind):
            raise DataError(f"{path}: column {name!r} is not numeric ({kind})")
    if isinstance(table, _Schema):
        return loaded_if_small(ParquetArray(path, names))
    return columns_of(table, names)


class _Schema:
    """A Parquet file of which only what is asked for is read."""

    def __init__(self, path: Path) -> None:
        parquet = require("train", "pyarrow.parquet", "reading and writing tables")

        with parse_errors(path, "Parquet"):
            self._file = parquet.ParquetFile(path)
            self.schema = self._file.schema_arrow
            self.column_names = list(self.schema.names)
            self.num_rows = sum(rows_of_groups(path, self._file.metadata))
        self.path = path

    def column(self, name: str) -> Any:
        check_fits(self.path, 8 * self.num_rows)  # a page of few bytes may repeat one value any number of times
        with parse_errors(self.path, "Parquet"):
            column = _sound(self._file.read(columns=[name])).column(0)
        if len(column) != self.num_rows:
            raise DataError(f"{self.path}: column {name!r} has {len(column)} values for {self.num_rows} rows")
        return column

    def pieces(self, names: Sequence[str], rows: int) -> Iterator[Any]:
        """These columns as Arrow tables of at most ``rows`` rows."""
        pa = require("train", "pyarrow", "reading and writing tables")

        with parse_errors(self.path, "Parquet"):
            for batch in self._file.iter_batches(rows, columns=list(names)):
                yield _sound(pa.Table.from_batches([batch]))


def _sound(table: Any) -> Any:
    """The table, if its text is text and its offsets point into it: Arrow reads what it is given."""
    table.validate(full=True)
    return table


def read_table(path: Path) -> Any:
    """An Arrow table of a CSV file, or what gives the columns of a Parquet file one by one.

    Raises:
        DataError: the file is missing or damaged, or two columns have the same name.
    """
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    csv = require("train", "pyarrow.csv", "reading and writing tables")

    if path.suffix == ".parquet":
        table: Any = _Schema(path)
    else:
        with parse_errors(path, "CSV"):
            table = _sound(csv.read_csv(path))
    with parse_errors(path, "a table"):
        names = list(table.column_names)
    if len(set(names)) != len(names):
        raise DataError(f"{path}: column {next(n for n in names if names.count(n) > 1)!r} occurs more than once")
    return table


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
    if len(columns) > 1 and any(c.dtype.kind == "O" for c in columns):
        raise DataError(f"targets in several columns ({', '.join(names)}) must be numbers")
    return np.stack(columns, axis=1)

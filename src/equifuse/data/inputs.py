"""Read rows to predict for, from tables, NumPy archives or HDF5."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equifuse.data.columns import Columns, encode_table
from equifuse.data.dataset import Array, Split, check_finite, missing_rows
from equifuse.data.formats.hdf5 import SUFFIXES as HDF5_SUFFIXES
from equifuse.data.formats.hdf5 import array_of, opened
from equifuse.data.formats.npz import integers, read_arrays
from equifuse.data.lazy import Features, columns_of, is_numeric
from equifuse.data.tables import SUFFIXES as TABLE_SUFFIXES
from equifuse.data.tables import ParquetTable, is_table, read_table
from equifuse.errors import DataError

Schema = Mapping[str, Columns]
SUFFIXES = (*TABLE_SUFFIXES, ".npz", *HDF5_SUFFIXES)


def read_inputs(
    path: str | os.PathLike[str],
    shapes: Mapping[str, tuple[int, ...]],
    features: Mapping[str, Sequence[str]] | None = None,
    schema: Schema | None = None,
) -> Split:
    """Read rows to predict for.

    >>> with open("rows.csv", "w", encoding="utf-8") as file:
    ...     _ = file.write("id,text_0,text_1,image_0" + chr(10) + "s1,0.5,1.0,2.0" + chr(10))
    >>> rows = ef.datasets.read_inputs("rows.csv", {"text": (2,), "image": (1,)})
    >>> rows.inputs["text"].tolist(), rows.ids.tolist()
    ([[0.5, 1.0]], ['s1'])

    - a table of any kind (CSV, Parquet, Excel, …): the columns of modality ``mrna`` are those that the model was
      trained on, by name; or those that start with ``mrna:`` (``mrna:TP53``); or ``mrna_0``, ``mrna_1``, …. A column
      ``id``, or one without a name, is kept; others are ignored. The order in the file is the order of the features (in
      the last form the order of the numbers).
    - ``.npz``, HDF5: arrays named by modality; or a data set file, of which the test part is used.

    A row in which a modality is entirely empty (or NaN) does not have it; a modality without columns is absent
    everywhere.

    Args:
        path: the file.
        shapes: modality name -> shape of one row, as the model was built for.
        features: modality name -> names of the columns it was trained on, if they are known.
        schema: modality name -> what these columns hold, where they are not all numbers.

    Returns:
        The rows: inputs (NaN where missing), presence, and ids; without targets.

    Raises:
        DataError: the file is missing or of an unknown kind, a width does not fit, a value is not a number, or a row
            of a modality is partly empty.
    """
    path = Path(path)
    if not is_table(path) and path.suffix not in SUFFIXES:
        raise DataError(f"{path}: unknown kind of file {path.suffix!r}; expected one of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    if path.suffix in (".npz", *HDF5_SUFFIXES):
        flat, ids, lengths = _from_archive(path, shapes)
        return split_of(flat, ids, lengths, shapes, str(path))
    return inputs_of_table(read_table(path), shapes, features, str(path), schema)


def read_input_pieces(
    path: str | os.PathLike[str],
    shapes: Mapping[str, tuple[int, ...]],
    features: Mapping[str, Sequence[str]] | None = None,
    rows: int = 65_536,
    schema: Schema | None = None,
) -> Iterator[Split]:
    """:func:`read_inputs` for a file larger than memory: Parquet is read in pieces, other formats as a whole.

    >>> data = ef.datasets.load("digits")
    >>> ef.datasets.write_npz("digits.npz", data)
    >>> [len(piece) for piece in ef.datasets.read_input_pieces("digits.npz", data.shapes)]
    [359]

    Args:
        path: see :func:`read_inputs`.
        shapes: likewise.
        features: likewise.
        rows: largest number of rows of a piece.
        schema: see :func:`read_inputs`.

    Yields:
        The rows in order, one piece or more; none for Parquet without rows.

    Raises:
        DataError: as :func:`read_inputs`.
    """
    path = Path(path)
    if path.suffix != ".parquet":
        yield read_inputs(path, shapes, features, schema)
        return
    table = read_table(path)
    assert isinstance(table, ParquetTable)
    chosen = input_columns(table.schema, shapes, features, str(path), schema)
    wanted = {column for columns in chosen.values() for column in columns} | {"id", ""}
    for piece in table.pieces([name for name in table.column_names if name in wanted], rows):
        yield inputs_of_table(piece, shapes, features, str(path), schema)


def inputs_of_table(
    table: Any,
    shapes: Mapping[str, tuple[int, ...]],
    features: Mapping[str, Sequence[str]] | None,
    where: str,
    schema: Schema | None = None,
) -> Split:
    """:func:`read_inputs` of an Arrow table.

    Args:
        table: an Arrow table, or what gives its columns one by one.
        shapes: see :func:`read_inputs`.
        features: likewise.
        where: what the table is called in errors.
        schema: likewise.

    Raises:
        DataError: as :func:`read_inputs`.
    """
    chosen = input_columns(table.schema, shapes, features, where, schema)
    found = {}
    for m, names in chosen.items():
        columns = (schema or {}).get(m)
        if columns is None:
            found[m] = columns_of(table, names)
        else:
            found[m] = encode_table(m, table, names, columns, where)
    named = next((name for name in ("id", "") if name in table.column_names), None)
    ids = None if named is None else np.asarray(table.column(named).to_pylist())
    return split_of(found, ids, {}, shapes, where)


def split_of(
    flat: Mapping[str, NDArray[np.float32]],
    ids: Array | None,
    lengths: dict[str, NDArray[np.int64]],
    shapes: Mapping[str, tuple[int, ...]],
    where: str,
) -> Split:
    """Rows of modalities in the shapes that a model was built for, without those that are missing.

    Args:
        flat: modality name -> ``(n, …)`` of the model's width.
        ids: of the rows, or None.
        lengths: modality name -> numbers of valid steps.
        shapes: modality name -> shape of one row.
        where: what the source is called in errors.

    Raises:
        DataError: there is no modality, or one does not fit.
    """
    if not flat:
        raise DataError(f"{where} has none of the model's modalities: {', '.join(shapes)}")
    if len({len(x) for x in flat.values()}) > 1:
        raise DataError(f"{where}: modalities differ in rows: { {m: len(x) for m, x in flat.items()} }")
    inputs: dict[str, Features] = {}
    present = {}
    for m, x in flat.items():
        mask = missing_rows(x)
        check_finite(m, x, mask, where)
        # Sequences may be of any length; a model that is not for sequences says itself that they do not fit.
        sequences = x.ndim == 3 and len(shapes[m]) == 2 and x.shape[2] == shapes[m][1]
        if sequences:
            inputs[m] = x
        else:
            width, found = math.prod(shapes[m]), math.prod(x.shape[1:])
            if found != width:
                raise DataError(f"modality {m!r} has width {found}, the model was built for {width}")
            inputs[m] = x.reshape(len(x), *shapes[m])
        if mask is not None:
            present[m] = mask
    return Split(inputs, present, None, ids, lengths)


def _from_archive(
    path: Path, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, NDArray[np.float32]], Array | None, dict[str, NDArray[np.int64]]]:
    arrays = read_arrays(path) if path.suffix == ".npz" else _read_hdf5(path)
    suffix = "" if any(m in arrays for m in shapes) else "_test"
    counts = {len(arrays[m + suffix]) if arrays[m + suffix].ndim else 0 for m in shapes if m + suffix in arrays}
    rows: NDArray[np.int64] | slice = slice(None)
    if suffix == "" and "test_idx" in arrays:
        rows = integers(path, "test_idx", arrays["test_idx"])
        if len(rows) and (rows.min() < 0 or rows.max() >= min(counts, default=0)):
            raise DataError(f"{path}: 'test_idx' points outside of the rows")
    found = {}
    for m in shapes:
        key = m + suffix
        if key in arrays:
            if arrays[key].dtype.kind not in "fiub":
                raise DataError(f"{path}: {key!r} holds {arrays[key].dtype}, expected numbers")
            if arrays[key].ndim == 0:
                raise DataError(f"{path}: {key!r} must be a list, one entry per sample; its shape is ()")
            found[m] = arrays[key][rows].astype(np.float32)
    beside = {m: integers(path, key, arrays[key]) for m in found if (key := f"{m}_len{suffix}") in arrays}
    ids = arrays.get("sample_ids" + suffix)
    for key, values in (("sample_ids", ids), *beside.items()):
        if values is not None and (values.ndim != 1 or len(values) not in counts):
            raise DataError(f"{path}: {key!r} has shape {values.shape}, expected one per row")
    return found, ids[rows] if ids is not None else None, {m: values[rows] for m, values in beside.items()}


def _read_hdf5(path: Path) -> dict[str, Array]:
    with opened(path) as file:
        found = {key: array_of(path, item) for key, item in file.items() if hasattr(item, "dtype")}
        return {key: array.astype(str) if array.dtype.kind in "OS" else array for key, array in found.items()}


def input_columns(
    schema: Any,
    shapes: Mapping[str, tuple[int, ...]],
    features: Mapping[str, Sequence[str]] | None,
    where: str,
    holds: Schema | None = None,
) -> dict[str, tuple[str, ...]]:
    """The columns of a table that hold each modality, for those that it has; see :func:`read_inputs`.

    Args:
        schema: the table's Arrow schema.
        shapes: see :func:`read_inputs`.
        features: likewise.
        where: what the table is called in errors.
        holds: modality name -> what its columns hold, where they are not all numbers.

    Raises:
        DataError: some of a modality's columns are missing, or not numeric.
    """
    names = set(schema.names)
    found = {}
    for m in shapes:
        trained = list((features or {}).get(m, ()))
        lacking = [c for c in trained if c not in names]
        if trained and 0 < len(lacking) < len(trained):
            raise DataError(f"{where} has no column {lacking[0]!r}, which the model's modality {m!r} was trained on")
        columns = trained if trained and not lacking else _columns_of_modality(m, schema.names)
        for column in columns:
            if schema.get_field_index(column) < 0:
                raise DataError(f"{where}: column {column!r} of modality {m!r} occurs more than once")
            kind = schema.field(column).type
            if m not in (holds or {}) and not is_numeric(kind):
                raise DataError(f"{where}: column {column!r} of modality {m!r} is not numeric ({kind})")
        if columns:
            found[m] = tuple(columns)
    return found


def _columns_of_modality(m: str, names: Sequence[str]) -> list[str]:
    """``m:ANYTHING`` in their order, or ``m_0``, ``m_1``, … by number."""
    columns = [c for c in names if c.startswith(f"{m}:")]
    numbered = [c for c in names if c.startswith(f"{m}_") and c[len(m) + 1 :].isdigit()]
    return columns or sorted(numbered, key=lambda c: int(c[len(m) + 1 :]))

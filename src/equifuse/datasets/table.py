"""Rows to predict for, from CSV, Parquet or NumPy archives."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equifuse.datasets.dataset import Array, check_finite, missing_rows
from equifuse.datasets.formats.npz import read_arrays
from equifuse.errors import DataError

SUFFIXES = (".csv", ".parquet", ".npz")


def read_inputs(
    path: str | os.PathLike[str], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.bool_]], Array | None]:
    """Read rows for a model.

    - CSV or Parquet: the columns of modality ``mrna`` start with ``mrna:`` (``mrna:TP53``) or, if there are none such,
      are ``mrna_0``, ``mrna_1``, …; their order in the file is the order of the features (by number in the second
      form). An ``id`` column is kept, other columns are ignored.
    - ``.npz``: arrays named by modality; or a data set file, whose test part is taken.

    A row in which a modality is entirely empty (or NaN) does not have it; a modality without columns is absent
    everywhere.

    Args:
        path: the file.
        shapes: modality name -> shape of one row, as the model was built for.

    Returns:
        Inputs float32 ``(n, *shape)`` (NaN where missing) by modality, presence bool ``(n,)`` of those with missing
        rows, and the ids or None.

    Raises:
        DataError: the file is missing or of an unknown kind, a width does not fit, a value is not a number, or a row
            of a modality is partly empty.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise DataError(f"{path}: unknown kind of file {path.suffix!r}; expected one of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    flat, ids = _from_archive(path, shapes) if path.suffix == ".npz" else _from_table(path, shapes)
    if not flat:
        raise DataError(f"{path} has none of the model's modalities: {', '.join(shapes)}")
    if len({len(x) for x in flat.values()}) > 1:
        raise DataError(f"{path}: modalities differ in rows: { {m: len(x) for m, x in flat.items()} }")
    inputs, present = {}, {}
    for m, x in flat.items():
        width = math.prod(shapes[m])
        found = math.prod(x.shape[1:])
        if found != width:
            raise DataError(f"modality {m!r} has width {found}, the model was built for {width}")
        mask = missing_rows(x)
        check_finite(m, x, mask, str(path))
        inputs[m] = x.reshape(len(x), *shapes[m])
        if mask is not None:
            present[m] = mask
    return inputs, present, ids


def _from_archive(
    path: Path, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, NDArray[np.float32]], Array | None]:
    arrays = read_arrays(path)
    suffix = "" if any(m in arrays for m in shapes) else "_test"
    rows = arrays["test_idx"].astype(np.intp) if suffix == "" and "test_idx" in arrays else slice(None)
    found = {}
    for m in shapes:
        key = m + suffix
        if key in arrays:
            if arrays[key].dtype.kind not in "fiub":
                raise DataError(f"{path}: {key!r} holds {arrays[key].dtype}, expected numbers")
            found[m] = arrays[key][rows].astype(np.float32)
    ids = arrays.get("sample_ids" + suffix)
    return found, ids[rows] if ids is not None else None


def _from_table(
    path: Path, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, NDArray[np.float32]], Array | None]:
    import pyarrow as pa  # noqa: PLC0415

    table = _read_arrow(path)
    found = {}
    for m in shapes:
        columns = [c for c in table.column_names if c.startswith(f"{m}:")]
        if not columns:
            numbered = [c for c in table.column_names if c.startswith(f"{m}_") and c[len(m) + 1 :].isdigit()]
            columns = sorted(numbered, key=lambda c: int(c[len(m) + 1 :]))
        if not columns:
            continue
        values = np.empty((table.num_rows, len(columns)), dtype=np.float32)
        for i, column in enumerate(columns):
            data = table.column(column)
            kind = data.type
            if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
                if not pa.types.is_null(kind):
                    raise DataError(f"{path}: column {column!r} of modality {m!r} is not numeric ({kind})")
                values[:, i] = np.nan
                continue
            values[:, i] = data.cast(pa.float64()).to_numpy()
        found[m] = values
    ids = np.asarray(table.column("id").to_pylist()) if "id" in table.column_names else None
    return found, ids


def _read_arrow(path: Path) -> Any:
    import pyarrow as pa  # noqa: PLC0415

    try:
        if path.suffix == ".parquet":
            from pyarrow import parquet  # noqa: PLC0415

            return parquet.read_table(path)
        from pyarrow import csv  # noqa: PLC0415

        return csv.read_csv(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None

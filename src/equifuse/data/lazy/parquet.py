"""Columns of a Parquet file, read row group by row group; and of Arrow tables in memory."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equifuse.data.lazy.base import BYTES_PER_ROW, Floats, Indices, LazyArray, opened
from equifuse.errors import DataError
from equifuse.extras import require
from equifuse.files import check_fits, parse_errors


class ParquetArray(LazyArray):
    """Columns of a Parquet file, read row group by row group; the latest few are kept.

    Args:
        path: the file.
        columns: the features, in order; numbers, where an empty cell is NaN.
        index: which rows; None for all.

    Raises:
        DataError: not such a file, or a column that is missing or not numeric.
    """

    _KEPT = 4

    def __init__(self, path: Path, columns: tuple[str, ...], index: Indices | None = None) -> None:
        self._path, self._columns = path, columns
        file = _parquet(path)
        for column in columns:
            if column not in file.schema_arrow.names:
                raise DataError(f"{path} has no column {column!r}")
            kind = file.schema_arrow.field(column).type
            if not is_numeric(kind):
                raise DataError(f"{path}: column {column!r} is not numeric ({kind})")
        sizes = rows_of_groups(path, file.metadata)
        check_fits(path, BYTES_PER_ROW * sum(sizes))
        self._ends = np.cumsum(sizes)
        self._cache: OrderedDict[int, Floats] = OrderedDict()
        super().__init__(int(sum(sizes)), (len(columns),), index)

    def _group(self, number: int) -> Floats:
        if number not in self._cache:
            with parse_errors(self._path, "Parquet"):
                table = _parquet(self._path).read_row_group(number, columns=list(self._columns))
            declared = int(self._ends[number] - (self._ends[number - 1] if number else 0))
            if table.num_rows != declared:
                raise DataError(f"{self._path}: row group {number} has {table.num_rows} rows, it declares {declared}")
            self._cache[number] = columns_of(table, self._columns)
            if len(self._cache) > self._KEPT:
                self._cache.popitem(last=False)
        self._cache.move_to_end(number)
        return self._cache[number]

    def _read(self, places: Indices) -> Floats:
        values = np.empty((len(places), *self._shape), dtype=np.float32)
        groups = np.searchsorted(self._ends, places, side="right")
        for number in np.unique(groups):
            here = groups == number
            start = self._ends[number - 1] if number else 0
            values[here] = self._group(int(number))[places[here] - start]
        return values

    def _with(self, index: Indices) -> ParquetArray:
        return ParquetArray(self._path, self._columns, index)

    def __reduce__(self) -> tuple[Any, ...]:
        return ParquetArray, (self._path, self._columns, self._index)


def is_numeric(kind: Any) -> bool:
    """Whether an Arrow type holds numbers (or nothing)."""
    pa = require("train", "pyarrow", "reading and writing tables")

    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_null)
    return any(test(kind) for test in tests)


def rows_of_groups(path: Path, metadata: Any) -> list[int]:
    """How many rows each row group of a Parquet file has, as its metadata say.

    Raises:
        DataError: they contradict each other.
    """
    sizes = [int(metadata.row_group(i).num_rows) for i in range(metadata.num_row_groups)]
    if min(sizes, default=0) < 0 or sum(sizes) != metadata.num_rows:
        raise DataError(f"{path} declares {metadata.num_rows} rows, its row groups {sum(sizes)}; it is damaged")
    return sizes


def as_numbers(column: Any) -> NDArray[np.float64]:
    """An Arrow column as float64 ``(n,)``: NaN where it is empty, whole numbers too large for a float rounded."""
    pa = require("train", "pyarrow", "reading and writing tables")

    numbers: NDArray[np.float64] = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return numbers


def columns_of(table: Any, names: tuple[str, ...]) -> Floats:
    """Numeric columns of an Arrow table as float32 ``(n, len(names))``; what is empty is NaN.

    Raises:
        DataError: a damaged file's column is longer or shorter than the others.
    """
    pa = require("train", "pyarrow", "reading and writing tables")

    values = np.empty((table.num_rows, len(names)), dtype=np.float32)
    for i, name in enumerate(names):
        column = table.column(name)
        if len(column) != table.num_rows:
            raise DataError(f"column {name!r} has {len(column)} values for {table.num_rows} rows")
        if pa.types.is_null(column.type):
            values[:, i] = np.nan
        else:
            with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as such
                values[:, i] = as_numbers(column)
    return values


def _parquet(path: Path) -> Any:
    def opener() -> Any:
        parquet = require("train", "pyarrow.parquet", "reading and writing tables")

        with parse_errors(path, "Parquet"):
            return parquet.ParquetFile(path)

    return opened(path, opener)

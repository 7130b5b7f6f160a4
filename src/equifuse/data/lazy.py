"""Features that stay on disk until their rows are asked for."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equifuse.errors import DataError
from equifuse.files import check_fits, parse_errors

Floats = NDArray[np.float32]
Indices = NDArray[np.intp]
# Bytes that are read at a time where everything is gone through.
_BLOCK_BYTES = 2**24
# Arrays of less than this are read into memory at once.
_SMALL_BYTES = 2**28
# What indices and masks of a row select, wherever its features are.
_BYTES_PER_ROW = 16
# LazyArray at most this far apart are read as one span, and picked from.
_GAP = 16


class LazyArray(ABC):
    """Float32 rows ``(n, *shape)`` on disk; reading some is indexing: ``rows[indices]``.

    Args:
        length: number of rows in the file.
        shape: of one row.
        index: which of the file's rows these are, in order; None for all.
    """

    def __init__(self, length: int, shape: tuple[int, ...], index: Indices | None = None) -> None:
        self._length, self._shape, self._index = length, shape, index

    def __len__(self) -> int:
        return self._length if self._index is None else len(self._index)

    @property
    def shape(self) -> tuple[int, ...]:
        """``(n, *shape)``, as of an array."""
        return (len(self), *self._shape)

    @property
    def ndim(self) -> int:
        """Number of axes, as of an array."""
        return 1 + len(self._shape)

    def __getitem__(self, wanted: Indices | slice) -> Floats:
        """The rows, read now."""
        places = np.arange(len(self))[wanted]
        return self._read(places if self._index is None else self._index[places])

    def select(self, wanted: Indices) -> LazyArray:
        """The same rows as ``self[wanted]``, not read yet."""
        return self._with(wanted if self._index is None else self._index[wanted])

    @abstractmethod
    def _read(self, places: Indices) -> Floats:
        """The file's rows at ``places``, in any order, with repetitions."""

    @abstractmethod
    def _with(self, index: Indices) -> LazyArray:
        """The same file with another index."""


class HDF5Array(LazyArray):
    """A dataset of an HDF5 file.

    Args:
        path: the file.
        key: the dataset in it.
        index: which rows; None for all.

    Raises:
        DataError: no such dataset, or not one of numbers.
    """

    def __init__(self, path: Path, key: str, index: Indices | None = None) -> None:
        self._path, self._key = path, key
        with parse_errors(path, "HDF5"):  # libhdf5 looks at the file only where it is asked about
            found = _hdf5(path).get(key)
            if found is None or not hasattr(found, "shape") or len(found.shape) < 1:
                raise DataError(f"{path} has no array {key!r}; it has {', '.join(sorted(_hdf5(path))[:12])}")
            if found.dtype.kind not in "fiub":
                raise DataError(f"{path}: {key!r} holds {found.dtype}, expected numbers")
        check_fits(path, _BYTES_PER_ROW * found.shape[0])
        super().__init__(found.shape[0], tuple(found.shape[1:]) or (1,), index)

    def _read(self, places: Indices) -> Floats:
        unique, back = np.unique(places, return_inverse=True)
        done = 0
        with parse_errors(self._path, "HDF5"):
            source = _hdf5(self._path)[self._key]
            values = np.empty((len(unique), *self._shape), dtype=np.float32)
            for run in np.split(unique, np.flatnonzero(np.diff(unique) > _GAP) + 1):
                if len(run):  # one read per span, where HDF5 would make one per row
                    slab = source[run[0] : run[-1] + 1]
                    values[done : done + len(run)] = slab[run - run[0]].reshape(len(run), *self._shape)
                    done += len(run)
        return values if np.array_equal(back, np.arange(len(places))) else values[back]

    def _with(self, index: Indices) -> HDF5Array:
        return HDF5Array(self._path, self._key, index)


class NpyArray(LazyArray):
    """A ``.npy`` file, mapped into memory.

    Raises:
        DataError: not such a file, or not one of numbers.
    """

    def __init__(self, path: Path, index: Indices | None = None) -> None:
        self._path = path
        with parse_errors(path, ".npy"):
            self._map: Any = np.load(path, mmap_mode="r", allow_pickle=False)
        if self._map.ndim < 1 or self._map.dtype.kind not in "fiub":
            raise DataError(f"{path} holds {self._map.dtype} of shape {self._map.shape}, expected rows of numbers")
        super().__init__(self._map.shape[0], tuple(self._map.shape[1:]) or (1,), index)

    def _read(self, places: Indices) -> Floats:
        return np.ascontiguousarray(self._map[places], dtype=np.float32).reshape(len(places), *self._shape)

    def _with(self, index: Indices) -> NpyArray:
        return NpyArray(self._path, index)

    def __reduce__(self) -> tuple[Any, ...]:
        return NpyArray, (self._path, self._index)


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
        check_fits(path, _BYTES_PER_ROW * sum(sizes))
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


Features = Floats | LazyArray


def select(features: Features, wanted: Indices) -> Features:
    """``features[wanted]``, without reading what is on disk."""
    return features.select(wanted) if isinstance(features, LazyArray) else features[wanted]


def blocks(features: Features) -> Iterator[tuple[int, Floats]]:
    """All rows, in order, as pieces of a few megabytes: the first row's number, and the rows."""
    if not isinstance(features, LazyArray):
        yield 0, features
        return
    size = max(1, _BLOCK_BYTES // max(1, 4 * int(np.prod(features.shape[1:]))))
    for start in range(0, len(features), size):
        yield start, features[start : start + size]


def in_memory(features: Features) -> Floats:
    """All rows as an array."""
    return features[:] if isinstance(features, LazyArray) else features


def loaded_if_small(features: Features) -> Features:
    """The rows as an array if that is small (256 MiB), else as they are, on disk."""
    return features if 4 * int(np.prod(features.shape)) > _SMALL_BYTES else in_memory(features)


def is_numeric(kind: Any) -> bool:
    """Whether an Arrow type holds numbers (or nothing)."""
    import pyarrow as pa  # noqa: PLC0415

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
    import pyarrow as pa  # noqa: PLC0415

    numbers: NDArray[np.float64] = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return numbers


def columns_of(table: Any, names: tuple[str, ...]) -> Floats:
    """Numeric columns of an Arrow table as float32 ``(n, len(names))``; what is empty is NaN.

    Raises:
        DataError: a damaged file's column is longer or shorter than the others.
    """
    import pyarrow as pa  # noqa: PLC0415

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


# Open files and when they were written, by process: a file opened before a fork must not be read after it.
_OPEN: dict[tuple[int, str], tuple[int, Any]] = {}


def _opened(path: Path, opener: Callable[[], Any]) -> Any:
    try:
        stamp = path.stat().st_mtime_ns
    except OSError:
        raise DataError(f"no such file: {path}") from None
    key = (os.getpid(), str(path))
    before, file = _OPEN.get(key, (None, None))
    if before != stamp:
        if file is not None:
            file.close()
        _OPEN[key] = stamp, opener()
    return _OPEN[key][1]


def _hdf5(path: Path) -> Any:
    def opener() -> Any:
        import h5py  # noqa: PLC0415

        with parse_errors(path, "HDF5"):
            return h5py.File(path, "r")

    return _opened(path, opener)


def _parquet(path: Path) -> Any:
    def opener() -> Any:
        from pyarrow import parquet  # noqa: PLC0415

        with parse_errors(path, "Parquet"):
            return parquet.ParquetFile(path)

    return _opened(path, opener)

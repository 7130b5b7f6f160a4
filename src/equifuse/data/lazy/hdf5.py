"""A dataset of an HDF5 file, read as its rows are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from equifuse.data.lazy.base import BYTES_PER_ROW, Floats, Indices, LazyArray, opened
from equifuse.data.selfcontained import open_hdf5
from equifuse.errors import DataError
from equifuse.files import check_fits, parse_errors

# LazyArray at most this far apart are read as one span, and picked from.
_GAP = 16


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
        check_fits(path, BYTES_PER_ROW * found.shape[0])
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


def _hdf5(path: Path) -> Any:
    def opener() -> Any:
        with parse_errors(path, "HDF5"):
            return open_hdf5(path)

    return opened(path, opener)

"""A ``.npy`` file, mapped into memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from equifuse.data.lazy.base import Floats, Indices, LazyArray
from equifuse.errors import DataError
from equifuse.files import parse_errors


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
